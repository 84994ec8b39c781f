//! `millet meta`: what works on files, without a cluster: reading a backup through, and making the first
//! member of a new cluster from a backup or from what a lost cluster has left. What works on a cluster that
//! runs is in `milletctl meta`.

use std::{path::PathBuf, time::Duration};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use millet::world::World;
use millet_raft_meta::backup::{NewMember, Recovered, force_new_cluster, restore, verify};

#[derive(Subcommand)]
pub enum Meta {
    /// Reads a backup through, every byte, and prints what it holds.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Makes the first member of a new cluster from a backup.
    Restore {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        new: New,
    },
    /// Makes the first member of a new cluster from a member of one that has lost its majority for good.
    /// What only the lost members had is gone. The old directory stays as it is.
    ForceNewCluster {
        /// The surviving member's data directory; the member must not run.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// The old cluster's name or id, typed.
        #[arg(long, value_name = "CLUSTER")]
        confirm: String,
        #[command(flatten)]
        new: New,
    },
}

#[derive(Args)]
pub struct New {
    /// The new member's data directory (its node.data_dir): an empty one.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The new member's peer address, as others will dial it (its node.peer_advertise or peer_listen).
    #[arg(long, value_name = "HOST:PORT")]
    addr: String,
    /// The new cluster's name; else the old one's.
    #[arg(long, default_value = "")]
    name: String,
    /// The session TTL of the old cluster (cluster.session_ttl_ms), where it was longer than the default.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    ttl_ms: u64,
}

impl New {
    fn member(self, world: &World) -> anyhow::Result<NewMember> {
        if self
            .addr
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(anyhow!("{:?} is no peer address; write HOST:PORT", self.addr));
        }
        Ok(NewMember {
            dir: self.data_dir,
            addr: self.addr,
            name: self.name,
            ttl: Duration::from_millis(self.ttl_ms),
            disk: world.disk.clone(),
            threads: world.threads.clone(),
            entropy: world.entropy.clone(),
            clock: world.clock.clone(),
        })
    }
}

pub async fn run(command: Meta) -> anyhow::Result<()> {
    let world = World::here();
    match command {
        Meta::Verify { file } => {
            let found = verify(&*world.disk, &file)?;
            let (head, state, meta) = (&found.header, &found.state, &found.meta);
            println!("{}: a whole backup of {} bytes", file.display(), found.bytes);
            println!("cluster:    {}", head.cluster);
            println!("taken:      {} ms since 1970, by member {}", head.taken_ms, head.member);
            for member in &head.members {
                println!("member:     {} at {}", member.id, member.addr);
            }
            println!(
                "meta:       up to entry {}, {} sessions, {} types, {} leases",
                found.meta_index,
                meta.sessions().count(),
                meta.types().count(),
                meta.lease_rows()
            );
            println!(
                "state:      up to entry {}, {} values, {} rows of {} bytes",
                found.state_index, state.values, state.rows, state.bytes
            );
            println!("generation: {}; a restore begins above it", found.generation());
            Ok(())
        }
        Meta::Restore { file, new } => {
            let new = new.member(&world)?;
            made(&world, &restore(&file, &new)?, &new).await;
            Ok(())
        }
        Meta::ForceNewCluster { from, confirm, new } => {
            let new = new.member(&world)?;
            made(&world, &force_new_cluster(&from, &confirm, &new)?, &new).await;
            Ok(())
        }
    }
}

/// Says what was made, and how it goes on. Not before the next second: a generation is at least the seconds
/// of now, so that two recoveries one after the other never share one.
async fn made(world: &World, made: &Recovered, new: &NewMember) {
    while world.clock.wall_ms() / 1_000 <= u64::from(made.generation) {
        let seconds_ahead = u64::from(made.generation).saturating_sub(world.clock.wall_ms() / 1_000);
        if seconds_ahead > 1 {
            break; // the old cluster's own generation was ahead of the clock: the next one is above this
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("cluster:    {}", made.cluster);
    println!("came from:  {}", made.old);
    println!("generation: {}", made.generation);
    println!("state:      {} values", made.values);
    println!("next:       start the node with node.data_dir = {:?}; it leads alone at once,", new.dir);
    println!("            then add members with `milletctl meta add HOST:PORT`");
    println!("            nodes must name the new cluster or its members; those of {} are refused", made.old);
}
