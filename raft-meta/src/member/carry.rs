//! A noted change of members, carried out by whoever leads `meta`, step by step, until every group has it
//! (R34). A coordinator that dies leaves nothing to repair: the next leader finds the note and goes on. Every
//! step may be repeated.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use millet_proto::wire::{self, bootstrap_client::BootstrapClient};

use super::{
    Running,
    change::ANSWER,
    farewell::farewell,
    quorum,
    running::{GROUPS, group_name},
    steps::Step,
};
use crate::{
    identity::Membership,
    log::GroupId,
    machine::{Command, MemberChange, MemberStep, Reply},
    raft::Look,
};

/// Between two looks at a change under way; also what a new voter may lag behind, in time.
const LOOK: Duration = Duration::from_millis(100);
/// What a coordinator remembers between two looks; lost with it, and learnt again.
#[derive(Default)]
struct Seen {
    change: u64,
    /// Who comes is there, as itself.
    there: bool,
    /// Where the logs ended at the last look.
    ends: BTreeMap<u32, u64>,
}

/// Carries out what is noted, while this member leads `meta`; ends with the member.
pub(super) async fn drive(running: Weak<Running>, place: Membership) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(running) = running.upgrade() else { return };
        if !running.leadership().established {
            seen = Seen::default();
            continue;
        }
        let Some(change) = running.machine.read().member_change().cloned() else {
            running.stage.send_if_modified(|stage| !std::mem::take(stage).is_empty());
            continue;
        };
        if seen.change != change.id || change.add.is_none() {
            seen = Seen { change: change.id, ..Seen::default() };
        }
        let stage = match advance(&running, &place, &change, &mut seen).await {
            Ok(stage) => stage,
            Err(why) => format!("{why}; trying again"),
        };
        running.stage.send_if_modified(|was| {
            *was != stage && {
                tracing::info!(%change, stage, "members change");
                *was = stage;
                true
            }
        });
    }
}

/// As far as a change can go now; what it waits for.
async fn advance(
    running: &Arc<Running>,
    place: &Membership,
    change: &MemberChange,
    seen: &mut Seen,
) -> Result<String, String> {
    if let Some((id, addr)) = &change.add
        && let Some(waits) = bring(running, place, change, (*id, addr), seen).await?
    {
        return Ok(waits);
    }
    if let Some(old) = change.remove
        && let Some(waits) = relieve(running, old).await?
    {
        return Ok(waits);
    }
    match vote(running, change).await? {
        Some(waits) => Ok(waits),
        None => end(running, change).await.map(|()| String::new()),
    }
}

/// Brings in who comes and lets it catch up. An id that a group knows is only looked at: an empty directory
/// under it would have forgotten what its member has acknowledged, and the votes that it gave.
async fn bring(
    running: &Running,
    place: &Membership,
    change: &MemberChange,
    (id, addr): (u64, &str),
    seen: &mut Seen,
) -> Result<Option<String>, String> {
    let looks = running.confirmed().await?;
    let knows = |l: &Look| l.node(id).is_some();
    let votes = looks.iter().any(|(_, l)| l.node(id).is_some_and(|n| n.voter || n.leaving));
    // Who votes already need not be there, nor anybody from the point of no return on: the others may be enough,
    // and the change can only be completed. Both groups have known it since before: it is never adopted again.
    let needed = !votes && !is_final(running, change);
    if !seen.there && needed {
        let found = running.inspect(addr, ANSWER).await;
        let found = found.map_err(|why| format!("member {id} at {addr} does not answer ({why})"))?;
        let node = comes(running, change, found.node).await?;
        if looks.iter().any(|(_, l)| knows(l)) {
            itself(running, &found, id, addr)?;
        } else {
            adopt(running, place, (id, addr), node).await?;
        }
        seen.there = true;
    }
    learn(running, change, (id, addr), needed, seen).await
}

/// Notes which data directory comes, unless one is noted already; which one that is. An id is given to one
/// directory only: coordinators may find several at an address, one after the other, each of them empty.
/// Only who leads `meta` now can note it, and only for the change that is under way.
async fn comes(running: &Running, change: &MemberChange, found: u64) -> Result<u64, String> {
    let noted = {
        let machine = running.machine.read();
        machine.member_comes().filter(|_| machine.member_change() == Some(change))
    };
    let node = noted.unwrap_or(found);
    if node == 0 {
        return Err(
            "which data directory comes is not known: it was given up, or the new member must be upgraded"
                .into(),
        );
    }
    note(running, MemberStep::Comes { id: change.id, node }).await.map(|_| node)
}

