//! The production assembly in simulated time, network and disks: one seed per process, nothing random
//! that is not drawn from it. Runs one seed and prints its outcome as one line of JSON.
//!
//! - `params`: what a seed decides; `aim`: runs aimed at one rule. - `world`: what a simulated machine gives a node.
//! - `cluster`: the machines and what runs on them. - `nemesis`: what goes wrong, and whether it hurt.
//! - `run`: the loop over simulated time. - `trace`: whether two runs were the same.

mod aim;
mod cluster;
mod nemesis;
mod params;
mod run;
mod trace;
mod world;

use anyhow::{Context, Result, anyhow, bail};

/// Every host's tasks run on one stack, deep in tonic and h2.
const STACK: usize = 16 << 20;

const USAGE: &str = "usage: millet-sim --seed N [--only FAULT] [--aim AIM] [--log FILTER] [--history FILE]";

/// What the command line asks for: a run, and log lines of the product.
fn asked() -> Result<(run::Asked, Option<String>)> {
    let (mut asked, mut log) = (run::Asked { seed: 0, only: None, aim: None, history: None }, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value; {USAGE}"));
        match word.as_str() {
            "--seed" => asked.seed = value()?.parse().context("--seed needs a number")?,
            "--only" => {
                let name = value()?;
                let kind = nemesis::Kind::named(&name);
                asked.only = Some(kind.with_context(|| {
                    let all = nemesis::Kind::ALL.map(nemesis::Kind::name).join(", ");
                    format!("no fault is called {name}; faults are {all}")
                })?);
            }
            "--aim" => {
                let name = value()?;
                let all = aim::Aim::ALL.map(aim::Aim::name).join(", ");
                let aim = aim::Aim::named(&name);
                asked.aim = Some(aim.with_context(|| format!("nothing is called {name}; aims are {all}"))?);
            }
            "--log" => log = Some(value()?),
            "--history" => asked.history = Some(value()?.into()),
            other => bail!("unknown argument {other}; {USAGE}"),
        }
    }
    Ok((asked, log))
}

fn main() -> Result<()> {
    let (asked, log) = asked()?;
    if let Some(filter) = &log {
        let filter = tracing_subscriber::EnvFilter::try_new(filter).context("--log")?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        lines.with_ansi(false).with_timer(trace::SimTime).init();
    }
    // A thread of its own: hashers are seeded per thread, and what logging did on this one must not count.
    let running = std::thread::Builder::new().stack_size(STACK).spawn(move || run::seed(&asked))?;
    let outcome = running.join().map_err(|_| anyhow!("the simulation itself panicked"))??;
    println!("{}", serde_json::to_string(&outcome)?);
    let broken = outcome.verdict.violation_count() > 0 || !outcome.broken.is_empty();
    std::process::exit(i32::from(broken))
}
