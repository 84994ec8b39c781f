//! Changes that are half-way: a crash between the two groups, giving up, disks that are lost meanwhile, and
//! members that were away when they were taken out.

use millet_proto::wire::{
    AddMemberRequest, CancelChangeRequest, GroupStepRequest, MemberChanged, MembersRequest, MembersStatus,
    ReplaceMemberRequest, TransferLeadershipRequest,
    group_step_request::{Learner, Step, Voters},
    member_steps_client::MemberStepsClient,
};
use tonic::Status;

use super::*;

/// How the groups stand, as asked once through one member.
async fn seen(cluster: &Cluster, through: usize) -> Option<MembersStatus> {
    let ask = MembersRequest { cluster: cluster.id.clone() };
    let mut admin = cluster.admin(through);
    let answer = tokio::time::timeout(Duration::from_secs(2), admin.status(ask)).await.ok()?;
    answer.ok().map(tonic::Response::into_inner)
}

/// Whether a member votes in `meta` and in `state`.
fn votes(status: &MembersStatus, member: u64) -> [bool; 2] {
    [0, 1].map(|group: usize| status.groups[group].nodes.iter().any(|n| n.id == member && n.voter))
}

async fn cancel(cluster: &Cluster, through: usize) -> Result<MemberChanged, Status> {
    cancel_only(cluster, through, 0).await
}

async fn cancel_only(cluster: &Cluster, through: usize, change: u64) -> Result<MemberChanged, Status> {
    let ask = CancelChangeRequest { cluster: cluster.id.clone(), limit_ms: 20_000, change };
    cluster.admin(through).cancel(ask).await.map(tonic::Response::into_inner)
}

/// Leaders of the two groups on two members, by position; the third one leads nothing.
async fn spread(cluster: &Cluster) -> [usize; 3] {
    let ask = TransferLeadershipRequest { cluster: cluster.id.clone(), spread: true, ..Default::default() };
    let apart = async || {
        let _ = cluster.admin(0).transfer(ask.clone()).await;
        let groups = cluster.groups(0).await.groups;
        let at = |n: usize| usize::try_from(groups[n].leader - 1).unwrap();
        (at(0) != at(1)).then(|| [at(0), at(1), 3 - at(0) - at(1)])
    };
    millet_testkit::until_some("two members lead", apart, LIMIT).await
}

/// Does a step as a coordinator does that dies right behind it, at a group's leader.
async fn step(cluster: &Cluster, group: usize, step: Step) {
    let done = async || {
        let leader = cluster.groups(0).await.groups[group].leader;
        let at = cluster.addrs[usize::try_from(leader - 1).unwrap()].clone();
        let request = GroupStepRequest {
            cluster: cluster.id.clone(),
            to: leader,
            group: u32::try_from(group).unwrap(),
            step: Some(step.clone()),
        };
        MemberStepsClient::new(cluster::dial()(&at)).step(request).await.is_ok()
    };
    until_async("the step is done", done, LIMIT).await;
}

type Asked = JoinHandle<Result<MemberChanged, Status>>;

/// Begins to replace `old` by a member that answers as a fresh one and does not let itself be adopted; it is
/// gone then, its data lost. What the request will answer; the new one (member 4) is at the last address.
async fn held_at_the_adoption(cluster: &mut Cluster, old: usize) -> Asked {
    cluster.settings.cluster = Some("another".into());
    let by = cluster.fresh().await;
    cluster.settings.cluster = None;
    let (id, addr) = (old as u64 + 1, cluster.addrs[by].clone());
    let ask = ReplaceMemberRequest { cluster: cluster.id.clone(), member: id, addr, limit_ms: 60_000 };
    let through = (old + 1) % 3;
    let mut admin = cluster.admin(through);
    let asked = tokio::spawn(async move { admin.replace(ask).await.map(tonic::Response::into_inner) });
    let held = async || {
        seen(cluster, through).await.is_some_and(|s| s.stage.contains("is meant for cluster another"))
    };
    until_async("it is held at the adoption", held, LIMIT).await;
    cluster.kill(by).await;
    asked
}

/// The same, and the new one gets a vote in `meta` only, as from a coordinator that dies before it comes to
/// `state`.
async fn half_a_replacement(cluster: &mut Cluster, old: usize) -> Asked {
    let asked = held_at_the_adoption(cluster, old).await;
    step(cluster, 0, Step::Learner(Learner { id: 4, addr: cluster.addrs[3].clone() })).await;
    step(cluster, 0, Step::Voters(Voters { add: 4, remove: old as u64 + 1 })).await;
    asked
}

