//! One seed is one run: what the simulator finds can be found again.

use std::process::Command;

/// Runs a seed with these further arguments; its trace and how many events that has.
fn trace(seed: u64, more: &[&str]) -> (String, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millet-sim"));
    let output = command.args(["--seed", &seed.to_string()]).args(more).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let outcome: serde_json::Value =
        serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}{complaints}"));
    let hash = outcome["trace"].as_str().expect("a trace has a hash").to_owned();
    (hash, outcome["events"].as_u64().expect("a trace has events"))
}

/// With faults, twice; and once more with log lines, which must not change what happens.
#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let mut seen = Vec::new();
    for seed in [3, 4, 5] {
        let first = trace(seed, &[]);
        assert!(first.1 > 1_000, "seed {seed} is a run in which something happens: {first:?}");
        assert_eq!(first, trace(seed, &[]), "seed {seed}");
        seen.push(first);
    }
    assert_eq!(seen[0], trace(3, &["--log", "warn"]), "log lines change nothing");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "different seeds are different runs");
}
