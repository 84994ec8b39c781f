//! The view never goes back, and who is missing from a resync has ended (R8, R17).

use millet_core::{
    GrainType, Grant, KeyKind, NodeId, Revision, SessionId, ShardId,
    model::{
        Change, NodeInfo, Ownership, SessionInfo, SessionState, ShardState, TypeRow, ViewSnapshot,
        WatchEvent, Watched,
    },
};
use millet_directory::view::{Standing, View};
use proptest::prelude::*;

fn session(id: u64) -> SessionInfo {
    let node = NodeInfo {
        id: NodeId(id % 3),
        name: String::new(),
        peer_addr: format!("10.0.0.{id}:1"),
        api_addr: String::new(),
        types: Vec::new(),
    };
    SessionInfo { id: SessionId(id), node, state: SessionState::Alive }
}
fn event(revision: u64, changes: Vec<Change>) -> Watched {
    Watched::Event(WatchEvent { revision: Revision(revision), changes })
}
fn ty() -> GrainType {
    GrainType::new("t.Rank").expect("a name")
}
fn shard(index: u64) -> Change {
    let state = ShardState::Assigned { session: SessionId(1), grant: Grant { generation: 1, index } };
    Change::Shard { ty: ty(), shard: ShardId(0), state }
}

/// A stream that starts over at an older revision (another member, behind) changes nothing.
#[test]
fn r8_the_view_never_goes_back() {
    let mut view = View::default();
    view.apply(&event(1, vec![Change::Session(session(1))]));
    view.apply(&event(5, vec![shard(5)]));
    view.apply(&event(9, vec![shard(9)]));
    let before = view.clone();
    assert!(view.apply(&event(5, vec![shard(5)])).stale);
    assert!(view.apply(&event(9, vec![shard(9)])).stale);
    assert!(view.apply(&Watched::Progress(Revision(3))).stale);
    let old = ViewSnapshot { revision: Revision(8), ..ViewSnapshot::default() };
    assert!(view.apply(&Watched::Resync(old)).stale);
    assert_eq!(view, before);
    assert_eq!(view.shard_holder(&ty(), ShardId(0)).expect("held").1.index, 9);
}

/// An id at or below the revision that is not alive has ended; a higher one is newer than the view.
#[test]
fn r17_unknown_means_ended_only_up_to_the_revision() {
    let mut view = View::default();
    view.apply(&event(7, vec![Change::Session(session(7))]));
    assert!(matches!(view.session_state(SessionId(7)), Standing::Alive(_)));
    assert_eq!(view.session_state(SessionId(6)), Standing::Ended);
    assert_eq!(view.session_state(SessionId(8)), Standing::Newer);
    view.apply(&Watched::Progress(Revision(8)));
    assert_eq!(view.session_state(SessionId(8)), Standing::Ended);
}

/// A resync reports everyone who is missing, once, and their shards have no owner any more.
#[test]
fn r17_a_resync_reports_the_missing_as_ended() {
    let mut view = View::default();
    view.apply(&event(2, vec![Change::Session(session(1)), Change::Session(session(2)), shard(2)]));
    let snapshot =
        ViewSnapshot { revision: Revision(500), sessions: vec![session(2)], ..ViewSnapshot::default() };
    let delta = view.apply(&Watched::Resync(snapshot));
    assert_eq!(delta.ended, [SessionId(1)]);
    assert_eq!(delta.shards, [(ty(), ShardId(0))], "its row is gone");
    assert_eq!(view.shard_holder(&ty(), ShardId(0)), None);
}

/// R11: a new generation of a type begins with a free table. Rows of the old one are gone, as they are from
/// a resync: keys hash onto other shards now, whose old owners never had them.
#[test]
fn r11_a_new_generation_takes_the_rows_of_the_old_one_away() {
    let row = |shards, generation| {
        let ownership = Ownership::Sharded { shards };
        Change::Type(TypeRow { ty: ty(), ownership, keys: KeyKind::Int, generation })
    };
    let mut view = View::default();
    view.apply(&event(1, vec![Change::Session(session(1)), row(8, 1), shard(1)]));
    assert!(view.apply(&event(2, vec![row(8, 1)])).shards.is_empty(), "told again");
    assert!(view.shard_holder(&ty(), ShardId(0)).is_some());
    let delta = view.apply(&event(3, vec![row(16, 2)]));
    assert_eq!(delta.shards, [(ty(), ShardId(0))], "its owner ends it");
    assert_eq!(view.shard(&ty(), ShardId(0)), ShardState::Free);
}

/// What keepalive answers say of ended sessions holds against a watch that still brings their birth.
#[test]
fn r17_an_end_heard_early_is_not_undone_by_the_watch() {
    let mut view = View::default();
    view.apply(&event(3, vec![Change::Session(session(3))]));
    let delta = view.apply_ended(&[SessionId(3), SessionId(9)], Revision(20));
    assert_eq!(delta.ended, [SessionId(3)]);
    assert_eq!(view.session_state(SessionId(9)), Standing::Ended, "newer, but known to have ended");
    let delta = view.apply(&event(10, vec![Change::Session(session(3)), Change::Session(session(9))]));
    assert_eq!(delta.ended, []);
    assert_eq!(view.session_state(SessionId(3)), Standing::Ended);
    view.apply(&event(20, vec![Change::Ended(SessionId(3)), Change::Ended(SessionId(9))]));
    assert_eq!(view.session_state(SessionId(9)), Standing::Ended);
}

/// An owner whose session has ended is no owner, though the row still names it.
#[test]
fn an_ended_session_owns_nothing() {
    let mut view = View::default();
    view.apply(&event(2, vec![Change::Session(session(1)), shard(2)]));
    assert!(view.shard_holder(&ty(), ShardId(0)).is_some());
    view.apply(&event(3, vec![Change::Ended(SessionId(1))]));
    assert_eq!(view.shard_holder(&ty(), ShardId(0)), None);
    assert_eq!(view.session_of(NodeId(1)), None);
}

proptest! {
    /// Events of one history, delivered in any order with repeats (streams of several members): what has
    /// ended stays ended, is reported once, and revisions only rise.
    #[test]
    fn r8_no_order_of_streams_brings_a_session_back(order in prop::collection::vec(0u64..40, 1..200)) {
        // The history: session n opens at revision n + 1 and ends at n + 21.
        let history = |at: u64| {
            let mut changes = vec![Change::Session(session(at + 1))];
            if at >= 20 { changes.push(Change::Ended(SessionId(at - 19))); }
            event(at + 1, changes)
        };
        let mut view = View::default();
        let (mut reported, mut top) = (std::collections::BTreeSet::new(), Revision(0));
        for at in order {
            for id in view.apply(&history(at)).ended {
                prop_assert!(reported.insert(id), "{id} reported twice");
            }
            prop_assert!(view.revision() >= top);
            top = view.revision();
            for id in &reported {
                prop_assert_eq!(view.session_state(*id), Standing::Ended);
            }
        }
    }
}
