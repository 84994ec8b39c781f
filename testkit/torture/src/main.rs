//! Real processes under every fault a machine can make: `run` drives a cluster of three metadata members
//! and three workers, its clients and its faults, and judges what came of it; `node` is one such process.
//!
//! Start it with `cargo xtask torture --seconds 60`.

mod cluster;
mod host;
mod nemesis;
mod net;
mod node;
mod probe;
mod report;
mod run;
mod spec;
mod traffic;
mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "millet-torture", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a cluster under faults and judges it.
    Run(run::Options),
    /// Runs one node of such a cluster; the driver starts these.
    Node {
        /// The file that describes it.
        #[arg(long)]
        spec: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let default = match &cli.command {
        Command::Run(options) => options.log_filter(),
        Command::Node { .. } => "info,openraft=error",
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MILLET_LOG").unwrap_or_else(|_| default.into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match cli.command {
        Command::Node { spec } => node::run(&spec),
        Command::Run(options) => {
            let room = host::room::enter(!options.unprivileged)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let code = runtime.block_on(run::run(options, room))?;
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            std::process::exit(code)
        }
    }
}
