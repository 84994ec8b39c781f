//! Convergence, memory, coverage, failover times, merging: what a run shows beside its operations.

mod common;

use std::collections::BTreeMap;

use common::{History, accepted, by, entry, invalid, refused};
use millet_oracle::{
    Invariant, Standing, Verdict,
    history::{Call, Observed, Phase, Value, Workload},
};

/// One register, read now and then; answered by the session of that number.
fn read(h: &mut History, from: u64, until: u64, op: u64, index: u64) {
    let value = Value::Register { value: 0 };
    h.op((from, until), op, (Workload::Register, "R/1"), Call::Read, (index, value));
}

#[test]
fn i10_a_grain_that_stays_silent_is_refused() {
    // TTL 1 s: 7 s are given.
    let mut good = History::new();
    read(&mut good, 10, 15, 1, 5);
    good.fault("cut", (20, 90), 5, true).phase(100, Phase::FaultsOver);
    good.invoke(110, 2, Workload::Register, "R/1", Call::Read).fail(2_000, 2);
    read(&mut good, 2_100, 7_100, 3, 5);
    accepted(&good, Invariant::Convergence);
    let mut bad = History::new();
    read(&mut bad, 10, 15, 1, 5);
    bad.phase(100, Phase::FaultsOver);
    bad.invoke(110, 2, Workload::Register, "R/1", Call::Read).fail(2_000, 2);
    read(&mut bad, 2_100, 7_101, 3, 5);
    refused(&bad, Invariant::Convergence, "no answer within 7000 ms");
    let mut unasked = History::new();
    read(&mut unasked, 10, 15, 1, 5);
    unasked.phase(100, Phase::FaultsOver);
    invalid(&unasked, Invariant::Convergence, "R/1 was not asked soon enough");
    let mut endless = History::new();
    read(&mut endless, 10, 15, 1, 5);
    endless.fault("cut", (20, 90), 5, true);
    invalid(&endless, Invariant::Convergence, "does not say when they were over");
}

#[test]
fn i10_members_that_disagree_are_refused() {
    let settled = |leaders, hashes: &[&str], orphan_leases| {
        let mut h = History::new();
        read(&mut h, 10, 15, 1, 5);
        h.phase(20, Phase::FaultsOver);
        read(&mut h, 30, 35, 2, 5);
        let state_hashes = hashes.iter().map(|h| (*h).to_owned()).collect();
        h.saw(50, Observed::Settled { leaders, state_hashes, orphan_leases });
        h
    };
    accepted(&settled(1, &["a", "a", "a"], 0), Invariant::Convergence);
    refused(&settled(2, &["a", "a", "a"], 0), Invariant::Convergence, "2 members lead");
    refused(&settled(1, &["a", "b", "a"], 0), Invariant::Convergence, "different states: a, b, a");
    refused(&settled(1, &["a", "a", "a"], 3), Invariant::Convergence, "3 leases name no living session");
}

#[test]
fn i11_a_process_over_its_limit_is_refused() {
    let mut h = History::new();
    h.header.limits.rss_bytes = Some(1000);
    invalid(&h, Invariant::Memory, "no process was measured");
    let rss = |bytes| Observed::Rss { process: "w1".into(), bytes };
    h.saw(10, rss(900)).saw(20, rss(1000));
    accepted(&h, Invariant::Memory);
    h.saw(30, rss(1001)).saw(40, rss(400));
    refused(&h, Invariant::Memory, "1001 bytes resident, the limit is 1000");
}

#[test]
fn i12_missing_coverage_is_invalid_and_not_a_violation() {
    let mut h = History::new();
    h.fault("kill_worker", (10, 20), 5, true).fault("kill_worker", (30, 40), 5, false);
    h.phase(50, Phase::FaultsOver);
    accepted(&h, Invariant::Coverage);
    h.header.limits.effects.insert("kill_worker".into(), 2);
    invalid(&h, Invariant::Coverage, "kill_worker took effect 1 times of 2 scheduled; 2 are needed");
    h.header.limits.effects = BTreeMap::from([("cut".into(), 1)]);
    invalid(&h, Invariant::Coverage, "cut took effect 0 times of 0 scheduled");
}

/// A violation stays one, however little was covered.
#[test]
fn a_violation_outweighs_an_invalid_run() {
    let mut h = History::new();
    h.header.limits.requires = vec![Invariant::Ids];
    h.append(10, 1, 5, 1).ledger(20, 9, 5, vec![]);
    assert_eq!(h.verdict().standing(), Standing::Fail);
}

