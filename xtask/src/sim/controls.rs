//! Must-fail controls: the product without one of its rules, on the same seeds. A simulator that does not
//! see that is blind, so each must be caught within its number of seeds.

use std::path::Path;

use anyhow::{Result, bail};

use super::campaign::Campaign;

/// A control: the rule that is off, and the seeds within which that must show.
struct Control {
    rule: &'static str,
    within: u64,
    /// The one kind of fault that shows it soonest; none: whatever a seed has.
    faults: Option<&'static str>,
    what: &'static str,
}

const CONTROLS: &[Control] = &[
    Control {
        rule: "Fence",
        within: 60,
        faults: Some("point_stall"),
        what: "no fence: stores take lower tokens",
    },
    Control { rule: "Lease", within: 60, faults: None, what: "no lease: a node trusts its session for ever" },
    Control { rule: "R2", within: 60, faults: None, what: "loading without opening: floors do not rise" },
    Control { rule: "R3", within: 60, faults: None, what: "the grant alone as token" },
    Control { rule: "OwnTurn", within: 60, faults: None, what: "turns that end with their caller, half-way" },
    Control { rule: "LogSync", within: 10, faults: Some("all_crash"), what: "a log that skips fsync" },
    Control {
        rule: "EpochKept",
        within: 10,
        faults: Some("all_crash"),
        what: "votes and grants that a restart forgets",
    },
    Control { rule: "SnowflakeSession", within: 60, faults: None, what: "worker ids without a session" },
    Control { rule: "R17", within: 60, faults: None, what: "a watch that goes back in revision" },
    Control { rule: "R12", within: 60, faults: None, what: "the deadline in a global" },
    Control { rule: "Exit", within: 60, faults: None, what: "no exit check" },
];

/// Runs all of them, or one; whether each was caught.
pub fn run(binary: &Path, only: Option<&str>, jobs: usize) -> Result<bool> {
    let chosen: Vec<&Control> = CONTROLS.iter().filter(|c| only.is_none_or(|o| o == c.rule)).collect();
    if chosen.is_empty() {
        bail!(
            "no control switches {only:?} off; there are {:?}",
            CONTROLS.iter().map(|c| c.rule).collect::<Vec<_>>()
        );
    }
    let mut caught = 0;
    for control in &chosen {
        let campaign = Campaign {
            binary: binary.to_owned(),
            only: control.faults.map(str::to_owned),
            off: Some(control.rule.to_owned()),
            jobs,
        };
        let (mut ran, mut found) = (0, None);
        campaign.each(1..control.within + 1, |one| {
            ran += 1;
            if let Some(first) = one.faults().into_iter().next()
                && found.is_none()
            {
                found = Some((one.seed, first));
            }
            Ok(found.is_none())
        })?;
        match found {
            Some((seed, how)) => {
                caught += 1;
                let how = how.lines().next().unwrap_or_default();
                println!(
                    "CAUGHT  {:<16} seed {seed:>3} of {}: {} [{how}]",
                    control.rule, control.within, control.what
                );
            }
            None => println!("MISSED  {:<16} within {ran} seeds: {}", control.rule, control.what),
        }
    }
    println!("{}", serde_json::json!({ "controls": chosen.len(), "controls_caught": caught }));
    Ok(caught == chosen.len())
}
