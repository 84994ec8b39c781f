//! Grain leases and the store.

use millet_core::control::Rule;
use millet_model::{
    check::prove,
    control,
    grain::{self, Grains, Saves},
};

const BASE: Grains = Grains {
    nodes: 2,
    in_flight: 4,
    entries: 10,
    claims: 3,
    freezes: 0,
    crashes: 0,
    joins: 0,
    dups: 0,
    losses: 0,
    turns: 0,
    saves: Saves::No,
    batches: false,
    moves: false,
};

/// Grants, releases, duplicates, lost messages.
const LEASES: Grains = Grains { dups: 1, losses: 1, ..BASE };
/// Turns that outlast their session.
const EXITS: Grains = Grains { turns: 2, freezes: 2, joins: 1, in_flight: 2, entries: 11, ..BASE };
/// A crash whose last requests are still on their way, several requests to an entry.
const BATCHES: Grains = Grains { crashes: 1, joins: 1, batches: true, entries: 11, ..BASE };
/// Activations that move with an image.
const MOVES: Grains = Grains { moves: true, saves: Saves::AtOnce, turns: 2, dups: 1, in_flight: 3, ..BASE };

#[test]
fn leases_2_nodes_1_grain_4_messages_1_duplicate_1_loss_3_acquires_5_entries() {
    prove("leases", LEASES);
}

#[test]
fn exits_2_nodes_1_grain_2_messages_2_turns_2_freezes_3_sessions_6_entries() {
    prove("exits", EXITS);
}

#[test]
fn batches_2_nodes_1_grain_4_messages_1_crash_6_entries_of_3() {
    prove("batches", BATCHES);
}

#[test]
fn moves_2_nodes_1_grain_3_messages_2_writes_1_duplicate_5_entries() {
    prove("moves", MOVES);
}

control!(control_r1_is_caught: Rule::R1, grain::OVERLAP, LEASES);
control!(control_r12_is_caught: Rule::R12, grain::LATE_OUTPUT, EXITS);
control!(control_exit_is_caught: Rule::Exit, grain::LATE_OUTPUT, EXITS);
control!(control_lease_is_caught: Rule::Lease, grain::OVERLAP, EXITS);
control!(control_r24_is_caught: Rule::R24, grain::MONOTONE, BATCHES);
control!(control_r23_is_caught: Rule::R23, grain::LOST_WRITE, MOVES);
