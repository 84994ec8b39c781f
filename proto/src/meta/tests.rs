//! Every form of the metadata contract comes back from the wire as it went.

use millet_core::{
    Key, KeyKind, limits,
    model::{NodeInfo, Ownership},
};

use super::*;

fn ty() -> GrainType {
    GrainType::new("realm.Rank").expect("a good name")
}
const G: Grant = Grant { generation: 1, index: 7 };

#[test]
fn every_operation_and_result_survives_the_wire() {
    let (grain, session) = (GrainId::new(ty(), Key::Int(4)), SessionId(9));
    let ops = [
        Op::Acquire { grain: grain.clone(), session },
        Op::Release { grain: grain.clone(), session, grant: G },
        Op::Move { grain, session, grant: G, to: SessionId(10) },
        Op::AckShard { ty: ty(), shard: ShardId(3), session, grant: G, given_up: true },
        Op::Drain { session },
        Op::Close { session },
    ];
    for op in ops {
        assert_eq!(Op::try_from(wire::MetaOp::from(op.clone())), Ok(op));
    }
    let results = [
        OpResult::Granted { grant: G, previous: Some(Grant::default()) },
        OpResult::Held(Held { session, node: NodeId(2), grant: G }),
        OpResult::Retry,
        OpResult::Done,
        OpResult::NotAlive(session),
        OpResult::Refused("why".into()),
    ];
    for r in results {
        assert_eq!(OpResult::try_from(wire::MetaOpResult::from(r.clone())), Ok(r));
    }
    assert!(Op::try_from(wire::MetaOp { kind: None }).is_err());
}

#[test]
fn every_watch_message_survives_the_wire() {
    let node = NodeInfo {
        id: NodeId(3),
        name: "a".into(),
        peer_addr: "h:1".into(),
        api_addr: String::new(),
        types: vec![],
    };
    let info = SessionInfo { id: SessionId(5), node, state: SessionState::Draining };
    let row =
        TypeRow { ty: ty(), ownership: Ownership::Sharded { shards: 8 }, keys: KeyKind::Int, generation: 2 };
    let states = [
        ShardState::Assigned { session: SessionId(5), grant: G },
        ShardState::Revoking { session: SessionId(5), grant: G, to: SessionId(6) },
        ShardState::Free,
    ];
    let mut changes =
        vec![Change::Session(info.clone()), Change::Ended(SessionId(4)), Change::Type(row.clone())];
    changes.extend(states.map(|state| Change::Shard { ty: ty(), shard: ShardId(1), state }));
    let all = [
        Watched::Event(WatchEvent { revision: Revision(8), changes }),
        Watched::Resync(ViewSnapshot {
            revision: Revision(9),
            sessions: vec![info],
            types: vec![row],
            shards: vec![(ty(), ShardId(1), states[0])],
        }),
        Watched::Progress(Revision(10)),
    ];
    for w in all {
        assert_eq!(Watched::try_from(wire::WatchResponse::from(w.clone())), Ok(w));
    }
}

#[test]
fn r17_no_list_of_ended_sessions_means_resync_and_an_empty_one_does_not() {
    let mut answer = KeepaliveAnswer {
        session: SessionId(5),
        number: 6,
        verdict: Verdict::Renewed,
        revision: Revision(7),
        ended: None,
        reserved_ms: 8,
        cluster_ms: 9,
    };
    assert_eq!(KeepaliveAnswer::try_from(wire::KeepaliveResponse::from(answer.clone())), Ok(answer.clone()));
    answer.ended = Some(vec![]);
    assert_eq!(KeepaliveAnswer::try_from(wire::KeepaliveResponse::from(answer.clone())), Ok(answer));
}

/// Found by reading for the fuzz targets: what a node says of itself stays in every member's memory.
#[test]
fn a_node_that_says_too_much_of_itself_is_refused() {
    let decl = wire::TypeDecl { r#type: "T".into(), mode: 1, shards: 0, keys: 1 };
    let node = |name: usize, types: usize| wire::NodeInfo {
        id: 1,
        name: "n".repeat(name),
        types: vec![decl.clone(); types],
        ..Default::default()
    };
    let (text, types) = (limits::NODE_TEXT_BYTES, limits::TYPES);
    assert!(NodeInfo::try_from(node(text, types)).is_ok());
    let refused = |node: wire::NodeInfo| NodeInfo::try_from(node).expect_err("too much").to_string();
    assert!(refused(node(text + 1, 0)).contains("name has 257 bytes, over the limit of 256"));
    assert!(refused(node(0, types + 1)).contains("4097 types are over the limit of 4096"));
}
