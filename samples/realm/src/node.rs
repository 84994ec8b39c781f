//! One node process of the realm: hosts every grain type, and says on standard output, one JSON object a
//! line, what the demo's table shows.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use millet::{Directory, Node, Stats, config::Config};
use serde::{Deserialize, Serialize};

use crate::{gm::GameMaster, org::Guild, player::Hero, rank::Rank};

/// A node's settings, as the demo gives them.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// For logs.
    #[arg(long)]
    name: String,
    /// The data directory.
    #[arg(long)]
    dir: PathBuf,
    /// Where other nodes connect, `host:port`.
    #[arg(long)]
    peer: String,
    /// Where players connect, `host:port`.
    #[arg(long)]
    api: String,
    /// Every metadata member's peer address.
    #[arg(long, value_delimiter = ',')]
    members: Vec<String>,
    /// Forms the cluster, if it is not formed yet.
    #[arg(long)]
    init: bool,
    /// Hosts grains only: is no metadata member.
    #[arg(long)]
    worker: bool,
    /// How long the session outlives the node's last sign of life.
    #[arg(long)]
    ttl_ms: Option<u64>,
}

/// What a node says.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The process runs.
    Started { pid: u32 },
    /// It has a session.
    Ready { session: u64 },
    /// Once a second.
    Stats {
        session: u64,
        activations: u64,
        fenced: u64,
        /// Lease rows in the metadata store, from the member that leads.
        leases: Option<u64>,
        /// The `api` address of the node that leads the metadata, if this node leads.
        leader_api: Option<String>,
    },
    /// It has learned that a session ended, at this instant of the machine's boot clock.
    Ended { session: u64, boot_ns: u64 },
}

/// How often the node looks for ended sessions: the error of `lease_expiry_ms`.
const LOOK: Duration = Duration::from_millis(5);
/// Looks between two lines of figures.
const LOOKS_A_LINE: u64 = 100;
/// Runs a node until SIGTERM.
pub async fn run(o: Options) -> Result<()> {
    say(&Line::Started { pid: std::process::id() });
    let mut config = Config::default();
    config.cluster.session_ttl_ms = o.ttl_ms.unwrap_or(config.cluster.session_ttl_ms);
    config.cluster.id = "realm".into();
    config.node.name = o.name;
    config.node.data_dir = o.dir.display().to_string();
    config.node.peer_listen = o.peer;
    config.node.api_listen = o.api.clone();
    config.node.admin_listen = String::new();
    if o.members.len() > 1 || o.worker {
        config.node.members = o.members.clone();
    }
    if o.worker {
        config.node.roles = vec!["worker".into()];
    }
    let node = Node::builder()
        .config(config)
        .grain::<Hero>()
        .grain::<Guild>()
        .grain::<Rank>()
        .grain::<GameMaster>()
        .launch()
        .await?;
    if o.init && o.members.len() > 1 {
        node.form_cluster().await?;
    }
    node.ready().await;
    say(&Line::Ready { session: node.directory().session().map_or(0, |s| s.id().0) });
    let watch = tokio::spawn(report(node.stats(), node.directory().clone(), o.api));
    node.until_signal().await?;
    watch.abort();
    Ok(())
}

async fn report(stats: Stats, directory: Arc<Directory>, api: String) {
    let mut known = BTreeSet::new();
    for look in 0u64.. {
        let living: BTreeSet<u64> = directory.view().sessions().map(|s| s.id.0).collect();
        for session in known.difference(&living) {
            say(&Line::Ended { session: *session, boot_ns: crate::boot_ns() });
        }
        known = living;
        if look.is_multiple_of(LOOKS_A_LINE) {
            let now = stats.now();
            say(&Line::Stats {
                session: directory.session().map_or(0, |s| s.id().0),
                activations: now.activations,
                fenced: now.fenced_outputs,
                leases: now.leads.then_some(now.leases),
                leader_api: now.leads.then(|| api.clone()),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn say(line: &Line) {
    use std::io::Write;
    let text = serde_json::to_string(line).expect("a line is plain data");
    // The demo may be gone: then nobody listens, and the node goes on.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
