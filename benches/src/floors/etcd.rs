//! Three members of etcd, as they come out of the package, on this machine: what a durable put costs there.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use self::wire::{PutRequest, StatusRequest, kv_client::KvClient, maintenance_client::MaintenanceClient};
use crate::{drive::Target, host::free_ports};

mod wire {
    #![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated")]
    tonic::include_proto!("etcdserverpb");
}

/// The program.
pub const PROGRAM: &str = "etcd";
const MEMBERS: usize = 3;
/// Its first leader is there within this.
const ELECTED: Duration = Duration::from_secs(30);
/// Connections that the callers share.
const CONNECTIONS: usize = 8;

/// The members; ended when dropped.
pub struct Etcd {
    members: Vec<Child>,
    clients: Vec<String>,
    _folder: TempDir,
}

impl Etcd {
    /// Starts three with their defaults, but for addresses and folders.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = free_ports(2 * MEMBERS)?;
        let (peers, clients) = ports.split_at(MEMBERS);
        let all: Vec<_> = peers.iter().enumerate().map(|(n, peer)| format!("m{n}=http://{peer}")).collect();
        let all = all.join(",");
        let mut started = Self { members: Vec::new(), clients: clients.to_vec(), _folder: folder };
        for (n, (peer, client)) in peers.iter().zip(clients).enumerate() {
            let (peer, client) = (format!("http://{peer}"), format!("http://{client}"));
            let mut command = Command::new(PROGRAM);
            command.arg("--name").arg(format!("m{n}"));
            command.arg("--data-dir").arg(started._folder.path().join(format!("m{n}")));
            for (flag, url) in [("listen-peer-urls", &peer), ("initial-advertise-peer-urls", &peer)] {
                command.arg(format!("--{flag}")).arg(url);
            }
            for (flag, url) in [("listen-client-urls", &client), ("advertise-client-urls", &client)] {
                command.arg(format!("--{flag}")).arg(url);
            }
            command.args(["--initial-cluster", &all, "--initial-cluster-state", "new"]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            started.members.push(child.context("starting etcd (Debian: etcd-server)")?);
        }
        Ok(started)
    }

    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }

    /// The address of the one that leads, once one does.
    async fn leader(&self) -> Result<&str> {
        let until = Instant::now() + ELECTED;
        while Instant::now() < until {
            for address in &self.clients {
                let Ok(channel) = endpoint(address)?.connect().await else { continue };
                let status = MaintenanceClient::new(channel).status(StatusRequest {}).await;
                let Ok(status) = status.map(tonic::Response::into_inner) else { continue };
                if status.leader != 0 && status.header.is_some_and(|own| own.member_id == status.leader) {
                    return Ok(address);
                }
            }
            // tidy: sleep: between two looks at another process, bounded
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("etcd has no leader after {ELECTED:?}")
    }

    /// Callers of its leader: nothing is passed on.
    pub async fn puts(&self) -> Result<Puts> {
        let endpoint = endpoint(self.leader().await?)?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(KvClient::new(endpoint.connect().await?));
        }
        Ok(Puts(connections))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true))
}

/// Puts 8 bytes under a key; connections are taken by key.
#[derive(Clone)]
pub struct Puts(Vec<KvClient<Channel>>);

impl Target for Puts {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let mut client = self.0[usize::try_from(key)? % self.0.len()].clone();
        let (key, value) = (format!("bench/{key}").into(), by.to_le_bytes().to_vec());
        client.put(PutRequest { key, value }).await?;
        Ok(by)
    }
}