#[test]
fn an_invariant_that_is_required_and_idle_makes_the_run_invalid() {
    let mut h = History::new();
    read(&mut h, 10, 15, 1, 5);
    h.header.limits.requires = vec![Invariant::Linearizable, Invariant::Ids];
    invalid(&h, Invariant::Ids, "nothing was there to check");
}

#[test]
fn a_run_that_did_not_finish_is_invalid() {
    let mut run = millet_oracle::Run::new(History::new().header);
    run.push(History::new().invoke(1, 1, Workload::Register, "R/1", Call::Read).lines[0].clone())
        .expect("fits");
    let verdict = millet_oracle::check(&run);
    assert_eq!(verdict.standing(), Standing::Invalid);
    assert_eq!(verdict.ops.unknown, 1, "an op without an end may have run");
}

#[test]
fn failover_is_measured_from_the_fault_to_the_first_answer_of_another_session() {
    let mut h = History::new();
    read(&mut h, 10, 15, 1, 5);
    // Answered by the dying session after the fault, to a call of before: not a failover.
    read(&mut h, 995, 1_001, 2, 5);
    h.invoke(1_100, 3, Workload::Register, "R/1", Call::Read).fail(1_200, 3);
    read(&mut h, 1_300, 5_250, 4, 9);
    h.fault("kill_worker", (1_000, 1_000), 5, true);
    h.fault("clock_jump", (1_000, 1_000), 5, true);
    h.fault("kill_worker", (1_000, 1_000), 77, true);
    h.phase(5_300, Phase::FaultsOver);
    read(&mut h, 5_310, 5_320, 5, 9);
    let verdict = h.verdict();
    assert_eq!((verdict.failover_ms.count(), verdict.failover_ms.max()), (1, Some(4_250)));
}

/// A grain that nobody called at the time says nothing about failover.
#[test]
fn failover_counts_grains_that_were_called_within_a_ttl_only() {
    let mut h = History::new();
    read(&mut h, 10, 15, 1, 5);
    h.fault("kill_worker", (1_000, 1_000), 5, true).phase(1_000, Phase::FaultsOver);
    read(&mut h, 2_100, 2_150, 2, 9);
    assert_eq!(h.verdict().failover_ms.count(), 0);
}

#[test]
fn verdicts_survive_json_and_merge() {
    let mut lost = History::new();
    lost.append(10, 1, 5, 1)
        .ledger(20, 9, 5, vec![])
        .fault("cut", (1, 2), 5, true)
        .phase(3, Phase::FaultsOver);
    let mut fine = History::new();
    fine.append(10, 1, 5, 1).ledger(20, 9, 5, vec![entry(1, 1, 5)]);
    fine.fault("cut", (1, 2), 5, false).fault("pause", (1, 2), 5, false).phase(3, Phase::FaultsOver);
    let mut all = Verdict::default();
    for verdict in [lost.verdict(), fine.verdict()] {
        let json = serde_json::to_string(&verdict).expect("a verdict is JSON");
        let read: Verdict = serde_json::from_str(&json).expect("what was written");
        assert_eq!(read, verdict);
        all.merge(read);
    }
    all.control(true);
    assert_eq!((all.seeds, all.ops.ok, all.violation_count()), (2, 4, 1));
    assert_eq!((all.faults["cut"].scheduled, all.faults["cut"].effective), (2, 1));
    all.cover(&BTreeMap::from([("cut".into(), 1), ("kill".into(), 2)]));
    let reasons = &all.invariants[&Invariant::Coverage].invalid;
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let summary: serde_json::Value = serde_json::from_str(&all.summary()).expect("a line of JSON");
    assert_eq!(summary["seeds"], 2);
    assert_eq!(summary["sim_hours"], 2.0);
    assert_eq!((&summary["violations"], &summary["faults"]), (&1.into(), &1.into()));
    assert_eq!((&summary["controls_caught"], &summary["failover_ms_p99"]), (&1.into(), &().into()));
    let keys: Vec<_> = summary.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys.len(), 8, "{keys:?}");
    let screen = all.screen();
    assert!(screen.contains("Fail: 2 runs") && screen.contains("VIOLATION I2"), "{screen}");
    assert!(screen.lines().count() < 50, "one screen: {screen}");
}

/// Singletons and registers are told apart: the holder of one says nothing about the other.
#[test]
fn epochs_of_different_grains_are_not_compared() {
    let mut h = History::new();
    read(&mut h, 10, 15, 1, 9);
    let value = Value::Register { value: 0 };
    h.invoke(20, 2, Workload::Register, "R/2", Call::Read).ok(25, 2, Some(by(5)), value);
    accepted(&h, Invariant::MonotoneEpochs);
}
