//! The holder's lease book against a metadata store in miniature: R1 in both schedules that break it, R30,
//! and any order of delivery.

use millet_core::{GrainId, GrainType, Grant, NodeId, SessionId};
use millet_directory::{
    Acquired, Holder,
    leases::{AcquireId, Acquisition, LeaseBook},
};
use proptest::prelude::*;

const S1: SessionId = SessionId(1);
const S2: SessionId = SessionId(2);

fn grain() -> GrainId {
    GrainId::new(GrainType::new("t.G").expect("a name"), 1)
}
fn grant(index: u64) -> Grant {
    Grant { generation: 1, index }
}
fn book() -> LeaseBook {
    let mut book = LeaseBook::default();
    book.session(Some(S1));
    book
}

/// R1, first schedule: the release of a grant is queued, a call comes before it has left, the store still says
/// "granted 1". The grant is dead all the same.
#[test]
fn r1_a_queued_release_kills_its_grant_before_it_is_sent() {
    let mut book = book();
    assert!(book.give_up(&grain(), S1, grant(1)));
    let id = book.acquire_sent(&grain());
    let meaning = book.acquire_answered(&grain(), id, S1, Acquired::Granted(grant(1)));
    assert_eq!(meaning, Acquisition::AskAgain);
    book.hand_back_answered(&grain(), S1);
    let id = book.acquire_sent(&grain());
    let meaning = book.acquire_answered(&grain(), id, S1, Acquired::Granted(grant(9)));
    assert_eq!(meaning, Acquisition::Use(grant(9)));
}

/// R1, second schedule: the acquire overtakes the release, whose answer comes first: the mark outlives that answer,
/// until every acquire sent before it is answered.
#[test]
fn r1_the_mark_is_kept_until_every_earlier_acquire_is_answered() {
    let mut book = book();
    book.give_up(&grain(), S1, grant(1));
    let overtakes = book.acquire_sent(&grain());
    book.hand_back_answered(&grain(), S1);
    let meaning = book.acquire_answered(&grain(), overtakes, S1, Acquired::Granted(grant(1)));
    assert_eq!(meaning, Acquisition::AskAgain);
    assert_eq!(book.hand_backs(), 0);
}

/// The book forgets a grain as soon as nothing about it is under way: idle and held grains cost nothing.
#[test]
fn the_book_holds_only_grains_with_requests_under_way() {
    let mut book = book();
    let empty = format!("{book:?}");
    let id = book.acquire_sent(&grain());
    book.acquire_answered(&grain(), id, S1, Acquired::Granted(grant(1)));
    book.give_up(&grain(), S1, grant(1));
    book.hand_back_answered(&grain(), S1);
    assert_eq!(format!("{book:?}").split("counter").next(), empty.split("counter").next());
}

/// Giving up twice, or for a session that is over, sends nothing.
#[test]
fn r1_a_grant_is_given_up_once() {
    let mut book = book();
    assert!(book.give_up(&grain(), S1, grant(5)));
    assert!(!book.give_up(&grain(), S1, grant(5)));
    assert!(!book.give_up(&grain(), S1, grant(4)));
    assert!(!book.give_up(&grain(), S2, grant(6)));
}

/// A grant that belongs to a session that has ended meanwhile is not used under the next one.
#[test]
fn r12_a_grant_of_an_ended_session_is_refused() {
    let mut book = book();
    let id = book.acquire_sent(&grain());
    book.session(Some(S2));
    let meaning = book.acquire_answered(&grain(), id, S1, Acquired::Granted(grant(5)));
    assert_eq!(meaning, Acquisition::SessionOver);
}

/// R12: the end of a session may be heard twice, from the keeper and from the watch, and the second time
/// after the next session has begun: that one goes on.
#[test]
fn r12_a_late_end_of_the_last_session_leaves_the_next_one_alone() {
    let mut book = book();
    book.session(Some(S2));
    book.ended(S1);
    let id = book.acquire_sent(&grain());
    let meaning = book.acquire_answered(&grain(), id, S2, Acquired::Granted(grant(9)));
    assert_eq!(meaning, Acquisition::Use(grant(9)));
    book.ended(S2);
    let id = book.acquire_sent(&grain());
    let meaning = book.acquire_answered(&grain(), id, S2, Acquired::Granted(grant(10)));
    assert_eq!(meaning, Acquisition::SessionOver);
}

