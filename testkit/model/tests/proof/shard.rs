//! Hand-over of a shard.

use millet_core::control::Rule;
use millet_model::{
    check::prove,
    control,
    shard::{self, Shards},
};

/// Decisions made on old rows, acks that come late and twice.
const HANDOVER: Shards =
    Shards { decisions: 3, in_flight: 2, dups: 1, lags: 0, freezes: 0, joins: 0, work: false };
/// The same with turns that may outlast the revoke bound, and a watch that lags.
const WORK: Shards =
    Shards { decisions: 2, in_flight: 2, dups: 0, lags: 1, freezes: 0, joins: 0, work: true };
/// Sessions that end while a shard changes hands.
const ENDS: Shards =
    Shards { decisions: 2, in_flight: 1, dups: 0, lags: 1, freezes: 1, joins: 1, work: false };

#[test]
fn handover_2_nodes_3_decisions_2_messages_1_duplicate() {
    prove("handover", HANDOVER);
}

#[test]
fn work_2_nodes_2_decisions_2_messages_1_lagging_watch() {
    prove("work", WORK);
}

#[test]
fn ends_2_nodes_2_decisions_1_message_1_lagging_watch_1_freeze_3_sessions() {
    prove("ends", ENDS);
}

control!(control_r1_is_caught: Rule::R1, shard::OVERLAP, HANDOVER);
control!(control_r8_is_caught: Rule::R8, shard::OVERLAP, HANDOVER);
control!(control_r17_is_caught: Rule::R17, shard::ENDED_STAYS_ENDED, ENDS);
