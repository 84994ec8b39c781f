//! What the driver knows about every call it made, and what follows from it: which deeds were
//! acknowledged, whose fault an error was, how long failover took. No I/O here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use hdrhistogram::Histogram;
use millet::Ran;

/// A grain, as the driver names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Target {
    Player(u64),
    Org(u64),
    Board(u64),
    Gm,
}

impl Target {
    /// The name that errors carry.
    pub fn name(self) -> String {
        match self {
            Self::Player(n) => format!("realm.Player/{n}"),
            Self::Org(n) => format!("realm.Org/{n}"),
            Self::Board(n) => format!("realm.Rank/board-{n}"),
            Self::Gm => "realm.Gm/gm".into(),
        }
    }
}

/// How one call failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub ran: Ran,
    /// The innermost failing grain, if the error names one.
    pub grain: Option<String>,
    /// The node the call entered through, by position.
    pub ingress: usize,
    /// The grain itself said no: an answer, as far as the platform is concerned.
    pub refused: bool,
    pub text: String,
}

/// What became of a deed, by its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Acknowledged,
    Unknown,
    /// The platform said that it did not run.
    Refused,
}

/// One second of the table, and the totals.
#[derive(Default)]
pub struct Tally {
    pub calls: u64,
    pub acknowledged: u64,
    pub deeds: u64,
    pub unknown: u64,
    pub errors: u64,
}

/// Everything counted so far.
pub struct Accounts {
    pub total: Tally,
    second: Tally,
    second_us: Histogram<u64>,
    all_us: Histogram<u64>,
    survivors_us: Histogram<u64>,
    deeds: HashMap<u64, BTreeMap<u64, Deed>>,
    hosts: HashMap<Target, u64>,
    outage: Option<Outage>,
    pub survivor_errors: u64,
    pub samples: Vec<String>,
}

/// The loss of a node.
struct Outage {
    at: Duration,
    victim: usize,
    /// Grains its sessions held when it went.
    owned: HashSet<Target>,
    owned_names: HashSet<String>,
    /// First success after it, per grain.
    back: HashMap<Target, Duration>,
}

/// How many texts of errors are kept for the report.
const SAMPLES: usize = 20;

impl Accounts {
    pub fn new() -> Self {
        let h = || Histogram::new_with_bounds(1, 120_000_000, 3).expect("static bounds are valid");
        Self {
            total: Tally::default(),
            second: Tally::default(),
            second_us: h(),
            all_us: h(),
            survivors_us: h(),
            deeds: HashMap::new(),
            hosts: HashMap::new(),
            outage: None,
            survivor_errors: 0,
            samples: Vec::new(),
        }
    }

    /// A deed is about to be sent: until its answer it may have happened.
    pub fn deed_sent(&mut self, player: u64, deed: u64) {
        self.deeds.entry(player).or_default().insert(deed, Deed::Unknown);
    }

    /// A deed ended.
    pub fn deed_ended(&mut self, player: u64, deed: u64, how: Deed) {
        self.deeds.entry(player).or_default().insert(deed, how);
        if how == Deed::Acknowledged {
            self.total.deeds += 1;
            self.second.deeds += 1;
        }
    }

    /// A call was answered at `now` after `took`, by the node with this session (0: not told).
    pub fn answered(&mut self, target: Target, host: u64, ingress: usize, now: Duration, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.count(|t| (t.calls, t.acknowledged) = (t.calls + 1, t.acknowledged + 1));
        self.second_us.saturating_record(us);
        self.all_us.saturating_record(us);
        if host != 0 {
            self.hosts.insert(target, host);
        }
        if let Some(o) = &mut self.outage {
            let was_sent_after = now.saturating_sub(took) >= o.at;
            if o.owned.contains(&target) {
                if now > o.at {
                    o.back.entry(target).or_insert(now - o.at);
                }
            } else if was_sent_after && ingress != o.victim {
                self.survivors_us.saturating_record(us);
            }
        }
    }

    /// A call failed.
    pub fn failed(&mut self, target: Target, failure: &Failure) {
        if failure.refused {
            self.count(|t| (t.calls, t.acknowledged) = (t.calls + 1, t.acknowledged + 1));
            return;
        }
        let unknown = failure.ran == Ran::Unknown;
        self.count(|t| {
            t.calls += 1;
            if unknown { t.unknown += 1 } else { t.errors += 1 }
        });
        let excused = self.outage.as_ref().is_some_and(|o| {
            let named = failure.grain.clone().unwrap_or_else(|| target.name());
            o.owned_names.contains(&named) || (unknown && failure.ingress == o.victim)
        });
        if !excused {
            self.survivor_errors += 1;
        }
        if self.samples.len() < SAMPLES {
            let whose = if excused { "victim" } else { "survivor" };
            self.samples.push(format!(
                "{whose}: {} via node {}: {}",
                target.name(),
                failure.ingress + 1,
                failure.text
            ));
        }
    }

    /// The node at this position goes now; `sessions` are its own.
    pub fn node_lost(&mut self, victim: usize, sessions: &HashSet<u64>, at: Duration) {
        let owned: HashSet<Target> =
            self.hosts.iter().filter(|(_, s)| sessions.contains(s)).map(|(t, _)| *t).collect();
        let owned_names = owned.iter().map(|t| t.name()).collect();
        self.outage = Some(Outage { at, victim, owned, owned_names, back: HashMap::new() });
    }

