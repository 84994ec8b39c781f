//! The machines of a run and what runs on them: nodes, and the callers outside.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use millet::{
    Directory, Node,
    client::{Client, Options},
    world::Dial,
};
use millet_core::SessionId;
use millet_directory::View;
use millet_oracle::history::Observed;
use millet_raft_meta::Member;
use millet_testkit::Cut;
use millet_workload::{Host, Recorder, Role, converge, install, read_back};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    aim::Aim,
    params::Params,
    world::{Gated, Machine},
};

/// Starts of processes so far: the workload wants a number of its own for each.
static STARTS: AtomicU32 = AtomicU32::new(1);

/// Where a run stands, as its callers see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Faults come and go.
    Faults,
    /// No more faults: everything must answer.
    Converge,
    /// The load ends.
    Stop,
    /// All clients have stopped: everything is read back.
    ReadBack,
    /// All is read: the members come to stand at the same entry.
    Settle,
    /// They do.
    Over,
}

/// What a node's process lets one look at, as long as it lives.
#[derive(Clone, Default)]
struct Probe {
    directory: Weak<Directory>,
    member: Weak<Member>,
    ready: bool,
}

/// What was seen of a node at the last look.
#[derive(Default)]
struct Seen {
    /// Its session, and since when.
    session: Option<(u64, u64)>,
    view: Option<Arc<View>>,
    /// Sessions that its process knew as ended.
    gone: BTreeSet<SessionId>,
}

/// A node's machine.
pub struct NodeHost {
    pub machine: Arc<Machine>,
    pub ip: IpAddr,
    pub member: bool,
    pub worker: bool,
    pub up: bool,
    probe: Arc<Mutex<Probe>>,
    seen: Seen,
}

/// See the module.
pub struct Cluster {
    pub nodes: Vec<NodeHost>,
    /// The callers' machine.
    pub callers: Arc<Machine>,
    pub callers_ip: IpAddr,
    stage: watch::Sender<Stage>,
    /// How far the callers are.
    pub done: Arc<Mutex<Done>>,
}

/// How far the callers are.
#[derive(Clone, Copy, Default, Debug)]
pub struct Done {
    /// Grains that did not answer after the faults, once all were asked.
    pub converged: Option<usize>,
    /// Clients that have stopped.
    pub stopped: usize,
    /// Grains that could not be read back, once all were asked.
    pub read: Option<usize>,
}

impl NodeHost {
    /// The session it has now.
    pub fn session(&self) -> Option<u64> {
        let directory = self.probe.lock().directory.upgrade()?;
        directory.session().map(|s| s.id().0)
    }

    fn over(&mut self, recorder: &Recorder) {
        if let Some((session, from)) = self.seen.session.take() {
            let (of, until) = (self.machine.name.clone(), recorder.now());
            recorder.observe(Observed::Lease { of, session, from, until });
        }
    }

    /// What a view has once known as ended lives in it no more (R17).
    fn look_back(&mut self, broken: &mut Vec<String>) {
        let Some(directory) = self.probe.lock().directory.upgrade() else { return };
        let view = directory.view();
        let before = self.seen.view.replace(view.clone());
        let Some(before) = before.filter(|before| !Arc::ptr_eq(before, &view)) else { return };
        let has = |view: &View, id| view.sessions().any(|s| s.id == id);
        let gone = before.sessions().map(|s| s.id).filter(|id| !has(&view, *id));
        self.seen.gone.extend(gone);
        let back = view.sessions().find(|s| self.seen.gone.remove(&s.id));
        if let Some(back) = back {
            let at = self.machine.name.as_str();
            broken.push(format!("R17: {at} knew {:?} as ended, and now takes it to be alive", back.id));
        }
    }

    /// Whether it may run turns now.
    pub fn is_valid(&self) -> bool {
        let directory = self.probe.lock().directory.upgrade();
        directory.is_some_and(|d| d.valid_session().is_some())
    }

    /// Whether it leads the metadata group.
    pub fn leads(&self) -> bool {
        let member = self.probe.lock().member.upgrade();
        member.and_then(|m| m.leases()).is_some_and(|(_, leads)| leads)
    }

    /// Whether its process has got as far as a session.
    pub fn is_ready(&self) -> bool {
        self.up && self.probe.lock().ready
    }
}

