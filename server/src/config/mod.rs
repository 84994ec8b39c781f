//! Settings: a TOML file, overridden by the environment (`MILLET_SECTION_KEY`). Parsed once, at the start.
//!
//! Two kinds: `[cluster]` settings must be the same on every node, `[node]` settings may differ. Unknown
//! keys are refused with file, line and the nearest key; settings that contradict each other are refused
//! with the rule and the numbers. Units are in the names.

mod parse;
mod settings;

use std::{collections::BTreeSet, time::Duration};

use millet_core::limits;
use millet_directory::SessionTiming;

pub use parse::ConfigError;
pub use settings::{ClusterSettings, KeyDoc, NodeSettings};

/// A node's settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// Must match on every node.
    pub cluster: ClusterSettings,
    /// This node's own.
    pub node: NodeSettings,
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A member of the metadata store.
    Meta,
    /// Hosts grains.
    Worker,
}

impl Config {
    /// Reads a file's text (with its name, for errors) and the environment, and checks the result.
    ///
    /// ```
    /// let toml = "[cluster]\nid = \"game\"\n[node]\nname = \"a\"\n";
    /// let config = millet::config::Config::read(Some(("millet.toml", toml)), []).unwrap();
    /// assert_eq!(config.cluster.id, "game");
    /// ```
    pub fn read(
        file: Option<(&str, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some((name, text)) = file {
            parse::file(&mut config, name, text)?;
        }
        parse::environment(&mut config, env)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a file and this process's environment.
    pub fn load(path: &std::path::Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = crate::world::read_text(path)
            .map_err(|e| ConfigError::Unreadable { file: name.clone(), why: e.to_string() })?;
        Self::read(Some((&name, &text)), std::env::vars())
    }

    /// Refuses settings that contradict each other, with the rule and the numbers.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_timing()?;
        self.roles()?;
        let (c, n) = (&self.cluster, &self.node);
        if c.heartbeat_ms.saturating_mul(2) > c.election_min_ms || c.election_min_ms >= c.election_max_ms {
            return refuse(format!(
                "2 x cluster.heartbeat_ms <= cluster.election_min_ms < cluster.election_max_ms must hold, \
                 but they are 2 x {}, {} and {}",
                c.heartbeat_ms, c.election_min_ms, c.election_max_ms
            ));
        }
        // openraft's leader lease is the longest election timeout; after it an election takes one more.
        if c.quorum_probe_ms < c.election_max_ms.saturating_mul(2) {
            return refuse(format!(
                "cluster.quorum_probe_ms >= 2 x cluster.election_max_ms must hold, but {} < 2 x {}",
                c.quorum_probe_ms, c.election_max_ms
            ));
        }
        for (key, listen, advertise) in
            [("peer", &n.peer_listen, &n.peer_advertise), ("api", &n.api_listen, &n.api_advertise)]
        {
            let everywhere = listen.starts_with("0.0.0.0:") || listen.starts_with("[::]:");
            if everywhere && advertise.is_empty() {
                return refuse(format!(
                    "node.{key}_listen is {listen}, which others cannot dial; set node.{key}_advertise"
                ));
            }
        }
        let texts =
            [("name", &n.name), ("peer_advertise", &n.peer_advertise), ("api_advertise", &n.api_advertise)];
        if let Some((key, text)) = texts.iter().find(|(_, text)| text.len() > limits::NODE_TEXT_BYTES) {
            return refuse(format!(
                "node.{key} has {} bytes, over the limit of {}; every node of the cluster keeps it",
                text.len(),
                limits::NODE_TEXT_BYTES
            ));
        }
        if n.snapshot_every < 64 || n.log_segment_bytes < 65_536 {
            return refuse(format!(
                "node.snapshot_every >= 64 and node.log_segment_bytes >= 65536 must hold, but they are {} and {}",
                n.snapshot_every, n.log_segment_bytes
            ));
        }
        if !matches!(n.state_engine.as_str(), "sled" | "redb") {
            return refuse(format!("node.state_engine is {:?}; it is \"sled\" or \"redb\"", n.state_engine));
        }
        Ok(())
    }

    /// A metadata failover must fit into the validity of a session (docs/config.md, R4).
    fn check_timing(&self) -> Result<(), ConfigError> {
        let timing = self.timing();
        let session = SessionTiming {
            ttl: self.ttl(),
            keepalive: self.ttl() / 8,
            tick: timing.tick,
            election_max: timing.election_max,
            heartbeat: timing.heartbeat,
        };
        session.check().map_err(|e| ConfigError::Contradiction { rule: format!("[cluster]: {e}") })
    }

    /// What this node does.
    pub fn roles(&self) -> Result<BTreeSet<Role>, ConfigError> {
        let role = |name: &String| match name.as_str() {
            "meta" => Ok(Role::Meta),
            "worker" => Ok(Role::Worker),
            other => Err(ConfigError::Contradiction {
                rule: format!("node.roles names {other:?}; roles are \"meta\" and \"worker\""),
            }),
        };
        let roles = self.node.roles.iter().map(role).collect::<Result<BTreeSet<_>, _>>()?;
        if roles.is_empty() {
            return refuse("node.roles is empty; name \"meta\", \"worker\" or both".into());
        }
        if !roles.contains(&Role::Meta) && self.node.members.is_empty() {
            return refuse("node.roles has no \"meta\" and node.members is empty; name the members".into());
        }
        Ok(roles)
    }

    /// The session's time to live.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.cluster.session_ttl_ms)
    }

    /// What the metadata members keep time by.
    pub fn timing(&self) -> millet_raft_meta::Timing {
        let (c, ms) = (&self.cluster, Duration::from_millis);
        millet_raft_meta::Timing {
            tick: ms(c.tick_ms),
            heartbeat: ms(c.heartbeat_ms),
            election_min: ms(c.election_min_ms),
            election_max: ms(c.election_max_ms),
            quorum_probe: ms(c.quorum_probe_ms),
        }
    }

    /// Whether this node is the only metadata member: it makes its own cluster when it first starts.
    pub fn is_alone(&self) -> bool {
        self.node.members.is_empty()
    }

    /// Every key with its unit, default and reason, for docs/config.md and `millet config`.
    pub fn reference() -> Vec<KeyDoc> {
        let mut keys = ClusterSettings::keys();
        keys.extend(NodeSettings::keys());
        keys
    }

    /// The settings in force, as TOML.
    pub fn to_toml(&self) -> String {
        format!("[cluster]\n{}\n[node]\n{}", self.cluster.to_toml(), self.node.to_toml())
    }
}

fn refuse<T>(rule: String) -> Result<T, ConfigError> {
    Err(ConfigError::Contradiction { rule })
}

#[cfg(test)]
mod tests;
