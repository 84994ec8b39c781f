//! The alternation: pass after pass over all rows, in each row one side after the other and then the peers,
//! so that whatever drifts drifts for all. Each run is a process of its own, bounded in time.

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{figures::Samples, peers::Peers, rows::Row};

/// A run that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(300);
/// The small form is done in a moment, but its machine may be busy.
const SMOKE_LIMIT: Duration = Duration::from_secs(60);

/// What the passes gave.
#[derive(Default)]
pub struct Measured {
    /// Per row and side (or peer).
    pub samples: BTreeMap<(String, String), Samples>,
    /// Runs that failed; each was told.
    pub failures: usize,
}

/// Runs every side `runs` times.
pub fn measure(binary: &Path, rows: &[Row], peers: Option<&Peers>, runs: usize) -> Result<Measured> {
    let mut measured = Measured::default();
    for pass in 0..runs {
        for row in rows {
            eprintln!("pass {} of {runs}: {}", pass + 1, row.name);
            for side in &row.sides {
                if let Some(program) = side.lacks() {
                    eprintln!("SKIPPED {}, {}: needs {program}", row.name, side.name);
                    continue;
                }
                let figures = one(binary, row, &side.name, false);
                measured.keep(pass, row, &side.name, figures);
            }
            for (name, figures) in peers.map(|p| p.run(row)).unwrap_or_default() {
                measured.keep(pass, row, &name, figures);
            }
        }
    }
    Ok(measured)
}

impl Measured {
    fn keep(&mut self, pass: usize, row: &Row, side: &str, figures: Result<BTreeMap<String, f64>>) {
        match figures {
            Ok(figures) => {
                let samples = self.samples.entry((row.name.clone(), side.to_owned())).or_default();
                samples.add(pass, figures);
            }
            Err(error) => {
                self.failures += 1;
                eprintln!("{}, {side}: {error:#}", row.name);
            }
        }
    }
}

/// Runs every side once in small form; true if all ended well.
pub fn smoke(binary: &Path, rows: &[Row]) -> Result<bool> {
    let (start, mut failed, mut sides) = (Instant::now(), 0, 0);
    for row in rows {
        for side in &row.sides {
            if let Some(program) = side.lacks() {
                println!("SKIPPED {}, {}: needs {program}", row.name, side.name);
                failed += usize::from(std::env::var_os("MILLET_NO_SKIP").is_some());
                continue;
            }
            sides += 1;
            if let Err(error) = one(binary, row, &side.name, true) {
                failed += 1;
                eprintln!("FAILED {}, {}: {error:#}", row.name, side.name);
            }
        }
    }
    println!(
        "{} rows, {sides} sides once in small form, {failed} failed, {:.1} s",
        rows.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

/// One side's work, once.
fn one(binary: &Path, row: &Row, side: &str, smoke: bool) -> Result<BTreeMap<String, f64>> {
    figures(&said(binary, &["run", &row.name, side], smoke)?)
}

/// Runs the benchmarks' program with these words, in full or in small form; what it said.
pub fn said(binary: &Path, words: &[&str], smoke: bool) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(words).args(smoke.then_some("--smoke"));
    bounded(&mut command, if smoke { SMOKE_LIMIT } else { LIMIT })
}

/// The figures in what it said.
pub fn figures(said: &str) -> Result<BTreeMap<String, f64>> {
    let figures: BTreeMap<String, f64> =
        serde_json::from_str(said.trim()).with_context(|| format!("its figures are {said:?}"))?;
    match figures.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => bail!("{name} is {value}"),
        None => Ok(figures),
    }
}

/// Runs a program to its end, or ends it at the limit; what it said. Its errors go straight through.
pub fn bounded(command: &mut Command, limit: Duration) -> Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start it")?;
    let mut out = child.stdout.take().context("its output is piped")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            bail!("not done after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let Ok(text) = reader.join() else { bail!("reading its output panicked") };
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(text?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended_and_one_that_fails_is_told() {
        let slow = bounded(Command::new("sleep").arg("30"), Duration::from_millis(50));
        assert!(slow.unwrap_err().to_string().contains("not done"));
        let wrong = bounded(&mut Command::new("false"), Duration::from_secs(10));
        assert!(wrong.unwrap_err().to_string().contains("ended with"));
        assert_eq!(bounded(Command::new("echo").arg("x"), Duration::from_secs(10)).unwrap(), "x\n");
    }
}
