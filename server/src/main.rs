//! The `millet` binary: a node that is a member of the metadata store and hosts no grains, and the tools to
//! make a cluster of such nodes, or a new one of what is left of an old one.

mod offline;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use millet::{Node, config::Config, node::init_cluster, world::World};

#[derive(Parser)]
#[command(name = "millet", version, about = "Millet: a metadata node, and tools to make a cluster")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a metadata-only node until SIGTERM; with a command behind `--`, runs that as the launcher of a
    /// node, whose session it closes at once should the node crash.
    Run {
        /// A TOML file; the environment (MILLET_SECTION_KEY) overrides it.
        #[arg(long, conflicts_with = "command")]
        config: Option<PathBuf>,
        /// The node to launch, and its arguments.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Makes a cluster of fresh members, once. The same list again is harmless.
    Init {
        /// Every member's peer address, host:port, as the members themselves are told.
        #[arg(long, value_delimiter = ',', required = true)]
        members: Vec<String>,
    },
    /// Backups and recovery, on files: `milletctl meta` has what works on a cluster that runs.
    #[command(subcommand)]
    Meta(offline::Meta),
    /// Prints every setting with its default and reason; with a file: the settings in force.
    Config {
        /// A TOML file.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// Exit codes: 0 done, 1 refused or failed, 2 nothing ran (nobody reached, wrong arguments).
fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MILLET_LOG")
        .unwrap_or_else(|_| "info,openraft=error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let (done, code) = match Args::parse().command {
        Command::Run { config, command } if command.is_empty() => (block_on(run(config)), 1),
        Command::Run { command, .. } => return launch(&command),
        Command::Init { members } => (block_on(init(members)), 2),
        Command::Meta(command) => (block_on(offline::run(command)), 1),
        Command::Config { config: None } => {
            print!("{}", reference());
            (Ok(()), 1)
        }
        Command::Config { config } => (load(config).map(|config| print!("{}", config.to_toml())), 1),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            code.into()
        }
    }
}

/// Exit codes: the command's, or 128 and the signal that ended it; 125 to 127 if it was not run.
#[cfg(target_os = "linux")]
fn launch(command: &[OsString]) -> ExitCode {
    match millet::launcher::run(command) {
        Ok(code) => code.into(),
        Err(e) => {
            eprintln!("error: {e}");
            e.code().into()
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn launch(_: &[OsString]) -> ExitCode {
    eprintln!("error: only Linux has what a launcher needs; start the node itself");
    ExitCode::from(125)
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

async fn init(members: Vec<String>) -> anyhow::Result<()> {
    let cluster = init_cluster(&World::here(), &members).await.map_err(anyhow::Error::msg)?;
    println!("{cluster}");
    Ok(())
}

fn load(path: Option<PathBuf>) -> anyhow::Result<Config> {
    match path {
        Some(path) => Config::load(&path).context("settings refused"),
        None => Config::read(None, std::env::vars()).context("settings refused"),
    }
}

async fn run(path: Option<PathBuf>) -> anyhow::Result<()> {
    let mut config = load(path)?;
    config.node.roles = vec!["meta".into()];
    let node = Node::builder().config(config).start().await?;
    let departure = node.until_signal().await?;
    tracing::info!(?departure, "left");
    Ok(())
}

fn reference() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in Config::reference() {
        if section != key.section {
            section = key.section;
            text.push_str(&format!("[{section}]\n"));
        }
        text.push_str(&format!("# {}\n{} = {}\n", key.doc, key.key, key.default));
    }
    text
}