/// Makes sure that who was brought in before is still there.
fn itself(running: &Running, found: &wire::InspectResponse, id: u64, addr: &str) -> Result<(), String> {
    if running.is_itself(found, id) {
        return Ok(());
    }
    Err(match found.cluster.is_empty() {
        true => format!("member {id} at {addr} has lost its data since it came: cancel, then begin anew"),
        false => format!("member {id} is not at {addr}, but member {} of {}", found.member, found.cluster),
    })
}

/// Brings the new member into the cluster; it takes part in nothing yet.
async fn adopt(
    running: &Running,
    place: &Membership,
    (id, addr): (u64, &str),
    node: u64,
) -> Result<(), String> {
    let members = place.founders.iter();
    let request = wire::AdoptRequest {
        cluster: place.cluster.clone(),
        member: id,
        secret: place.secret.0.to_vec().into(),
        members: members.map(|(id, addr)| wire::MemberAddress { id: *id, addr: addr.clone() }).collect(),
        addr: addr.to_owned(),
        node,
    };
    let mut client = BootstrapClient::new(running.forward.channel(addr));
    match tokio::time::timeout(ANSWER, client.adopt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(format!("member {id} at {addr} does not join: {}", status.message())),
        Err(_) => Err(format!("member {id} at {addr} does not answer")),
    }
}

/// Sends every group's log to the new member, until it is no further behind than one look. If it is
/// not `needed`, it is not waited for.
async fn learn(
    running: &Running,
    change: &MemberChange,
    (id, addr): (u64, &str),
    needed: bool,
    seen: &mut Seen,
) -> Result<Option<String>, String> {
    let mut waits = None;
    for group in GROUPS {
        let mut look = running.step(group, Step::Look).await?;
        if look.node(id).is_none() {
            // Also once more: a coordinator that was deposed while it waited for the adoption stops here, and
            // leaves no learner of a change that was given up.
            let noted = running.machine.read().member_comes();
            comes(running, change, noted.unwrap_or(0)).await?;
            look = running.step(group, Step::Learner { id, addr: addr.to_owned() }).await?;
        }
        let end = seen.ends.insert(group.0, look.last_log);
        let Some(node) = look.node(id) else { return Err("the new member is not in the group yet".into()) };
        if needed && (node.matched == 0 || end.is_none_or(|end| node.matched < end)) {
            let text = format!(
                "member {id} catches up: group {} at entry {} of {}",
                group_name(group),
                node.matched,
                look.last_log
            );
            waits.get_or_insert(text);
        }
    }
    Ok(waits)
}

/// Takes leadership off who goes.
async fn relieve(running: &Running, old: u64) -> Result<Option<String>, String> {
    for group in GROUPS {
        let look = running.step(group, Step::Look).await?;
        if look.leader == old && look.nodes.iter().any(|n| n.voter && n.id != old) {
            running.step(group, Step::Transfer { to: None, avoid: vec![old] }).await?;
            return Ok(Some(format!("group {} gets another leader", group_name(group))));
        }
    }
    Ok(None)
}

/// Commits a step of a change; the change as it is then, if it goes on.
async fn note(running: &Running, step: MemberStep) -> Result<Option<MemberChange>, String> {
    running.raise_level().await.map_err(|e| e.to_string())?;
    match running.put(Command::Members(step)).await.map_err(|e| e.to_string())? {
        Reply::Change(change) => Ok(Some(change)),
        Reply::Done => Ok(None),
        Reply::Refused(why) => Err(why),
        other => Err(format!("the state machine answered {other:?}")),
    }
}

/// Whether a group has a change, committed.
fn has(look: &Look, change: &MemberChange) -> bool {
    let come = change.add.as_ref().is_none_or(|(id, _)| look.node(*id).is_some_and(|n| n.voter));
    come && change.remove.is_none_or(|id| look.node(id).is_none()) && !look.joint && look.settled
}