/// R34: a newcomer lost its disk while it copied. What it had acknowledged counts at the groups' leaders: an
/// empty directory is not taken for it. The change waits and says so, and is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_newcomer_that_lost_its_disk_while_it_copied_begins_anew() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let [_, _, old] = spread(&cluster).await;
    let through = (old + 1) % 3;
    let asked = held_at_the_adoption(&mut cluster, old).await;
    step(&cluster, 0, Step::Learner(Learner { id: 4, addr: cluster.addrs[3].clone() })).await;
    let fresh = cluster.fresh_at(&cluster.addrs[3].clone()).await;
    let noticed = async || {
        let stage = seen(&cluster, through).await.map(|s| s.stage).unwrap_or_default();
        stage.contains("has lost its data since it came: cancel, then begin anew")
    };
    until_async("the change says that it waits", noticed, LIMIT).await;
    assert_eq!(cluster.member(fresh).membership(), None, "it is nobody's member");
    // A late request for an earlier change does not give this one up.
    let under_way = cluster.groups(through).await.change.unwrap().id;
    let late = cancel_only(&cluster, through, under_way - 1).await.unwrap_err();
    assert!(late.message().contains("was not given up"), "{late}");
    assert!(cancel_only(&cluster, through, under_way).await.unwrap().done);
    assert_eq!(asked.await.unwrap().unwrap_err().code(), Code::Aborted);
    assert_eq!(cluster.voters(through).await, [[1, 2, 3], [1, 2, 3]]);
    assert_eq!(cluster.replace(through, old as u64 + 1, fresh).await.unwrap().member, 5);
    cluster.end().await;
}

/// R34, G2: one coordinator chose a directory, and another one is at that address before it is adopted, empty
/// too. It is never given the same id: the first one may have been adopted after all, and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_an_id_is_given_to_one_data_directory_only() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let [_, _, old] = spread(&cluster).await;
    let through = (old + 1) % 3;
    let asked = held_at_the_adoption(&mut cluster, old).await;
    let fresh = cluster.fresh_at(&cluster.addrs[3].clone()).await;
    let noticed = async || {
        let stage = seen(&cluster, through).await.map(|s| s.stage).unwrap_or_default();
        stage.contains("is meant for another data directory")
    };
    until_async("the change says that it waits", noticed, LIMIT).await;
    assert_eq!(cluster.member(fresh).membership(), None, "it is nobody's member");
    assert!(cancel(&cluster, through).await.unwrap().done);
    assert_eq!(asked.await.unwrap().unwrap_err().code(), Code::Aborted);
    assert_eq!(cluster.replace(through, old as u64 + 1, fresh).await.unwrap().member, 5);
    cluster.end().await;
}

/// R34, G2: the new member votes in one group already, and its disk is lost. The fresh process at its address
/// is never taken for it: it would have forgotten votes and acknowledged entries. The change is completed
/// without it, and the fresh one comes in under an id of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_voter_that_lost_its_disk_is_never_adopted_under_its_old_id() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let [_, _, old] = spread(&cluster).await;
    let asked = half_a_replacement(&mut cluster, old).await;
    let fresh = cluster.fresh_at(&cluster.addrs[3].clone()).await;
    let done = asked.await.unwrap().unwrap();
    assert_eq!((done.member, done.done), (4, true));
    let mut voters: Vec<u64> = (1..=3).filter(|id| *id != old as u64 + 1).collect();
    voters.push(4);
    let through = (old + 1) % 3;
    assert_eq!(cluster.voters(through).await, [voters.clone(), voters.clone()]);
    assert_eq!(cluster.member(fresh).membership(), None, "it is nobody's member");
    let replaced = cluster.replace(through, 4, fresh).await.unwrap();
    assert_eq!((replaced.member, replaced.done), (5, true));
    *voters.last_mut().unwrap() = 5;
    assert_eq!(cluster.voters(through).await, [voters.clone(), voters]);
    cluster.end().await;
}

/// R34: one group has the new voters: the change can only be completed, and is. Some attempts, as it may be
/// completed before it is to be given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_change_that_one_group_has_cannot_be_given_up() {
    for _ in 0..5 {
        if refused_half_way().await {
            return;
        }
    }
    panic!("it was always completed first");
}

/// Whether giving up came in time to be refused.
async fn refused_half_way() -> bool {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let [_, _, old] = spread(&cluster).await;
    let through = (old + 1) % 3;
    let asked = half_a_replacement(&mut cluster, old).await;
    let refused = cancel(&cluster, through).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let why = refused.message();
    let in_time = why.contains("can only be completed");
    assert!(in_time || why.contains("no change of members"), "{why}");
    assert!(asked.await.unwrap().unwrap().done);
    let groups = cluster.voters(through).await;
    assert!(groups[0] == groups[1] && groups[0].contains(&4), "{groups:?}");
    cluster.end().await;
    in_time
}

