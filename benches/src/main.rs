//! Benchmarks that print a figure and how it was measured: `cargo run --release -p millet-benches -- NAME`.
//!
//! One file per benchmark, one row below; a benchmark takes its flags and prints its own lines.

mod counter;
mod flags;
mod idle_bytes;
mod solo;

use std::process::ExitCode;

use flags::Flags;

/// A benchmark: its name, what it tells, and what runs it.
struct Bench {
    name: &'static str,
    tells: &'static str,
    run: fn(&Flags) -> anyhow::Result<()>,
}

const BENCHES: &[Bench] = &[Bench {
    name: "idle-bytes",
    tells: "bytes of memory per idle grain, everything counted [--grains 1000000]",
    run: idle_bytes::run,
}];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        eprintln!("usage: millet-benches NAME [--flag value]...");
        for bench in BENCHES {
            eprintln!("  {:<12} {}", bench.name, bench.tells);
        }
        return ExitCode::from(2);
    };
    match Flags::parse(words).and_then(|flags| (bench.run)(&flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
