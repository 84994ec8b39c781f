//! The `meta` group: commands and replies of its log, applied to a machine, and its snapshots.

use std::sync::OnceLock;

use millet_core::{
    GrainType, Grant, KeyKind, NodeId, SessionId, ShardId,
    model::{NodeInfo, Ownership, ShardState, TypeDecl},
};
use millet_raft_meta::machine::{
    Command, Decision, FORMAT, Init, LeaseKey, Machine, MemberStep, Op, Open, Recovery, Renewed, Reply,
    Secret, ShardSet, Tick,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::bytes::{Input, piece};

/// Entries of one input.
const ENTRIES: u64 = 64;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 4 {
        0 => {
            if let Ok(command) = Command::decode(input.0) {
                assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }
        1 => {
            if let Ok(reply) = Reply::decode(input.0) {
                assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
            }
        }
        2 => snapshot(input.rest()),
        _ => entries(&mut input),
    }
}

/// Any bytes in front of a checksum that fits.
fn snapshot(bytes: &[u8]) {
    let file = [bytes, &xxh3_64(bytes).to_le_bytes()].concat();
    if let Ok(machine) = Machine::read_from(&mut &file[..]) {
        comes_back(&machine);
    }
}

fn comes_back(machine: &Machine) {
    let mut bytes = Vec::new();
    machine.write_to(&mut bytes).expect("a Vec takes everything");
    let again = Machine::read_from(&mut &bytes[..]).expect("what was written is read");
    assert!(again == *machine && again.state_hash() == machine.state_hash());
}

/// A log: whatever commands there are, the machine takes or refuses them, and stays one that comes back.
fn entries(input: &mut Input<'_>) {
    let mut machine = begun().clone();
    let mut index = machine.revision().0;
    for _ in 0..ENTRIES {
        if input.is_empty() {
            break;
        }
        let Ok(command) = Command::decode(&[&[FORMAT], input.piece()].concat()) else { continue };
        if machine.cannot_apply(&command).is_some() {
            continue;
        }
        index += 1;
        let (reply, _) = machine.apply(index, command);
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(&reply));
    }
    comes_back(&machine);
    let recovery = Recovery {
        cluster: "c2".into(),
        member: 1,
        generation: machine.generation().saturating_add(1),
        wall_ms: 1,
        ttl_ms: 4000,
        oldest: SessionId(1),
    };
    comes_back(&machine.recovered(&recovery));
}

fn node(id: u64) -> NodeInfo {
    let ty = |name: &str, ownership| TypeDecl {
        ty: GrainType::new(name).expect("a good name"),
        ownership,
        keys: KeyKind::Int,
    };
    let types = vec![ty("Player", Ownership::Leased), ty("Rank", Ownership::Sharded { shards: 4 })];
    NodeInfo { id: NodeId(id), name: "n".into(), peer_addr: "a:1".into(), api_addr: String::new(), types }
}

fn open(id: u64) -> Command {
    Command::OpenSession(Open { incarnation: u128::from(id), attempt: 1, node: node(id), ttl_ms: 4000 })
}

fn tick(time_ms: u64, sessions: &[u64]) -> Command {
    let renewed = |s: &u64| Renewed { session: SessionId(*s), number: 1, reserve_ms: 5, load: 1 };
    Command::Tick(Tick {
        time_ms,
        wall_ms: 1_700_000_000_000,
        renewed: sessions.iter().map(renewed).collect(),
    })
}

/// A cluster with two living sessions (3 and 4), each with a lease or a shard.
fn begun() -> &'static Machine {
    static BEGUN: OnceLock<Machine> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let mut machine = Machine::new();
        for (command, index) in beginning().into_iter().zip(1..) {
            machine.apply(index, command);
        }
        assert_eq!(machine.lease_rows(), 1);
        machine
    })
}

fn beginning() -> Vec<Command> {
    let player = GrainType::new("Player").expect("a good name").id();
    let rank = GrainType::new("Rank").expect("a good name").id();
    let acquire = Op::Acquire { key: LeaseKey([1; 16]), ty: player, session: SessionId(3) };
    let assign = Decision {
        ty: rank,
        generation: 3,
        shard: ShardId(0),
        expect: ShardState::Free,
        set: ShardSet::Assign { to: SessionId(4) },
    };
    vec![
        Command::Init(Init { cluster: "c1".into(), secret: Secret([9; 16]), generation: 3 }),
        Command::FeatureLevel(2),
        open(1),
        open(2),
        tick(100, &[3, 4]),
        Command::Batch(vec![acquire]),
        Command::ShardDecisions(vec![assign]),
    ]
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let player = GrainType::new("Player").expect("a good name");
    let (key, ty) = (LeaseKey([1; 16]), player.id());
    let rank = GrainType::new("Rank").expect("a good name");
    let grant = Grant { generation: 3, index: 6 };
    let shard = Grant { generation: 3, index: 7 };
    let (three, four) = (SessionId(3), SessionId(4));
    let held = ShardState::Assigned { session: four, grant: shard };
    let revoke = Decision {
        ty: rank.id(),
        generation: 3,
        shard: ShardId(0),
        expect: held,
        set: ShardSet::Revoke { to: three },
    };
    let ack = Op::AckShard { ty: rank.id(), shard: ShardId(0), session: four, grant: shard, given_up: true };
    let mut commands = vec![
        Command::Batch(vec![Op::Move { key, ty, session: three, grant, to: four }]),
        Command::Batch(vec![Op::Release { key, ty, session: three, grant }]),
        Command::ShardDecisions(vec![revoke]),
        Command::Batch(vec![ack]),
        Command::TypeSet { ty: rank, ownership: Ownership::Sharded { shards: 8 } },
        Command::TypeSet { ty: player, ownership: Ownership::Sharded { shards: 2 } },
        Command::Batch(vec![Op::Drain { session: three }, Op::Close { session: four }]),
        Command::Sweep { rows: 100 },
        tick(200, &[3]),
        tick(20_000, &[]),
        open(2),
        open(5),
        Command::Members(MemberStep::Begin { above: 3, add: Some("d:1".into()), remove: Some(1) }),
        Command::Members(MemberStep::Cancel { id: 8 }),
        Command::Members(MemberStep::End { id: 8 }),
    ];
    let mut all: Vec<Vec<u8>> = commands.iter().map(|c| [vec![0], c.encode()].concat()).collect();
    let entry = |c: &Command| piece(&c.encode()[1..]);
    all.extend(commands.iter().map(|c| [vec![3], entry(c)].concat()));
    all.push([vec![3], commands.iter().flat_map(entry).collect()].concat());
    commands.reverse();
    all.push([vec![3], commands.iter().flat_map(entry).collect()].concat());
    let mut machine = begun().clone();
    for (command, index) in commands.into_iter().zip(machine.revision().0 + 1..) {
        let (reply, _) = machine.apply(index, command);
        all.push([vec![1], reply.encode()].concat());
    }
    for machine in [begun(), &machine] {
        let mut bytes = vec![2];
        machine.write_to(&mut bytes).expect("a Vec takes everything");
        bytes.truncate(bytes.len() - 8);
        all.push(bytes);
    }
    all
}
