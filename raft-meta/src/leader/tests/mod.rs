//! Tests of the leader's decisions, by rule, on the machine tests' rig.

mod planner;
mod renewals;
mod timed;
