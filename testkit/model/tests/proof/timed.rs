//! Sessions in time: a step is a quarter of the TTL, or a twentieth.

use millet_core::control::Rule;
use millet_model::{
    check::prove,
    control,
    timed::{self, Cut, Timed},
};

/// A step is a quarter of the TTL.
const QUARTERS: Timed = Timed {
    nodes: 1,
    step_ms: 1_000,
    ttl_ms: 4_000,
    horizon: 12,
    races: true,
    in_flight: 4,
    rates: &[1_000],
    cuts: 0,
    kinds: &[Cut::Off],
    heals: false,
    delays: 0,
    dups: 0,
    stalls: 0,
    pauses: 0,
    elections: 0,
    crashes: 0,
    deaf_limit: 100,
};
/// One-way and two-way cuts that heal or do not: freeze, thaw, drop.
const CUTS: Timed =
    Timed { cuts: 1, kinds: &[Cut::Deaf, Cut::Mute, Cut::Off], heals: true, deaf_limit: 8, ..QUARTERS };
/// The same with another node that wants the grain.
const FAILOVER: Timed = Timed { nodes: 2, cuts: 2, races: false, ..CUTS };
/// A leader that stands still anywhere, also between its set and its clock.
const STALLS: Timed = Timed { stalls: 1, cuts: 1, horizon: 8, ..QUARTERS };
/// A session that opens late, while the leader stands still.
const OPENS: Timed = Timed { kinds: &[Cut::Deaf], heals: true, horizon: 7, ..STALLS };
/// Leaders that change; the last Tick of the old one is committed, or not.
const ELECTIONS: Timed = Timed { elections: 1, cuts: 1, horizon: 9, ..QUARTERS };
/// The same with two changes.
const ELECTIONS_2: Timed =
    Timed { nodes: 2, elections: 2, crashes: 1, horizon: 12, races: false, ..QUARTERS };
/// Messages that come late or twice.
const LATE: Timed = Timed { delays: 1, dups: 1, cuts: 1, horizon: 6, ..QUARTERS };
/// Nodes that stand still and nodes that crash.
const PAUSES: Timed = Timed { nodes: 2, pauses: 1, crashes: 2, horizon: 12, races: false, ..QUARTERS };
/// A step is a twentieth of the TTL, clocks run as far apart as the kernel lets them.
const RATES: Timed = Timed {
    nodes: 2,
    step_ms: 1_000,
    ttl_ms: 20_000,
    horizon: 60,
    rates: &[900, 1_100],
    cuts: 1,
    races: false,
    ..QUARTERS
};
/// The same with a leader that stands still.
const RATES_STALL: Timed = Timed { nodes: 1, stalls: 1, horizon: 32, ..RATES };

#[test]
fn cuts_1_node_3_ttl_in_quarters_1_cut_any_way() {
    prove("cuts", CUTS);
}

#[test]
fn failover_2_nodes_1_grain_3_ttl_in_quarters_2_cuts_any_way() {
    prove("failover", FAILOVER);
}

#[test]
fn stalls_1_node_2_ttl_in_quarters_1_stall_1_cut() {
    prove("stalls", STALLS);
}

#[test]
fn opens_1_node_7_quarters_1_stall_1_one_way_cut() {
    prove("opens", OPENS);
}

#[test]
fn elections_1_node_9_quarters_1_election_1_cut() {
    prove("elections", ELECTIONS);
}

#[test]
fn elections_2_nodes_1_grain_3_ttl_in_quarters_2_elections_1_crash() {
    prove("elections, two nodes", ELECTIONS_2);
}

#[test]
fn late_1_node_6_quarters_1_delay_1_duplicate_1_cut() {
    prove("late", LATE);
}

#[test]
fn pauses_2_nodes_1_grain_3_ttl_in_quarters_1_pause_2_crashes() {
    prove("pauses", PAUSES);
}

#[test]
fn rates_2_nodes_1_grain_3_ttl_in_twentieths_clocks_10_percent_fast_and_slow_1_cut() {
    prove("rates", RATES);
}

#[test]
fn rates_1_node_32_twentieths_clocks_10_percent_fast_and_slow_1_stall_1_cut() {
    prove("rates, stall", RATES_STALL);
}

control!(control_r4_is_caught: Rule::R4, timed::DROPPED, CUTS);
control!(control_r6_is_caught: Rule::R6, timed::OUTLIVES, STALLS);
control!(control_r7_is_caught: Rule::R7, timed::OUTLIVES, OPENS);
control!(control_r9_is_caught: Rule::R9, timed::OUTLIVES, RATES);
control!(control_r21_gap_is_caught: Rule::R21, timed::NEEDLESS, STALLS);
control!(control_r21_base_is_caught: Rule::R21, timed::OUTLIVES, ELECTIONS);
control!(control_r22_is_caught: Rule::R22, timed::DEAF, CUTS);