/// Whether a group can commit its new voters; what it waits for.
fn can_commit(group: GroupId, look: &Look, change: &MemberChange) -> Result<(), String> {
    // Once begun, it is to be ended whoever answers.
    if look.joint {
        return Ok(());
    }
    let comes = change.add.as_ref().map(|(id, _)| *id);
    let will = |id: u64, voter: bool| Some(id) != change.remove && (voter || Some(id) == comes);
    let now: Vec<_> = look.nodes.iter().filter(|n| n.voter).map(|n| (n.id, n.answers)).collect();
    let then = look.nodes.iter().filter(|n| will(n.id, n.voter)).map(|n| (n.id, n.answers));
    quorum::joint(group_name(group), &now, &then.collect::<Vec<_>>())
}

/// Whether this very change can only be completed, as applied here.
fn is_final(running: &Running, change: &MemberChange) -> bool {
    let machine = running.machine.read();
    machine.member_change() == Some(change) && machine.member_change_is_final()
}

/// Gives one group that lacks them its new voters; `None` once every group has them. One group a look: what
/// became of it, and who answers then, is seen before the next one follows.
async fn vote(running: &Running, change: &MemberChange) -> Result<Option<String>, String> {
    // Confirmed: a leader that was deposed may still show voters that no quorum has.
    let mut looks = running.confirmed().await?;
    if looks.iter().all(|(_, look)| has(look, change)) {
        return Ok(None);
    }
    running.probe(&mut looks).await;
    let mut lacking = looks.iter().filter(|(_, look)| !has(look, change));
    // Before the first one all must be able to: from then on there is no way back.
    if !is_final(running, change) {
        for (group, look) in lacking.clone() {
            if let Err(waits) = can_commit(*group, look, change) {
                return Ok(Some(waits));
            }
        }
    }
    let Some((group, look)) = lacking.next() else { return Ok(None) };
    if let Err(waits) = can_commit(*group, look, change) {
        return Ok(Some(waits));
    }
    // Before every step, also once more: only who leads `meta` now can commit it, and only for the change that
    // is under way. A coordinator that was deposed while it looked stops here.
    no_return(running, change, &looks).await?;
    let add = change.add.as_ref().map(|(id, _)| *id);
    running.step(*group, Step::Voters { add, remove: change.remove }).await?;
    Ok(Some(format!("group {} has its new voters", group_name(*group))))
}

/// Notes that the change can only be completed, unless it was given up just before.
async fn no_return(
    running: &Running,
    change: &MemberChange,
    looks: &[(GroupId, Look)],
) -> Result<(), String> {
    let leaver = change.remove.and_then(|old| looks.iter().find_map(|(_, look)| look.node(old)));
    let leaver = leaver.map(|node| node.addr.clone());
    match note(running, MemberStep::NoReturn { id: change.id, leaver }).await? {
        Some(now) if now == *change => Ok(()),
        _ => Err("it was given up".into()),
    }
}

