//! The tables of settings. One macro makes the struct, its defaults and its documentation from one list,
//! so that they cannot differ.

use toml::de::DeValue;

/// What is known of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDoc {
    /// `cluster` or `node`.
    pub section: &'static str,
    /// The key within the section; its unit is in its name.
    pub key: &'static str,
    /// The default, as TOML.
    pub default: String,
    /// What it is, and why the default is what it is.
    pub doc: String,
}

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
    fn from_env(text: &str) -> Result<Self, String>;
    fn to_toml(&self) -> String;
}

impl Setting for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| wants("text in quotes", value))
    }
    fn from_env(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl Setting for u64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let number = value.as_integer().and_then(|n| Self::from_str_radix(n.as_str(), n.radix()).ok());
        number.ok_or_else(|| wants("a whole number, not negative", value))
    }
    fn from_env(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("wants a whole number, not negative; {text:?} is none"))
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for Vec<String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let items = value.as_array().ok_or_else(|| wants("a list of texts", value))?;
        items.iter().map(|item| String::from_toml(item.get_ref())).collect()
    }
    fn from_env(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect())
    }
    fn to_toml(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Text as TOML writes it; its escapes are not Rust's.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn wants(what: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("wants {what}, not {found}")
}

macro_rules! settings {
    ($(#[$about:meta])* $name:ident in $section:literal { $($(#[doc = $doc:literal])+ $key:ident: $ty:ty = $default:expr;)+ }) => {
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $ty,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default.into(),)+ }
            }
        }

        impl $name {
            pub(super) const SECTION: &'static str = $section;
            pub(super) const NAMES: &'static [&'static str] = &[$(stringify!($key)),+];

            /// Every key with its default and its reason.
            pub fn keys() -> Vec<KeyDoc> {
                let defaults = Self::default();
                vec![$(KeyDoc {
                    section: $section,
                    key: stringify!($key),
                    default: Setting::to_toml(&defaults.$key),
                    doc: [$($doc.trim()),+].join(" "),
                }),+]
            }

            pub(super) fn set_toml(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
                match key {
                    $(stringify!($key) => self.$key = Setting::from_toml(value)?,)+
                    _ => return Err("is not a key".into()),
                }
                Ok(())
            }

            pub(super) fn set_env(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $(stringify!($key) => self.$key = Setting::from_env(text)?,)+
                    _ => return Err("is not a key".into()),
                }
                Ok(())
            }

            pub(super) fn to_toml(&self) -> String {
                let lines = [$(format!("{} = {}", stringify!($key), Setting::to_toml(&self.$key))),+];
                lines.join("\n") + "\n"
            }
        }
    };
}

settings! {
    /// Settings that must be the same on every node of a cluster.
    ClusterSettings in "cluster" {
        /// The cluster's id, drawn when the cluster is made (`millet init` prints it). Empty: whichever
        /// one this node's directory or its members belong to; set: any other is refused.
        id: String = "";
        /// Milliseconds until a silent node's session ends and its grains may start elsewhere. Shorter
        /// fails over faster but leaves less time for a metadata failover.
        session_ttl_ms: u64 = 4000_u64;
        /// Milliseconds between two Ticks of cluster time. Each is one log entry; the tick is in every
        /// failover path twice.
        tick_ms: u64 = 100_u64;
        /// Milliseconds between two heartbeats of the metadata leader.
        heartbeat_ms: u64 = 100_u64;
        /// Shortest random election timeout in milliseconds: must outlast a few lost heartbeats.
        election_min_ms: u64 = 300_u64;
        /// Longest random election timeout in milliseconds. A metadata failover takes two to three of
        /// these; three must fit into a session's validity.
        election_max_ms: u64 = 600_u64;
        /// Milliseconds after which a metadata leader that hears no quorum steps down.
        quorum_probe_ms: u64 = 1300_u64;
    }
}

settings! {
    /// Settings of one node.
    NodeSettings in "node" {
        /// For people and logs; empty: made from the node's id.
        name: String = "";
        /// What the node does: `meta` (a member of the metadata store), `worker` (hosts grains), or both.
        roles: Vec<String> = ["meta", "worker"].map(String::from);
        /// Where the node keeps its id and, as a member, the log, snapshots and grain state. One process
        /// at a time; the lock file says which.
        data_dir: String = "millet-data";
        /// Which engine keeps grain state on disk: `sled` or `redb`. Both are caches of log and snapshot.
        state_engine: String = "sled";
        /// Where other nodes connect: calls between grains, and the metadata store. Port 0 takes a free one.
        peer_listen: String = "127.0.0.1:7400";
        /// What other nodes dial, `host:port`; empty: what `peer_listen` bound.
        peer_advertise: String = "";
        /// Where callers outside the cluster connect; empty: nowhere.
        api_listen: String = "127.0.0.1:7401";
        /// What outside callers dial, `host:port`; empty: what `api_listen` bound.
        api_advertise: String = "";
        /// Where health is asked for; empty: nowhere.
        admin_listen: String = "127.0.0.1:7402";
        /// The metadata members' peer addresses, `host:port`, the same list on every node. Empty: this
        /// node is the only member and makes its own cluster when it first starts.
        members: Vec<String> = [];
        /// Entries between two snapshots of a metadata group. More make the log and a restart longer; the
        /// default is about 15 minutes of Ticks, or a few seconds of full load.
        snapshot_every: u64 = 10_000_u64;
        /// Bytes of one segment file of the metadata log. From 4 MiB on one is prepared ahead of need.
        log_segment_bytes: u64 = 16_777_216_u64;
        /// Milliseconds a graceful leave may take before the node stops anyway; longer than the longest
        /// turn that should end in peace.
        drain_limit_ms: u64 = 25_000_u64;
        /// Threads that run grains; 0: as many as cores.
        worker_threads: u64 = 0_u64;
    }
}
