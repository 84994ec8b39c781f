//! A game realm on Millet: heroes, guilds, leaderboards and a game master, on a cluster of node
//! processes that survives the loss of any of them.

mod demo;
mod gm;
mod node;
mod org;
mod pb;
mod player;
mod rank;

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use rustix::time::{ClockId, clock_gettime};

/// The realm.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Starts nodes, drives bots, takes a node away and checks what became of every deed (the default).
    Demo(demo::Options),
    /// Runs one node; the demo starts these.
    Node(node::Options),
    /// Runs a command as `millet run -- command` does: closes the session of a node that crashes.
    Run {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,openraft=error".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match cli.command.unwrap_or(Command::Demo(cli.demo)) {
        Command::Demo(options) => std::process::exit(runtime()?.block_on(demo::run(options))?),
        Command::Node(options) => runtime()?.block_on(node::run(options)),
        Command::Run { command } => std::process::exit(launch(&command)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn launch(command: &[OsString]) -> i32 {
    let code = millet::launcher::run(command).unwrap_or_else(|e| {
        eprintln!("error: {e}");
        e.code()
    });
    code.into()
}

/// The machine's boot clock: the same for every process of the demo.
fn boot_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}
