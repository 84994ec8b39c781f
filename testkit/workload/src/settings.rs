//! Who does how much: derived from a seed by the driver, or these defaults.

use std::time::Duration;

use millet_oracle::history::Workload;

/// One client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// Its number: differs between all clients of a run, those that were restarted included.
    pub client: u32,
    /// What it does.
    pub workload: Workload,
}

/// How the load is made. Sizes are kept such that no grain's state grows without end: after
/// `appends_per_grain` operations a client goes on to fresh keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What every choice of the clients derives from.
    pub seed: u64,
    /// Clients of each workload.
    pub clients: Vec<(Workload, u32)>,
    /// Keys that the clients of one workload share at a time.
    pub keys: u64,
    /// Mean pause of a client between two operations.
    pub pause: Duration,
    /// Every call's deadline.
    pub deadline: Duration,
    /// Operations that all clients together put into one ledger, register or account before they go on
    /// to fresh ones.
    pub ops_per_key: u64,
    /// Ids in one call to an issuer.
    pub ids_at_once: u32,
    /// Issuers; two per node.
    pub issuers: u64,
    /// Whether callers are split: those with even numbers come in through the first way and do not only
    /// read, the others stay each at one of the further ways and only read. A caller that stays attached
    /// to a node sees what that node still says after it has lost its right.
    pub split: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            clients: vec![
                (Workload::Counter, 4),
                (Workload::Account, 2),
                (Workload::Register, 4),
                (Workload::Singleton, 2),
                (Workload::Idle, 2),
                (Workload::Snowflake, 2),
            ],
            keys: 4,
            pause: Duration::from_millis(100),
            deadline: Duration::from_secs(10),
            ops_per_key: 400,
            ids_at_once: 32,
            issuers: 6,
            split: false,
        }
    }
}

impl Settings {
    /// One role per client, numbered from 0. [`Workload::Store`] is run with
    /// [`store_client`](crate::store_client), the others with [`client`](crate::client).
    pub fn roles(&self) -> Vec<Role> {
        let of = |(workload, count): &(Workload, u32)| vec![*workload; *count as usize];
        let all = self.clients.iter().flat_map(of);
        (0..).zip(all).map(|(client, workload)| Role { client, workload }).collect()
    }

    /// How many clients a workload has, at least 1.
    pub(crate) fn clients_of(&self, workload: Workload) -> u64 {
        let count: u32 = self.clients.iter().filter(|(w, _)| *w == workload).map(|(_, n)| n).sum();
        u64::from(count.max(1))
    }
}