/// R34: the coordinator dies exactly between the two groups' changes: `meta` has its new voters, `state` its
/// old ones. The next leader completes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_crash_between_the_two_groups_changes_is_completed_by_the_next_leader() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    let [coordinator, other, gone] = spread(&cluster).await;
    let writer = Writer::start(store.clone(), session, 20, 100);
    let by = cluster.fresh().await;
    let ask = ReplaceMemberRequest {
        cluster: cluster.id.clone(),
        member: gone as u64 + 1,
        addr: cluster.addrs[by].clone(),
        limit_ms: 60_000,
    };
    let mut admin = cluster.admin(other);
    let asked = tokio::spawn(async move { admin.replace(ask).await.map(tonic::Response::into_inner) });
    let between = async || seen(&cluster, other).await.is_some_and(|s| votes(&s, 4)[0]);
    until_async("meta has its new voters", between, LIMIT).await;
    cluster.kill(coordinator).await;
    // Its own group is led by `other`, which knows who votes in it; the next leader of `meta` takes at least
    // an election.
    let at_the_crash = seen(&cluster, other).await.expect("it answers");
    assert_eq!(votes(&at_the_crash, 4), [true, false], "the crash came too late: {at_the_crash:?}");
    assert_eq!(votes(&at_the_crash, gone as u64 + 1), [false, true]);
    let done = asked.await.unwrap().unwrap();
    assert_eq!((done.member, done.done), (4, true));
    let mut voters = vec![coordinator as u64 + 1, other as u64 + 1, 4];
    voters.sort_unstable();
    assert_eq!(cluster.voters(by).await, [voters.clone(), voters]);
    assert_eq!(cluster.groups(by).await.change, None);
    assert!(writer.check(&client(&cluster, &[other, by]), session).await > 0);
    cluster.end().await;
}

/// A member that was away while it was taken out asks for votes when it comes back. Nobody remembers to tell
/// it but the log: it learns that it is out, stops, and its directory is refused from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_removed_member_that_comes_back_learns_that_it_is_out() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    cluster.kill(2).await;
    let removed = async || cluster.remove(0, 3, "").await.is_ok_and(|r| r.done);
    until_async("it is removed", removed, LIMIT).await;
    // With both of the others gone at once, whoever was to tell it has forgotten.
    for n in [0, 1] {
        cluster.kill(n).await;
    }
    for n in [0, 1] {
        cluster.start(n).await;
    }
    assert_eq!(cluster.voters(0).await, [[1, 2], [1, 2]]);
    cluster.start(2).await;
    let out = async || cluster.member(2).status().is_none();
    until_async("it has stopped taking part", out, LIMIT).await;
    cluster.kill(2).await;
    let options = cluster::options(cluster.dirs[2].path().to_owned(), &cluster.addrs[2], &cluster.settings);
    let refused = async || {
        let started = millet_raft_meta::Member::start(options.clone()).await;
        started.err().map(|e| e.to_string()).filter(|e| !e.contains("locked"))
    };
    let why = millet_testkit::until_some("it is refused", refused, LIMIT).await;
    assert!(why.contains("has left it for good"), "{why}");
    cluster.end().await;
}

/// A newcomer whose change was given up while it was away asks for no votes: it is told until it has heard it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_newcomer_that_was_away_when_its_change_was_given_up_is_told() {
    let mut cluster = Cluster::of(1, Settings::default()).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    let filler = Writer::start(store.clone(), session, 48, 256 * 1024);
    let grown = async || store.open(&player(47), "main", token(session)).await.is_ok_and(|s| s.version.0 > 0);
    until_async("the state has grown", grown, LIMIT).await;
    filler.check(&store, session).await;
    let by = cluster.fresh().await;
    let ask =
        AddMemberRequest { cluster: cluster.id.clone(), addr: cluster.addrs[by].clone(), limit_ms: 60_000 };
    let mut admin = cluster.admin(0);
    let asked = tokio::spawn(async move { admin.add(ask).await });
    let adopted = async || cluster.member(by).membership().is_some();
    until_async("it has been adopted", adopted, LIMIT).await;
    cluster.kill(by).await;
    assert!(cancel(&cluster, 0).await.unwrap().done, "before it had caught up");
    assert_eq!(asked.await.unwrap().unwrap_err().code(), Code::Aborted);
    assert_eq!(cluster.voters(0).await, [[1], [1]]);
    cluster.start(by).await;
    let out = async || cluster.member(by).status().is_none();
    until_async("it has been told", out, LIMIT).await;
    cluster.end().await;
}
