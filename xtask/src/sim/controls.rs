//! Must-fail controls: the product without one of its rules, on the same seeds. A simulator that does not
//! see that is blind, so each must be caught within its number of seeds.

use std::path::Path;

use anyhow::{Result, bail};

use super::campaign::{Campaign, Sums};

/// A control: the rule that is off, and the seeds within which that must show.
struct Control {
    rule: &'static str,
    within: u64,
    show: Show,
    what: &'static str,
}

/// What shows a control's harm.
enum Show {
    /// Whatever a seed has.
    Any,
    /// Faults of this kind.
    Only(&'static str),
    /// Runs aimed at it.
    Aim(&'static str),
}

impl Control {
    const fn new(rule: &'static str, within: u64, show: Show, what: &'static str) -> Self {
        Self { rule, within, show, what }
    }
}

const CONTROLS: &[Control] = &[
    Control::new("Fence", 10, Show::Aim("store"), "no fence: stores take lower tokens"),
    Control::new("Lease", 10, Show::Aim("lease"), "no lease: a node trusts its session for ever"),
    Control::new("R2", 10, Show::Aim("store"), "loading without opening: floors do not rise"),
    Control::new("R3", 10, Show::Any, "the grant alone as token"),
    Control::new("OwnTurn", 10, Show::Aim("own_turn"), "turns that end with their caller, half-way"),
    Control::new("LogSync", 10, Show::Only("all_crash"), "a log that skips fsync"),
    Control::new("EpochKept", 10, Show::Only("all_crash"), "votes and grants that a restart forgets"),
    Control::new("SnowflakeSession", 10, Show::Aim("ids"), "worker ids without a session"),
    Control::new("R17", 10, Show::Aim("watch"), "a watch without revision, that goes back"),
    Control::new("R12", 10, Show::Aim("exit"), "the deadline in a global"),
    Control::new("Exit", 10, Show::Aim("exit"), "no exit check"),
];

/// Runs all of them, or one; with `resume`, the count is added to the sums there. Whether each was caught.
pub fn run(binary: &Path, only: Option<&str>, jobs: usize, resume: Option<&Path>) -> Result<bool> {
    let chosen: Vec<&Control> = CONTROLS.iter().filter(|c| only.is_none_or(|o| o == c.rule)).collect();
    if chosen.is_empty() {
        bail!(
            "no control switches {only:?} off; there are {:?}",
            CONTROLS.iter().map(|c| c.rule).collect::<Vec<_>>()
        );
    }
    let mut caught = 0;
    for control in &chosen {
        let (only, aim) = match control.show {
            Show::Any => (None, None),
            Show::Only(kind) => (Some(kind.to_owned()), None),
            Show::Aim(aim) => (None, Some(aim.to_owned())),
        };
        let campaign =
            Campaign { binary: binary.to_owned(), only, aim, off: Some(control.rule.to_owned()), jobs };
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
    if let Some(path) = resume {
        let mut sums = Sums::of(path)?;
        (0..chosen.len()).for_each(|n| sums.verdict.control(n < caught));
        sums.keep(path)?;
    }
    println!("{}", serde_json::json!({ "controls": chosen.len(), "controls_caught": caught }));
    Ok(caught == chosen.len())
}
