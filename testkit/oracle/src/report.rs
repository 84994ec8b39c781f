//! What people and scripts see: one screen, and one line of JSON at the end of it.

use std::fmt::{self, Write as _};

use serde_json::json;

use crate::{
    findings::{Standing, Violation},
    history::Invariant,
    verdict::Verdict,
};

/// Reasons of one invalid invariant on the screen.
const REASONS: usize = 3;

impl Verdict {
    /// The last line of a run: `{"seeds","sim_hours","faults","ok","unknown","violations",
    /// "controls_caught","failover_ms_p99"}`. `faults` counts those that took effect; a p99 of nothing is
    /// null.
    pub fn summary(&self) -> String {
        let faults: u64 = self.faults.values().map(|e| e.effective).sum();
        json!({
            "seeds": self.seeds,
            "sim_hours": (self.hours() * 1000.0).round() / 1000.0,
            "faults": faults,
            "ok": self.ops.ok,
            "unknown": self.ops.unknown,
            "violations": self.violation_count(),
            "controls_caught": self.controls_caught,
            "failover_ms_p99": self.failover_ms.percentile(99),
        })
        .to_string()
    }

    fn hours(&self) -> f64 {
        self.time_us as f64 / 3.6e9
    }

    /// The report on one screen; violations follow with their timelines.
    pub fn screen(&self) -> String {
        let mut text = String::new();
        self.render(&mut text).expect("writing to a string succeeds");
        text
    }

    fn render(&self, to: &mut String) -> fmt::Result {
        writeln!(
            to,
            "{:?}: {} runs, {:.2} h, ops {} ok, {} failed, {} unknown; {} violations",
            self.standing(),
            self.seeds,
            self.hours(),
            self.ops.ok,
            self.ops.fail,
            self.ops.unknown,
            self.violation_count()
        )?;
        for invariant in Invariant::ALL {
            let Some(tally) = self.invariants.get(&invariant) else { continue };
            let standing = match tally.standing() {
                Standing::Idle => "–",
                Standing::Pass => "PASS",
                Standing::Invalid => "INVALID",
                Standing::Fail => "FAIL",
            };
            write!(to, "  {:<32} {standing:<8} {:>10} checked", invariant.title(), tally.checked)?;
            if tally.violations > 0 {
                write!(to, ", {} broken", tally.violations)?;
            }
            writeln!(to)?;
            for why in tally.invalid.iter().take(REASONS) {
                writeln!(to, "      {why}")?;
            }
        }
        for (kind, effects) in &self.faults {
            writeln!(
                to,
                "  fault {kind:<26} {:>6} of {:>6} took effect",
                effects.effective, effects.scheduled
            )?;
        }
        let ms = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms} ms"));
        let (p50, p99) = (self.failover_ms.percentile(50), self.failover_ms.percentile(99));
        writeln!(
            to,
            "  failover of {} grains: p50 {}, p99 {}, max {}; leases overlapped {} times, at most {} ms",
            self.failover_ms.count(),
            ms(p50),
            ms(p99),
            ms(self.failover_ms.max()),
            self.overlaps,
            self.longest_overlap_us.div_ceil(1000)
        )?;
        if self.controls > 0 {
            writeln!(to, "  controls caught: {} of {}", self.controls_caught, self.controls)?;
        }
        for violation in &self.violations {
            write!(to, "{violation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "VIOLATION {} (seed {}) {}: {}",
            self.invariant.title(),
            self.seed,
            self.grain,
            self.what
        )?;
        if !self.ops.is_empty() {
            writeln!(f, "  ops {:?}", self.ops)?;
        }
        self.timeline.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
