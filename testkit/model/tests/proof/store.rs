//! The state store under late, repeated and lost saves.

use millet_core::control::Rule;
use millet_model::{
    check::prove,
    control,
    store::{self, Stores},
};

const LEASED: Stores = Stores { sharded: false, writes: 4, births: 4, moves: 0, in_flight: 3 };
const SHARDED: Stores = Stores { sharded: true, writes: 4, births: 4, moves: 2, in_flight: 3 };

#[test]
fn leased_grain_4_activations_4_writes_3_in_flight() {
    prove("store, leased", LEASED);
}

#[test]
fn sharded_grain_4_activations_2_owners_4_writes_3_in_flight() {
    prove("store, sharded", SHARDED);
}

control!(control_r2_is_caught: Rule::R2, store::STALE_WRITE, LEASED);
control!(control_r3_is_caught: Rule::R3, store::BEHIND, SHARDED);
control!(control_fence_is_caught: Rule::Fence, store::STALE_WRITE, SHARDED);