impl Cluster {
    /// Makes every machine of `params` and starts its software in `sim`.
    pub fn start(params: &Arc<Params>, recorder: &Arc<Recorder>, sim: &mut turmoil::Sim<'_>) -> Self {
        let (stage, staged) = watch::channel(Stage::Faults);
        let done = Arc::new(Mutex::new(Done::default()));
        let (mut nodes, dice) = (Vec::new(), params.dice(1));
        for (number, (name, member, worker)) in params.nodes().into_iter().enumerate() {
            let machine = Machine::new(&name, number, params.seed_of(100 + number as u64));
            let wrong_ms = i64::try_from(dice.below(4_000)).unwrap_or(0) - 2_000;
            machine.clock.set(Duration::from_millis(dice.below(1_000_000_000)), wrong_ms);
            machine.clock.set_rate_ppm(params.rate(&dice));
            let probe = Arc::new(Mutex::new(Probe::default()));
            let (on, params, seen, stage) = (machine.clone(), params.clone(), probe.clone(), staged.clone());
            sim.host(name.as_str(), move || {
                let body = node(on.clone(), params.clone(), (member, worker), seen.clone(), stage.clone());
                let gated = Gated::new(on.clone(), "node", Box::pin(body));
                async move {
                    gated.await;
                    std::future::pending::<()>().await;
                    Ok(())
                }
            });
            let ip = sim.lookup(name.as_str());
            nodes.push(NodeHost { machine, ip, member, worker, up: true, probe, seen: Seen::default() });
        }
        let callers = Machine::new("callers", nodes.len(), params.seed_of(99));
        let (on, params, recorder, seen) = (callers.clone(), params.clone(), recorder.clone(), done.clone());
        sim.host("callers", move || {
            let body = calls(on.clone(), params.clone(), recorder.clone(), staged.clone(), seen.clone());
            async move {
                body.await;
                std::future::pending::<()>().await;
                Ok(())
            }
        });
        let callers_ip = sim.lookup("callers");
        Self { nodes, callers, callers_ip, stage, done }
    }

    /// Tells the callers where the run stands.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Ends a node's process at once; its disk keeps what `cut` leaves.
    pub fn crash(&mut self, sim: &mut turmoil::Sim<'_>, node: usize, cut: Cut) {
        let host = &mut self.nodes[node];
        if std::mem::replace(&mut host.up, false) {
            host.machine.note(b"crash");
            *host.probe.lock() = Probe::default();
            (host.seen.view, host.seen.gone) = (None, BTreeSet::new());
            // First the disk: nothing that ends writes to it any more.
            host.machine.disk.power_cut(cut);
            sim.crash(host.machine.name.as_str());
            host.machine.process_gone();
            host.machine.set_down(true);
        }
    }

    /// All others hear at once that a process has gone, as they do where its machine lives on.
    pub fn reset_all(&self, node: usize) {
        let ip = self.nodes[node].ip;
        let others = self.nodes.iter().enumerate().filter(|(n, _)| *n != node);
        others.for_each(|(_, host)| _ = host.machine.conns.reset(ip));
        self.callers.conns.reset(ip);
    }

    /// Looks at what every node thinks of sessions: writes down when one was over for its node, and when
    /// somebody's view goes back.
    pub fn observe(&mut self, recorder: &Recorder, broken: &mut Vec<String>) {
        for host in &mut self.nodes {
            let session = host.session();
            if host.seen.session.map(|(id, _)| id) != session {
                host.over(recorder);
                host.seen.session = session.map(|id| (id, recorder.now()));
            }
            host.look_back(broken);
        }
    }

    /// Whether all members stand at the same entry under one leader, with nothing left of ended sessions; if
    /// so, it is written down what they hold.
    pub fn settled(&self, recorder: &Recorder) -> bool {
        let members = self.nodes.iter().filter(|n| n.member);
        let standing = |n: &NodeHost| n.probe.lock().member.upgrade()?.standing();
        let Some(standings) = members.map(standing).collect::<Option<Vec<_>>>() else { return false };
        let leaders = standings.iter().filter(|s| s.leads).count();
        let dead_rows = standings.iter().map(|s| s.dead_rows).max().unwrap_or(0);
        let together = standings.windows(2).all(|pair| pair[0].revision == pair[1].revision);
        if !together || leaders != 1 || dead_rows > 0 {
            return false;
        }
        recorder.observe(Observed::Settled {
            leaders: u32::try_from(leaders).unwrap_or(u32::MAX),
            state_hashes: standings.iter().map(|s| format!("{:016x}", s.state_hash)).collect(),
            orphan_leases: dead_rows,
        });
        true
    }

