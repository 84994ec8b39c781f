//! What goes wrong in a run, and whether it did what it is for: a fault counts only when it took effect.
//!
//! `kind` names the kinds, `deed` begins and ends one fault; here is when which happens.

mod deed;
mod kind;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use millet_oracle::history::Fault;
use millet_testkit::SeededEntropy;
use millet_workload::Recorder;

pub use kind::Kind;

use crate::{
    cluster::Cluster,
    params::{CALM, Params},
};
use deed::Deed;

/// A process that has ended by itself is started again after this.
const REPAIR: Duration = Duration::from_secs(1);

/// See the module.
pub struct Nemesis {
    params: Arc<Params>,
    dice: SeededEntropy,
    next: Duration,
    /// No fault begins before: a crash alone is measured.
    calm_until: Duration,
    active: Vec<Active>,
    /// Machines and links that a fault has already.
    taken: BTreeSet<(usize, usize)>,
    recorder: Arc<Recorder>,
    /// Processes that ended by themselves without a reason that was given to them.
    pub surprises: Vec<String>,
}

struct Active {
    fault: Fault,
    deed: Deed,
    /// What it has taken.
    takes: Vec<(usize, usize)>,
    ends: Duration,
}

impl Nemesis {
    /// Has done nothing yet.
    pub fn new(params: Arc<Params>, recorder: Arc<Recorder>) -> Self {
        let dice = params.dice(3);
        Self {
            params,
            dice,
            next: CALM,
            calm_until: Duration::ZERO,
            active: Vec::new(),
            taken: BTreeSet::new(),
            recorder,
            surprises: Vec::new(),
        }
    }

    /// Where faults are written.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Looks around between two steps: ends what is over, begins what is due.
    pub fn look(&mut self, now: Duration, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) {
        self.bury(now, cluster, sim);
        for ended in
            self.active.extract_if(.., |a| a.ends <= now || a.deed.is_done(cluster)).collect::<Vec<_>>()
        {
            self.end(ended, cluster, sim);
        }
        for host in &cluster.nodes {
            host.machine.resume_if_due();
        }
        if now < self.next || self.params.kinds.is_empty() {
            return;
        }
        let gap = self.params.gap_ms / 2 + self.dice.below(self.params.gap_ms);
        self.next = now + Duration::from_millis(gap);
        if now >= self.calm_until && self.active.len() < self.params.at_once {
            let kinds = self.params.kinds.len() as u64;
            let kind = self.params.kinds[usize::try_from(self.dice.below(kinds)).unwrap_or(0)];
            self.begin(kind, now, cluster, sim);
        }
    }

    /// Ends everything, and starts what does not run.
    pub fn heal(&mut self, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) {
        for active in std::mem::take(&mut self.active) {
            self.end(active, cluster, sim);
        }
        for node in 0..cluster.nodes.len() {
            cluster.nodes[node].machine.resume();
            cluster.restart(sim, node);
        }
    }

    /// Processes that have ended themselves.
    pub fn bury(&mut self, now: Duration, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) {
        for node in 0..cluster.nodes.len() {
            let Some(why) = cluster.nodes[node].machine.fatal() else { continue };
            let name = cluster.nodes[node].machine.name.clone();
            if let Some(active) = self.active.iter_mut().find(|a| a.deed.explains_end_of(node)) {
                active.fault.took_effect = true;
                active.ends = now;
            } else {
                self.surprises.push(format!("{name} ended itself at {now:?}: {why}"));
            }
            cluster.crash(sim, node, millet_testkit::Cut::ProcessOnly);
            let deed = Deed::Restart(vec![node]);
            let fault = self.fault("ended_itself", name, None, now);
            self.active.push(Active { fault, deed, takes: Vec::new(), ends: now + REPAIR });
        }
    }

    fn fault(&self, kind: &str, target: String, session: Option<u64>, now: Duration) -> Fault {
        let start = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        Fault {
            kind: kind.to_owned(),
            target,
            session,
            start,
            end: start,
            took_effect: kind == "ended_itself",
        }
    }

    fn end(&mut self, active: Active, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) {
        let Active { mut fault, deed, takes, .. } = active;
        takes.iter().for_each(|t| _ = self.taken.remove(t));
        fault.took_effect |= deed.end(cluster, sim);
        fault.end = self.recorder.now();
        cluster.callers.note(format!("end {fault:?}").as_bytes());
        self.recorder.fault(fault);
    }
}