    /// What the victim owned, for probing.
    pub fn owned_by_victim(&self) -> Vec<Target> {
        let mut all: Vec<_> = self.outage.iter().flat_map(|o| o.owned.iter().copied()).collect();
        all.sort();
        all
    }

    /// Grains of the victim that have not answered since.
    pub fn still_away(&self) -> usize {
        self.outage.as_ref().map_or(0, |o| o.owned.len() - o.back.len())
    }

    /// Failover per grain, sorted, in milliseconds.
    pub fn failover_ms(&self) -> Vec<u64> {
        let mut ms: Vec<u64> =
            self.outage.iter().flat_map(|o| o.back.values()).map(|d| d.as_millis() as u64).collect();
        ms.sort_unstable();
        ms
    }

    /// The last second's figures and its p50 and p99 in microseconds; starts a new second.
    pub fn turn_second(&mut self) -> (Tally, u64, u64) {
        let p = (self.second_us.value_at_quantile(0.5), self.second_us.value_at_quantile(0.99));
        self.second_us.reset();
        (std::mem::take(&mut self.second), p.0, p.1)
    }

    /// p50 and p99 over all answered calls, and p99 over survivors' calls during the outage, in µs.
    pub fn latencies(&self) -> (u64, u64, u64) {
        (
            self.all_us.value_at_quantile(0.5),
            self.all_us.value_at_quantile(0.99),
            if self.survivors_us.is_empty() { 0 } else { self.survivors_us.value_at_quantile(0.99) },
        )
    }

    /// The players that were sent deeds.
    pub fn players(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.deeds.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// A player's deeds that are acknowledged now.
    pub fn acknowledged(&self, player: u64) -> Vec<u64> {
        let deeds = self.deeds.get(&player).into_iter().flatten();
        deeds.filter(|(_, how)| **how == Deed::Acknowledged).map(|(deed, _)| *deed).collect()
    }

    /// Compares a player's ledger with what is known: how many deeds are lost, how many doubled. A deed
    /// that was reported as not run and stands in the ledger counts as doubled, too: it would have been
    /// repeated in good faith.
    pub fn audit(&self, player: u64, ledger: &[u64]) -> (u64, u64) {
        let mut seen: HashMap<u64, u64> = HashMap::new();
        for deed in ledger {
            *seen.entry(*deed).or_default() += 1;
        }
        let (mut lost, mut doubled) = (0, 0);
        for (deed, how) in self.deeds.get(&player).into_iter().flatten() {
            let times = seen.remove(deed).unwrap_or(0);
            let most = if *how == Deed::Refused { 0 } else { 1 };
            lost += u64::from(*how == Deed::Acknowledged && times == 0);
            doubled += times.saturating_sub(most);
        }
        // What is left was never sent by this driver.
        (lost, doubled + seen.values().sum::<u64>())
    }

    fn count(&mut self, f: impl Fn(&mut Tally)) {
        f(&mut self.total);
        f(&mut self.second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_sees_a_lost_a_doubled_and_a_denied_deed() {
        let mut a = Accounts::new();
        for deed in 1..=5 {
            a.deed_sent(7, deed);
        }
        a.deed_ended(7, 1, Deed::Acknowledged);
        a.deed_ended(7, 2, Deed::Acknowledged);
        a.deed_ended(7, 3, Deed::Refused);
        assert_eq!(a.audit(7, &[1, 2]), (0, 0), "unknown deeds may be missing");
        assert_eq!(a.audit(7, &[1, 2, 4, 5]), (0, 0), "or be there once");
        assert_eq!(a.audit(7, &[1]), (1, 0));
        assert_eq!(a.audit(7, &[1, 2, 2, 4, 4]), (0, 2));
        assert_eq!(a.audit(7, &[1, 2, 3]), (0, 1), "a deed reported as not run did run");
        assert_eq!(a.audit(7, &[1, 2, 99]), (0, 1), "a deed that nobody sent");
    }

    #[test]
    fn errors_of_the_victims_grains_are_not_the_survivors() {
        let mut a = Accounts::new();
        let t0 = Duration::from_secs(1);
        a.answered(Target::Player(1), 10, 0, t0, Duration::from_millis(1));
        a.answered(Target::Player(2), 20, 1, t0, Duration::from_millis(1));
        a.node_lost(0, &HashSet::from([10]), t0);
        let mut f = Failure {
            ran: Ran::No,
            grain: Some("realm.Player/1".into()),
            ingress: 1,
            refused: false,
            text: String::new(),
        };
        a.failed(Target::Player(1), &f);
        assert_eq!(a.survivor_errors, 0);
        f.grain = Some("realm.Player/2".into());
        a.failed(Target::Player(2), &f);
        assert_eq!(a.survivor_errors, 1);
        a.answered(Target::Player(1), 20, 1, Duration::from_secs(5), Duration::from_secs(4));
        assert_eq!((a.failover_ms(), a.still_away()), (vec![4000], 0));
    }
}
