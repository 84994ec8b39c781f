//! Memory of a lease row: at most 70 bytes (R31's rows; the target stands in docs/architecture.md), measured on this process.
#![allow(clippy::unwrap_used, reason = "tests")]

use millet_core::{GrainType, NodeId, SessionId};
use millet_core::{
    KeyKind,
    model::{NodeInfo, Ownership, TypeDecl},
};
use millet_raft_meta::machine::{Command, Init, LeaseKey, Machine, Op, Open, Renewed, Secret, Tick};

const ROWS: u64 = 400_000;

/// Resident bytes of this process; `None` where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn machine() -> (Machine, u64, u64) {
    let mut machine = Machine::new();
    let ty = GrainType::new("Player").unwrap();
    let types = vec![TypeDecl { ty: ty.clone(), ownership: Ownership::Leased, keys: KeyKind::Int }];
    let node = NodeInfo {
        id: NodeId(1),
        name: String::new(),
        peer_addr: String::new(),
        api_addr: String::new(),
        types,
    };
    let renewed = vec![Renewed { session: SessionId(2), number: 1, reserve_ms: 0, load: 0 }];
    machine.apply(1, Command::Init(Init { cluster: "c".into(), secret: Secret([1; 16]), generation: 1 }));
    machine.apply(2, Command::OpenSession(Open { incarnation: 1, attempt: 1, node, ttl_ms: 4000 }));
    machine.apply(3, Command::Tick(Tick { time_ms: 0, wall_ms: 0, renewed }));
    (machine, 3, ty.id())
}

#[test]
fn a_lease_row_costs_at_most_70_bytes() {
    let (mut machine, mut index, ty) = machine();
    // History and watch rings are bounded and not part of a row: fill them first.
    let mut acquire = |machine: &mut Machine, rows: std::ops::Range<u64>| {
        for n in rows {
            index += 1;
            let scrambled = u128::from(n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            let key = LeaseKey(scrambled.to_be_bytes());
            machine.apply(index, Command::Batch(vec![Op::Acquire { key, ty, session: SessionId(2) }]));
        }
    };
    acquire(&mut machine, 0..100_000);
    let Some(before) = resident() else {
        println!("SKIPPED a_lease_row_costs_at_most_70_bytes: needs /proc/self/status");
        return;
    };
    acquire(&mut machine, 100_000..100_000 + ROWS);
    let per_row = resident().unwrap().saturating_sub(before) / ROWS;
    println!("{per_row} bytes a lease row, {ROWS} rows");
    assert_eq!(machine.lease_rows(), 100_000 + ROWS);
    assert!((30..=70).contains(&per_row), "{per_row} bytes a row");
}
