//! The sweeps, as the benchmarks' program describes them, and their runs: pass after pass over all points of
//! all sweeps, each point in a process of its own.

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::Result;
use serde::Deserialize;

use super::{figures::Samples, passes};

/// One plot.
#[derive(Deserialize)]
pub struct Sweep {
    pub name: String,
    pub work: String,
    /// What grows.
    pub axis: String,
    pub points: Vec<u64>,
}

/// What the passes gave.
#[derive(Default)]
pub struct Measured {
    /// Per sweep and point.
    pub samples: BTreeMap<(String, u64), Samples>,
    /// Points that this machine cannot run, and why.
    pub missing: BTreeMap<(String, u64), String>,
    /// Runs that failed; each was told.
    pub failures: usize,
}

/// What one run of a point said.
enum Said {
    Figures(BTreeMap<String, f64>),
    Missing(String),
}

/// Stands where the figures would be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Missing {
    missing: String,
}

/// Points of the small form.
const SMALLEST: usize = 2;

/// Runs every point `runs` times; a point that does not fit is asked once.
pub fn measure(binary: &Path, sweeps: &[Sweep], runs: usize) -> Measured {
    let mut measured = Measured::default();
    for pass in 0..runs {
        for sweep in sweeps {
            eprintln!("pass {} of {runs}: {}", pass + 1, sweep.name);
            for point in &sweep.points {
                let at = (sweep.name.clone(), *point);
                if !measured.missing.contains_key(&at) {
                    measured.keep(pass, at, one(binary, sweep, *point, false));
                }
            }
        }
    }
    measured
}

impl Measured {
    fn keep(&mut self, pass: usize, at: (String, u64), said: Result<Said>) {
        match said {
            Ok(Said::Figures(figures)) => self.samples.entry(at).or_default().add(pass, figures),
            Ok(Said::Missing(why)) => {
                eprintln!("MISSING {} at {}: {why}", at.0, at.1);
                self.missing.insert(at, why);
            }
            Err(error) => {
                self.failures += 1;
                eprintln!("FAILED {} at {}: {error:#}", at.0, at.1);
            }
        }
    }
}

/// Runs the smallest points of every sweep once in small form; true if all ended well.
pub fn smoke(binary: &Path, sweeps: &[Sweep]) -> bool {
    let (start, mut measured, mut points) = (Instant::now(), Measured::default(), 0);
    for sweep in sweeps {
        for point in sweep.points.iter().take(SMALLEST) {
            points += 1;
            measured.keep(0, (sweep.name.clone(), *point), one(binary, sweep, *point, true));
        }
    }
    println!(
        "{} sweeps, {points} points once in small form, {} missing, {} failed, {:.1} s",
        sweeps.len(),
        measured.missing.len(),
        measured.failures,
        start.elapsed().as_secs_f64()
    );
    measured.failures == 0
}

/// One point's work, once.
fn one(binary: &Path, sweep: &Sweep, point: u64, smoke: bool) -> Result<Said> {
    read(&passes::said(binary, &["sweep", &sweep.name, &point.to_string()], smoke)?)
}

fn read(said: &str) -> Result<Said> {
    match serde_json::from_str::<Missing>(said.trim()) {
        Ok(Missing { missing }) => Ok(Said::Missing(missing)),
        Err(_) => passes::figures(said).map(Said::Figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_gives_figures_or_says_why_not() {
        assert!(matches!(read(r#"{"per_s": 2.5}"#).unwrap(), Said::Figures(f) if f["per_s"] == 2.5));
        assert!(matches!(read(r#"{"missing": "too large"}"#).unwrap(), Said::Missing(w) if w == "too large"));
        assert!(read("").is_err());
    }

    /// A point that this machine cannot run is no failure; one that fails is.
    #[test]
    fn what_is_missing_is_kept_with_its_reason_and_fails_nothing() {
        let mut measured = Measured::default();
        measured.keep(0, ("grains".into(), 10), Ok(Said::Missing("too large".into())));
        assert_eq!((measured.failures, measured.missing.len()), (0, 1));
        measured.keep(0, ("grains".into(), 1), Err(anyhow::anyhow!("ended")));
        assert_eq!((measured.failures, measured.samples.len()), (1, 0));
    }
}
