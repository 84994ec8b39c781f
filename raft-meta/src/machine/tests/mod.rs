//! Tests of the machine, by rule.
