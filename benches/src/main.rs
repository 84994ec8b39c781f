//! The benchmarks' program. `cargo xtask bench` builds it, asks it what there is, and runs one side of one
//! row per process; a figure can be had by hand with `cargo run --release -p millet-benches -- run ROW SIDE`.
//! So it does with the points of the sweeps (`--sweeps`): `… -- sweep NAME POINT`.
//!
//! `row`: what a row is; `rows`: the table, one file each; `floors`: what ours is compared with; `drive` and
//! `tells`: the loops that all sides share; `bare`: a mailbox alone; `child`, `host`: other processes. `sweep`,
//! `sweeps`: how cost grows, one file each; `spread`, `echo`: their grains; `meta`: the metadata machine by
//! hand. `counts`: single operations whose instructions are counted, not timed.

mod bare;
mod child;
mod counter;
mod counts;
mod drive;
mod echo;
mod floors;
mod host;
mod memory;
mod meta;
mod node;
mod row;
mod rows;
mod solo;
mod spread;
mod stored;
mod sweep;
mod sweeps;
mod tells;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use counts::COUNTS;
use row::{Figures, Size};
use rows::ROWS;
use sweeps::SWEEPS;

/// Measured better than the system's (docs/dependencies.md says why our binaries do not ship with it).
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: millet-benches list
       millet-benches run ROW SIDE [--smoke]
       millet-benches sweeps
       millet-benches sweep NAME POINT [--smoke]
       millet-benches counts
       millet-benches count NAME OPS";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millet-benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> Result<()> {
    match words {
        ["list"] => println!("{}", serde_json::to_string(ROWS)?),
        ["run", row, side] => run(row, side, Size { smoke: false })?,
        ["run", row, side, "--smoke"] => run(row, side, Size { smoke: true })?,
        ["sweeps"] => println!("{}", serde_json::to_string(SWEEPS)?),
        ["sweep", name, point] => sweep(name, point, Size { smoke: false })?,
        ["sweep", name, point, "--smoke"] => sweep(name, point, Size { smoke: true })?,
        ["counts"] => println!("{}", serde_json::to_string(COUNTS)?),
        ["count", name, ops] => count(name, ops.parse().context("OPS is a number")?)?,
        // For the rows' own other processes.
        ["child", "floor"] => {
            drop(child::end_with_parent());
            drive::in_pool(floors::net::serve(|grpc, tcp| child::say_ready(&format!("{grpc} {tcp}"))))?;
        }
        ["child", words @ ..] => host::run(words)?,
        _ => bail!("{USAGE}"),
    }
    Ok(())
}

/// Does one side's work once and prints its figures as a JSON object.
fn run(row: &str, side: &str, size: Size) -> Result<()> {
    let row = named("row", ROWS, |r| r.name, row)?;
    let side = named("side", row.sides, |s| s.name, side).context(row.name)?;
    let figures = (side.run)(size).with_context(|| format!("{}, {}", row.name, side.name))?;
    print(figures);
    Ok(())
}

/// Does one point's work once and prints its figures as a JSON object; where the machine cannot, why.
fn sweep(name: &str, point: &str, size: Size) -> Result<()> {
    let sweep = named("sweep", SWEEPS, |s| s.name, name)?;
    let point = point.parse().with_context(|| format!("{point:?} is no point of {name}"))?;
    match memory::shortage((sweep.memory)(point))? {
        Some(why) => println!("{}", serde_json::json!({ MISSING: why })),
        None => print((sweep.run)(point, size).with_context(|| format!("{name} at {point}"))?),
    }
    Ok(())
}

/// Stands where the figures would be.
const MISSING: &str = "missing";

fn print(figures: Figures) {
    let figures: serde_json::Map<_, _> = figures.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
    println!("{}", serde_json::Value::Object(figures));
}

/// Does one operation so many times and prints nothing: what it costs is seen from outside.
fn count(name: &str, ops: u64) -> Result<()> {
    let count = named("operation", COUNTS, |c| c.name, name)?;
    (count.run)(ops).with_context(|| count.name)
}

/// The one of this name; where there is none, what there is.
fn named<'t, T>(kind: &str, all: &'t [T], name: fn(&T) -> &'static str, wanted: &str) -> Result<&'t T> {
    all.iter().find(|one| name(one) == wanted).with_context(|| {
        let names: Vec<&str> = all.iter().map(name).collect();
        format!("no {kind} {wanted:?}; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A goal or peer that names a side or figure which is not there would never be looked at.
    #[test]
    fn rows_are_named_once_and_goals_name_sides_that_exist() {
        let mut names = BTreeSet::new();
        for row in ROWS {
            assert!(names.insert(row.name), "{} twice", row.name);
            let listed = serde_json::to_value(row).unwrap();
            for goal in listed["goals"].as_array().unwrap() {
                for of in [&goal["of"], &goal["by"]].into_iter().filter_map(|name| name.as_str()) {
                    let mut known = row.sides.iter().map(|s| s.name).chain(row.peers.iter().map(|p| p.name));
                    assert!(known.any(|name| name == of), "{}: a goal names {of:?}", row.name);
                }
            }
        }
    }

    /// The small form takes the first two, and a plot needs a line.
    #[test]
    fn sweeps_are_named_once_and_their_points_rise() {
        let mut names = BTreeSet::new();
        for sweep in SWEEPS {
            assert!(names.insert(sweep.name), "{} twice", sweep.name);
            assert!(sweep.points.len() >= 2 && sweep.points[0] > 0, "{}", sweep.name);
            assert!(sweep.points.is_sorted_by(|a, b| a < b), "{}", sweep.name);
        }
    }

    /// Placement is pure and quick: its goals are held here, not only measured.
    #[test]
    fn placement_is_within_its_goals() {
        let row = ROWS.iter().find(|r| r.name == "placement").unwrap();
        let figures = (row.sides[0].run)(Size { smoke: true }).unwrap();
        for (name, value) in figures.into_iter().filter(|(name, _)| *name != "place_us") {
            assert!(value <= 1.1, "{name} is {value}");
        }
    }
}