/// A lease that the store says is ours, though nobody here remembers it, is adopted.
#[test]
fn r30_a_forgotten_lease_is_adopted() {
    let mut book = book();
    let lost = book.acquire_sent(&grain());
    book.acquire_ended(&grain(), lost); // granted 3, the answer was lost
    let id = book.acquire_sent(&grain());
    assert_eq!(
        book.acquire_answered(&grain(), id, S1, Acquired::Granted(grant(3))),
        Acquisition::Use(grant(3))
    );
}

/// What may happen next in the little world below.
#[derive(Clone, Debug)]
enum Step {
    /// Node (0 or 1) asks for the grain.
    Acquire(usize),
    /// The node's activation goes idle.
    GiveUp(usize),
    /// The store applies the n-th message on its way (any order), leaving a copy behind if asked to.
    Deliver(usize, bool),
    /// A node receives the n-th answer on its way.
    Answer(usize),
    /// An answer is lost.
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0usize..2).prop_map(Step::Acquire),
        2 => (0usize..2).prop_map(Step::GiveUp),
        4 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(n, copy)| Step::Deliver(n.index(64), copy)),
        4 => any::<prop::sample::Index>().prop_map(|n| Step::Answer(n.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|n| Step::Lose(n.index(64))),
    ]
}

#[derive(Clone, Debug)]
enum Request {
    Acquire(usize, AcquireId),
    Release(usize, Grant),
}
#[derive(Clone, Debug)]
enum Reply {
    Acquired(usize, AcquireId, Acquired),
    Released(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    /// Whatever is reordered, repeated or lost, the grain never runs on two nodes.
    #[test]
    fn r1_one_owner_under_reordering_and_duplication(steps in prop::collection::vec(step(), 1..120)) {
        let sessions = [S1, S2];
        let mut books = sessions.map(|s| { let mut b = LeaseBook::default(); b.session(Some(s)); b });
        let mut running: [Option<Grant>; 2] = [None; 2];
        let (mut row, mut index) = (None::<(usize, Grant)>, 0);
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let mut answered_releases = [0u32; 2];
        for step in steps {
            match step {
                Step::Acquire(n) if running[n].is_none() => {
                    requests.push(Request::Acquire(n, books[n].acquire_sent(&grain())));
                }
                Step::GiveUp(n) => if let Some(g) = running[n].take() {
                    prop_assert!(books[n].give_up(&grain(), sessions[n], g));
                    requests.push(Request::Release(n, g));
                },
                Step::Deliver(at, copy) if !requests.is_empty() => {
                    let at = at % requests.len();
                    let request = if copy { requests[at].clone() } else { requests.swap_remove(at) };
                    index += 1;
                    match request {
                        Request::Acquire(n, id) => {
                            let (holder, g) = *row.get_or_insert((n, grant(index)));
                            let answer = if holder == n { Acquired::Granted(g) } else {
                                Acquired::Held(Holder { session: sessions[holder], node: NodeId(holder as u64), grant: g })
                            };
                            if !copy { replies.push(Reply::Acquired(n, id, answer)); }
                        }
                        Request::Release(n, g) => {
                            if row == Some((n, g)) { row = None; }
                            if !copy { replies.push(Reply::Released(n)); }
                        }
                    }
                }
                Step::Answer(at) if !replies.is_empty() => match replies.swap_remove(at % replies.len()) {
                    Reply::Acquired(n, id, answer) => {
                        let meaning = books[n].acquire_answered(&grain(), id, sessions[n], answer);
                        // One activation per node: the catalog asks for one claim at a time.
                        if let (Acquisition::Use(g), None) = (meaning, running[n]) { running[n] = Some(g); }
                    }
                    Reply::Released(n) => {
                        answered_releases[n] += 1;
                        books[n].hand_back_answered(&grain(), sessions[n]);
                    }
                },
                // A lost answer to a release is repeated by the driver; one to an acquire ends it.
                Step::Lose(at) if !replies.is_empty() => match replies.swap_remove(at % replies.len()) {
                    Reply::Acquired(n, id, _) => books[n].acquire_ended(&grain(), id),
                    again @ Reply::Released(_) => replies.push(again),
                },
                Step::Acquire(_) | Step::Deliver(..) | Step::Answer(_) | Step::Lose(_) => {}
            }
            prop_assert!(running[0].is_none() || running[1].is_none(), "two owners: {running:?}");
            for (n, runs) in running.iter().enumerate().filter_map(|(n, r)| r.map(|g| (n, g))) {
                prop_assert_eq!(row, Some((n, runs)), "{} runs under a grant the row does not have", n);
            }
        }
    }
}
