//! Bytes that must not change: every command and reply as it stands in logs and on the wire.

use millet_core::model::{Verdict, WorkerLease};

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
fn grant() -> Grant {
    Grant { generation: 3, index: 300 }
}

fn commands() -> Vec<(&'static str, Command)> {
    let (k, t, s) = (LeaseKey([0xAB; 16]), 0x1122, SessionId(7));
    let held = ShardState::Assigned { session: s, grant: grant() };
    let decision = |expect, set| Decision { ty: t, generation: 3, shard: ShardId(2), expect, set };
    let open = Open { incarnation: 5, attempt: 1, node: node(1, realm()), ttl_ms: 4000 };
    let init = Init { cluster: "c1".into(), secret: Secret([9; 16]), generation: 3 };
    let renewed = vec![Renewed { session: s, number: 4, reserve_ms: 1000, load: 12 }];
    vec![
        ("init", Command::Init(init)),
        ("open", Command::OpenSession(open)),
        ("tick", Command::Tick(Tick { time_ms: 100, wall_ms: 1_700_000_000_000, renewed })),
        ("acquire", Command::Batch(vec![Op::Acquire { key: k, ty: t, session: s }])),
        ("release", Command::Batch(vec![Op::Release { key: k, ty: t, session: s, grant: grant() }])),
        (
            "move",
            Command::Batch(vec![Op::Move { key: k, ty: t, session: s, grant: grant(), to: SessionId(8) }]),
        ),
        (
            "ack",
            Command::Batch(vec![Op::AckShard {
                ty: t,
                shard: ShardId(2),
                session: s,
                grant: grant(),
                given_up: true,
            }]),
        ),
        ("drain, close", Command::Batch(vec![Op::Drain { session: s }, Op::Close { session: s }])),
        (
            "decisions",
            Command::ShardDecisions(vec![
                decision(ShardState::Free, ShardSet::Assign { to: s }),
                decision(held, ShardSet::Revoke { to: SessionId(8) }),
                decision(
                    ShardState::Revoking { session: s, grant: grant(), to: SessionId(8) },
                    ShardSet::Cancel,
                ),
            ]),
        ),
        ("sweep", Command::Sweep { rows: 1000 }),
        ("feature", Command::FeatureLevel(1)),
        (
            "type",
            Command::TypeSet {
                ty: GrainType::new("Rank").unwrap(),
                ownership: Ownership::Sharded { shards: 8 },
            },
        ),
        (
            "members begin",
            Command::Members(MemberStep::Begin { above: 3, add: Some("m4:1".into()), remove: Some(3) }),
        ),
        ("members cancel", Command::Members(MemberStep::Cancel { id: 300 })),
        ("members end", Command::Members(MemberStep::End { id: 300 })),
        (
            "members no return",
            Command::Members(MemberStep::NoReturn { id: 300, leaver: Some("m3:1".into()) }),
        ),
        ("members ended", Command::Members(MemberStep::Ended { change: change() })),
        ("members comes", Command::Members(MemberStep::Comes { id: 300, node: 5 })),
    ]
}
fn change() -> MemberChange {
    MemberChange { id: 300, add: Some((4, "m4:1".into())), remove: Some(3) }
}

fn replies() -> Vec<(&'static str, Reply)> {
    let s = SessionId(7);
    let answer = TickAnswer { session: s, number: 4, alive: true, reserved_ms: 1000 };
    assert_eq!(answer.verdict(), Verdict::Renewed);
    vec![
        ("done", Reply::Done),
        (
            "opened",
            Reply::Opened(Opened {
                session: s,
                ttl_ms: 4000,
                worker: Some(WorkerLease { worker: 3, after_ms: 9 }),
            }),
        ),
        ("ticked", Reply::Ticked(Ticked { revision: Revision(9), time_ms: 100, answers: vec![answer] })),
        (
            "batch",
            Reply::Batch(vec![
                OpResult::Granted { grant: grant(), previous: None },
                OpResult::Held { session: s, node: NodeId(1), grant: grant() },
                OpResult::Retry,
                OpResult::Done,
                OpResult::NotAlive { session: s },
                OpResult::Refused { why: "no".into() },
            ]),
        ),
        ("decided", Reply::Decided(vec![true, false])),
        ("swept", Reply::Swept { deleted: 3 }),
        ("refused", Reply::Refused("no".into())),
        ("change", Reply::Change(change())),
    ]
}

/// Logs written by one release are applied by the next: no byte of a command may change.
#[test]
fn golden_commands() {
    let shown: Vec<_> = commands().iter().map(|(name, c)| format!("{name}: {}", hex(&c.encode()))).collect();
    assert_eq!(shown.join("\n"), GOLDEN_COMMANDS.trim());
    for (name, command) in commands() {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command), "{name}");
    }
}

/// Replies travel between members of one rolling upgrade.
#[test]
fn golden_replies() {
    let shown: Vec<_> = replies().iter().map(|(name, r)| format!("{name}: {}", hex(&r.encode()))).collect();
    assert_eq!(shown.join("\n"), GOLDEN_REPLIES.trim());
    for (name, reply) in replies() {
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(&reply), "{name}");
    }
}

/// Bytes of another version, cut bytes, and bytes behind the end are errors that say which.
#[test]
fn other_bytes_are_refused() {
    let good = Command::Sweep { rows: 1000 }.encode();
    assert_eq!(Command::decode(&[]), Err(CodecError::Empty("command")));
    let newer = [&[FORMAT + 1], &good[1..]].concat();
    assert_eq!(Command::decode(&newer), Err(CodecError::Version { what: "command", found: FORMAT + 1 }));
    for damaged in [&good[..good.len() - 1], &[&good[..], &[0]].concat()[..], &[FORMAT, 0xFF]] {
        assert!(matches!(Command::decode(damaged), Err(CodecError::Damaged { .. })), "{damaged:?}");
    }
}

const GOLDEN_COMMANDS: &str = "
init: 01000263310909090909090909090909090909090903
open: 0101050101066e6f64652d310b3132372e302e302e313a31000306506c6179657200000452616e6b01080002476d010100a01f
tick: 01026480d095ffbc31010704e8070c
acquire: 01030100ababababababababababababababababa22207
release: 01030101ababababababababababababababababa2220703ac02
move: 01030102ababababababababababababababababa2220703ac0208
ack: 01030103a222020703ac0201
drain, close: 01030204070507
decisions: 010403a2220302000007a2220302010703ac020108a2220302020703ac020802
sweep: 0105e807
feature: 010601
type: 01070452616e6b0108
members begin: 0108000301046d343a310103
members cancel: 010801ac02
members end: 010802ac02
members no return: 010803ac0201046d333a31
members ended: 010804ac020104046d343a310103
members comes: 010805ac0205
";
const GOLDEN_REPLIES: &str = "
done: 0100
opened: 010107a01f010309
ticked: 0102096401070401e807
batch: 0103060003ac020001070103ac020203040705026e6f
decided: 0104020100
swept: 010503
refused: 0106026e6f
change: 0107ac020104046d343a310103
";
