//! Runs the rows, judges what every row must keep, and prints the table.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::future::join_all;

use crate::{
    call::{Connection, good, is_served},
    child::Target,
    others::Others,
    rows::{self, Row},
};

/// What a row may cost the node.
const GROWTH: u64 = 64 * 1024;
/// Open files that the largest row needs in either process, with room.
const FILES: u64 = 8192;

/// One line of the table.
struct Line {
    name: &'static str,
    expected: &'static str,
    seen: Result<String, String>,
    growth: u64,
    slowest: Duration,
    took: Duration,
}

/// Runs every row, or one.
pub async fn run(only: Option<&str>) -> ExitCode {
    raise_files();
    let (quick, patient): (Vec<Row>, Vec<Row>) = rows::all()
        .into_iter()
        .filter(|row| only.is_none_or(|name| row.name == name))
        .partition(|row| !row.patient);
    if quick.is_empty() && patient.is_empty() {
        let names: Vec<_> = rows::all().iter().map(|row| row.name).collect();
        eprintln!("no row {:?}; rows are {}", only.unwrap_or(""), names.join(", "));
        return ExitCode::from(2);
    }
    let mut target = Target::start();
    warm(&target).await;
    let mut lines = Vec::new();
    for row in quick {
        lines.extend(group(&mut target, vec![row]).await);
    }
    if !patient.is_empty() {
        // Rows that mostly wait, wait together.
        lines.extend(group(&mut target, patient).await);
    }
    print(&lines);
    let failed = lines.iter().filter(|l| l.seen.is_err()).count();
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{failed} of {} rows failed; one alone: cargo xtask abuse --only ROW", lines.len());
    ExitCode::FAILURE
}

/// First calls take memory that stays: not the attack's.
async fn warm(target: &Target) {
    let others = Others::start(target);
    millet_testkit::until_async("the node serves", async || others.seen_served() >= 100, crate::call::LIMIT)
        .await;
    others.end().await;
}

/// Runs rows at the same time; what is judged of the whole node is judged once for all of them.
async fn group(target: &mut Target, rows: Vec<Row>) -> Vec<Line> {
    let memory = target.watch();
    let others = Others::start(target);
    let shared: &Target = target;
    let runs = rows.iter().map(|row| async move {
        let start = Instant::now();
        (row.run)(shared).await.map(|seen| (seen, start.elapsed())).map_err(|why| (why, start.elapsed()))
    });
    let results = join_all(runs).await;
    let accepts = accepts(target).await;
    let growth = memory.growth();
    let seen = others.end().await;
    let mut wrong = Vec::new();
    if !target.is_alive() {
        wrong.push("the node has ended".to_owned());
    }
    if growth > GROWTH {
        wrong.push(format!("memory grew by {} MiB", growth / 1024));
    }
    if seen.served == 0 || !seen.errors.is_empty() {
        wrong.push(format!("others: {} served, errors {:?}", seen.served, seen.errors));
    }
    wrong.extend(accepts);
    let line = |(row, result): (Row, Result<_, _>)| {
        let (seen_by_row, took) = match result {
            Ok((text, took)) => (Ok(text), took),
            Err((text, took)) => (Err(text), took),
        };
        let judged = match seen_by_row {
            Ok(text) if wrong.is_empty() => Ok(text),
            Ok(text) => Err(format!("{text}; {}", wrong.join("; "))),
            Err(text) => Err([vec![text], wrong.clone()].concat().join("; ")),
        };
        Line { name: row.name, expected: row.expected, seen: judged, growth, slowest: seen.slowest, took }
    };
    rows.into_iter().zip(results).map(line).collect()
}

/// Whether every port still takes a connection and a call; what is wrong if not.
async fn accepts(target: &Target) -> Vec<String> {
    let mut wrong = Vec::new();
    for (port, addr) in target.ports() {
        let (path, headers, message) = good(port);
        match Connection::open(addr).await {
            Ok(connection) => {
                let answer = connection.call(path, headers, message).await;
                if !is_served(port, &answer) {
                    wrong.push(format!("afterwards {port} answers {}", answer.short()));
                }
            }
            Err(why) => wrong.push(format!("afterwards {port} does not accept: {why}")),
        }
    }
    wrong
}

fn print(lines: &[Line]) {
    let width = |f: fn(&Line) -> usize| lines.iter().map(f).max().unwrap_or(0);
    let (name, expected) = (width(|l| l.name.len()), width(|l| l.expected.chars().count()));
    println!(
        "{:<name$}  {:<expected$}  {:>9}  {:>8}  {:>6}  seen",
        "row", "expected", "RSS", "slowest", "took"
    );
    for line in lines {
        let (mark, seen) = match &line.seen {
            Ok(seen) => ("", seen),
            Err(seen) => ("FAILED ", seen),
        };
        println!(
            "{:<name$}  {:<expected$}  {:>5} KiB  {:>5} ms  {:>4.1} s  {mark}{seen}",
            line.name,
            line.expected,
            line.growth,
            line.slowest.as_millis(),
            line.took.as_secs_f64(),
        );
    }
}

/// Thousands of connections need as many files; the child inherits the limit.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|now| now < FILES) {
        let raised = Rlimit { current: Some(limit.maximum.unwrap_or(FILES).min(FILES)), ..limit };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            eprintln!("the limit of open files stays at {:?}: {e}", limit.current);
        }
    }
}
