//! The `millet` binary: a node that is a member of the metadata store and hosts no grains, and the tools to
//! make a cluster of such nodes.

use std::path::PathBuf;

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
    /// Runs a metadata-only node until SIGTERM.
    Run {
        /// A TOML file; the environment (MILLET_SECTION_KEY) overrides it.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Makes a cluster of fresh members, once. The same list again is harmless.
    Init {
        /// Every member's peer address, host:port, as the members themselves are told.
        #[arg(long, value_delimiter = ',', required = true)]
        members: Vec<String>,
    },
    /// Prints every setting with its default and reason; with a file: the settings in force.
    Config {
        /// A TOML file.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MILLET_LOG")
        .unwrap_or_else(|_| "info,openraft=error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match Args::parse().command {
        Command::Run { config } => runtime.block_on(run(config)),
        Command::Init { members } => runtime.block_on(async {
            let cluster = init_cluster(&World::here(), &members).await.map_err(anyhow::Error::msg)?;
            println!("{cluster}");
            Ok(())
        }),
        Command::Config { config: None } => {
            print!("{}", reference());
            Ok(())
        }
        Command::Config { config } => {
            print!("{}", load(config)?.to_toml());
            Ok(())
        }
    }
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