    /// As if all sessions ended now.
    pub fn close(&mut self, recorder: &Recorder) {
        self.nodes.iter_mut().for_each(|host| host.over(recorder));
    }

    /// Starts a node's process again.
    pub fn restart(&mut self, sim: &mut turmoil::Sim<'_>, node: usize) {
        let host = &mut self.nodes[node];
        if !std::mem::replace(&mut host.up, true) {
            host.machine.note(b"restart");
            host.machine.set_down(false);
            sim.bounce(host.machine.name.as_str());
        }
    }
}

/// One node's process.
async fn node(
    machine: Arc<Machine>,
    params: Arc<Params>,
    roles: (bool, bool),
    probe: Arc<Mutex<Probe>>,
    stage: watch::Receiver<Stage>,
) {
    let config = params.config(&machine.name, roles.0, roles.1);
    let linger = Duration::from_millis(params.linger_ms);
    let lingers = move || if *stage.borrow() == Stage::Faults { linger } else { Duration::ZERO };
    let host = Host::lingering(STARTS.fetch_add(1, Ordering::Relaxed), lingers);
    let builder = install(Node::builder().config(config), &host);
    let node = match builder.launch_in(machine.world()).await {
        Ok(node) => node,
        Err(e) => return (machine.world().fatal)(format!("does not start: {e}")),
    };
    host.started(&node);
    *probe.lock() = Probe {
        directory: Arc::downgrade(node.directory()),
        member: node.member().map(Arc::downgrade).unwrap_or_default(),
        ready: false,
    };
    if machine.name == "m1"
        && let Err(e) = node.form_cluster().await
    {
        return (machine.world().fatal)(format!("makes no cluster: {e}"));
    }
    node.ready().await;
    machine.note(b"ready");
    probe.lock().ready = true;
    std::future::pending::<()>().await;
}

/// Everything that callers do in a run.
async fn calls(
    machine: Arc<Machine>,
    params: Arc<Params>,
    recorder: Arc<Recorder>,
    mut stage: watch::Receiver<Stage>,
    done: Arc<Mutex<Done>>,
) {
    let dial = Dial::new(machine.world().net);
    let apis = params.apis();
    // A client knows one node, so that it is known which one it asks; or all.
    let known = if params.aim == Some(Aim::Failover) { apis.len() } else { 1 };
    let way = |first: usize| {
        let addrs = apis.iter().cycle().skip(first).take(known).cloned();
        let channels = addrs.map(|addr| {
            let channel = dial.lazy(&addr).expect("names of machines are addresses");
            (addr, channel)
        });
        Client::over(channels, &Options::default()).expect("there is a channel")
    };
    let ways: Arc<[Client]> = (0..apis.len()).map(way).collect();
    let settings = Arc::new(params.load());
    let (stop, stopped) = watch::channel(false);
    for role in settings.roles() {
        let Role { client, .. } = role;
        let (ways, settings, recorder) = (ways.clone(), settings.clone(), recorder.clone());
        let (stopped, done, begin) = (stopped.clone(), done.clone(), params.ramp(client));
        tokio::spawn(async move {
            tokio::time::sleep(begin).await;
            millet_workload::client(role, ways, settings, recorder, stopped).await;
            done.lock().stopped += 1;
        });
    }
    let bound = params.bound();
    let mut reached = async |wanted: Stage| drop(stage.wait_for(|s| *s >= wanted).await);
    reached(Stage::Converge).await;
    let left = converge(ways.clone(), None, recorder.clone(), bound).await;
    done.lock().converged = Some(left);
    reached(Stage::Stop).await;
    stop.send_replace(true);
    reached(Stage::ReadBack).await;
    let left = read_back(ways, None, recorder, bound).await;
    done.lock().read = Some(left);
}