/// Notes what was carried out, and tells who goes.
async fn end(running: &Arc<Running>, change: &MemberChange) -> Result<(), String> {
    let leaver = running.machine.read().member_leaver().map(str::to_owned);
    note(running, MemberStep::Ended { change: change.clone() }).await?;
    tracing::info!(%change, "members changed: every group has it");
    if let (Some(id), Some(addr)) = (change.remove, leaver) {
        running.core.spawn(farewell(Arc::downgrade(running), id, addr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Instant};

    use millet_core::{BootTime, Clock};
    use millet_testkit::{SeededEntropy, SimDisk, StdThreads, until_async};

    use super::*;
    use crate::{EngineKind, MemberOptions, machine::Secret};

    const LIMIT: Duration = Duration::from_secs(20);

    struct Real(Instant);
    impl Clock for Real {
        fn boottime(&self) -> BootTime {
            BootTime(u64::try_from(self.0.elapsed().as_nanos()).expect("short") + 1)
        }
        fn monotonic(&self) -> Duration {
            self.0.elapsed()
        }
        fn wall_ms(&self) -> u64 {
            1_700_000_000_000
        }
    }

    /// One member that leads both groups and coordinates nothing by itself.
    async fn alone() -> (Running, Membership) {
        let addr = "127.0.0.1:1".to_owned();
        let dial = |addr: &str| {
            let to = tonic::transport::Endpoint::from_shared(format!("http://{addr}"));
            to.expect("an address").connect_lazy()
        };
        let options = MemberOptions {
            dir: PathBuf::from("/data"),
            addr: addr.clone(),
            cluster: None,
            clock: Arc::new(Real(Instant::now())),
            entropy: Arc::new(SeededEntropy::new(1)),
            disk: Arc::new(SimDisk::new()),
            threads: Arc::new(StdThreads),
            dial: Arc::new(dial),
            engine: EngineKind::Redb,
            snapshot_every: MemberOptions::SNAPSHOT_EVERY,
            log_segment_bytes: MemberOptions::LOG_SEGMENT_BYTES,
            timing: Default::default(),
            generation: 1,
        };
        let place = Membership {
            cluster: "c1".into(),
            member: 1,
            secret: Secret([9; 16]),
            founders: vec![(1, addr)],
        };
        let running = Running::start(&options, &place).await.expect("fresh");
        running.initialize(&place).await.expect("fresh");
        running.ready().await;
        let made = async || running.raise_level().await.is_ok() && running.confirmed().await.is_ok();
        until_async("it leads", made, LIMIT).await;
        (running, place)
    }

    async fn noted(running: &Running, step: MemberStep) -> MemberChange {
        match running.put(Command::Members(step)).await.expect("committed") {
            Reply::Change(change) => change,
            other => panic!("{other:?}"),
        }
    }

    async fn learner(running: &Running, id: u64) {
        for group in GROUPS {
            let step = Step::Learner { id, addr: format!("127.0.0.1:{id}") };
            running.step(group, step).await.expect("committed");
        }
    }

    /// R34: a coordinator was slow while its change was given up and another one became final. What it has
    /// left to do is not done: the groups would end with different members.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r34_a_deposed_coordinator_gives_no_group_the_voters_of_an_ended_change() {
        let (running, _) = alone().await;
        learner(&running, 7).await;
        let old = noted(&running, MemberStep::Begin { above: 9, add: None, remove: Some(7) }).await;
        let given_up = noted(&running, MemberStep::Cancel { id: old.id }).await;
        running.put(Command::Members(MemberStep::Ended { change: given_up })).await.expect("committed");
        let new = noted(&running, MemberStep::Begin { above: 9, add: None, remove: Some(8) }).await;
        noted(&running, MemberStep::NoReturn { id: new.id, leaver: None }).await;
        let why = vote(&running, &old).await.expect_err("its change is not under way");
        assert!(why.contains("not under way"), "{why}");
        for (group, look) in running.confirmed().await.expect("it leads") {
            assert!(look.node(7).is_some(), "group {} lost member 7", group.0);
        }
        running.stop(false).await.expect("stopped");
    }

    /// R34: who comes is lost between the point of no return and the first group's change. Nobody takes its
    /// id again, and it is not waited for: the others are enough to end the change, and it is just a member
    /// that does not answer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r34_a_final_change_does_not_wait_for_a_newcomer_that_is_lost() {
        let (running, place) = alone().await;
        let begin = MemberStep::Begin { above: 3, add: Some("127.0.0.1:4".into()), remove: None };
        let change = noted(&running, begin).await;
        learner(&running, 4).await;
        let mut seen = Seen::default();
        let why = bring(&running, &place, &change, (4, "127.0.0.1:4"), &mut seen).await;
        assert!(why.is_err_and(|why| why.contains("does not answer")), "before it is waited for");
        noted(&running, MemberStep::NoReturn { id: change.id, leaver: None }).await;
        let waits = bring(&running, &place, &change, (4, "127.0.0.1:4"), &mut seen).await;
        assert_eq!(waits, Ok(None));
        running.stop(false).await.expect("stopped");
    }

    /// R34: a coordinator waited for an adoption while its change was given up and ended. It adds no learner,
    /// which nobody would ever take out again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r34_a_deposed_coordinator_leaves_no_learner_of_a_change_that_was_given_up() {
        let (running, _) = alone().await;
        let begin = MemberStep::Begin { above: 3, add: Some("127.0.0.1:4".into()), remove: None };
        let change = noted(&running, begin).await;
        assert_eq!(comes(&running, &change, 77).await, Ok(77));
        assert_eq!(comes(&running, &change, 78).await, Ok(77), "the first one");
        let given_up = noted(&running, MemberStep::Cancel { id: change.id }).await;
        running.put(Command::Members(MemberStep::Ended { change: given_up })).await.expect("committed");
        let who = (4, "127.0.0.1:4");
        let late = learn(&running, &change, who, true, &mut Seen::default()).await;
        assert!(late.is_err(), "{late:?}");
        for (group, look) in running.confirmed().await.expect("it leads") {
            assert!(look.node(4).is_none(), "group {} has a learner", group.0);
        }
        running.stop(false).await.expect("stopped");
    }
}
