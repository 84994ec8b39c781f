//! One fault: how it begins, when it is over, how it ends, and whether it took effect.

use std::{net::IpAddr, time::Duration};

use millet_core::{control::Point, world::Entropy as _};
use millet_testkit::Cut;

use super::{Active, Kind, Nemesis};
use crate::{
    aim::Aim,
    cluster::{Cluster, NodeHost},
    world::Arm,
};

/// A fault under way, with what is needed to end it.
pub(super) enum Deed {
    /// Links that hold what is sent, and how much was sent when that began.
    Held(Vec<(usize, usize)>, u64),
    /// Nothing gets from the first to the second; how much it had sent when that began.
    Cut(usize, usize, u64),
    /// Done as soon as begun.
    Done(bool),
    /// These processes are down.
    Restart(Vec<usize>),
    /// A machine stands still; whether it may run turns, or led, when that began.
    Stalled(usize, bool, bool),
    /// A machine will stand still at a place.
    Armed(usize),
    /// A slow disk, and its syncs when that began.
    Slow(usize, u64),
    /// A disk that fails.
    Failing(usize),
}

impl Deed {
    /// Whether it is over before its time.
    pub(super) fn is_done(&self, cluster: &Cluster) -> bool {
        match self {
            Self::Done(_) => true,
            Self::Stalled(node, ..) => !cluster.nodes[*node].machine.is_paused(),
            Self::Armed(node) => {
                let machine = &cluster.nodes[*node].machine;
                machine.has_stalled() && !machine.is_paused()
            }
            _ => false,
        }
    }

    /// Whether a process ends itself because of it.
    pub(super) fn explains_end_of(&self, node: usize) -> bool {
        matches!(self, Self::Failing(n) if *n == node)
    }

    /// Ends it; whether it took effect.
    pub(super) fn end(self, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) -> bool {
        match self {
            Self::Done(effect) => effect,
            Self::Held(links, before) => {
                for (a, b) in &links {
                    sim.release(ip(cluster, *a), ip(cluster, *b));
                }
                sent(cluster, &links) > before
            }
            Self::Cut(from, to, before) => {
                let (a, b) = (ip(cluster, from), ip(cluster, to));
                sim.repair_oneway(a, b);
                // What was lost is never sent again here, so the connection has to go.
                cluster.nodes[from].machine.conns.reset(b);
                cluster.nodes[to].machine.conns.reset(a);
                cluster.nodes[from].machine.conns.written_to(b) > before
            }
            Self::Restart(nodes) => {
                for node in nodes {
                    cluster.restart(sim, node);
                }
                false
            }
            Self::Stalled(node, valid, led) => {
                let host = &cluster.nodes[node];
                let hurt = (valid && !host.is_valid()) || (led && someone_else_leads(cluster, node));
                host.machine.resume();
                hurt
            }
            Self::Armed(node) => {
                let host = &cluster.nodes[node];
                let stalled = host.machine.disarm();
                host.machine.resume();
                stalled
            }
            Self::Slow(node, before) => {
                let machine = &cluster.nodes[node].machine;
                machine.set_disk_delay(Duration::ZERO);
                machine.disk.sync_count() > before
            }
            // Its member may not have written since: the disk is whole again after a restart only.
            Self::Failing(node) => {
                cluster.crash(sim, node, Cut::ProcessOnly);
                cluster.restart(sim, node);
                false
            }
        }
    }
}

fn ip(cluster: &Cluster, node: usize) -> IpAddr {
    cluster.nodes.get(node).map_or(cluster.callers_ip, |n| n.ip)
}

fn someone_else_leads(cluster: &Cluster, node: usize) -> bool {
    cluster.nodes.iter().enumerate().any(|(n, host)| n != node && host.leads())
}

/// Writes over these links so far.
fn sent(cluster: &Cluster, links: &[(usize, usize)]) -> u64 {
    let one = |from: usize, to: usize| {
        let machine = cluster.nodes.get(from).map_or(&cluster.callers, |n| &n.machine);
        machine.conns.written_to(ip(cluster, to))
    };
    links.iter().map(|(a, b)| one(*a, *b) + one(*b, *a)).sum()
}

/// What a fault begins with: whom it hits, what it takes, how long it lasts.
struct Begun {
    target: String,
    session: Option<u64>,
    takes: Vec<(usize, usize)>,
    time: Duration,
    deed: Deed,
    took_effect: bool,
}

impl Nemesis {
    /// Begins a fault of that kind, if it finds somebody to hit.
    pub(super) fn begin(
        &mut self,
        kind: Kind,
        now: Duration,
        cluster: &mut Cluster,
        sim: &mut turmoil::Sim<'_>,
    ) {
        let begun = match kind {
            Kind::Partition => self.partition(cluster, sim),
            Kind::OneWay => self.one_way(cluster, sim),
            Kind::Hold => self.hold(cluster, sim),
            Kind::Reset => self.reset(cluster),
            Kind::Crash => self.crash(cluster, sim, |_| true),
            Kind::CrashAlone => self.crash_alone(now, cluster, sim),
            Kind::LeaderCrash => self.crash(cluster, sim, NodeHost::leads),
            Kind::AllCrash => self.crash_all(cluster, sim),
            Kind::Stall => self.stall(cluster),
            Kind::PointStall => self.point_stall(cluster),
            Kind::SlowDisk => self.slow_disk(cluster),
            Kind::FailingDisk => self.failing_disk(cluster),
            Kind::ClockRate => self.clock_rate(cluster),
            Kind::WallJump => self.wall_jump(cluster),
        };
        let Some(begun) = begun else { return };
        let Begun { target, session, takes, time, deed, took_effect } = begun;
        self.taken.extend(takes.iter().copied());
        let mut fault = self.fault(kind.name(), target, session, now);
        fault.took_effect = took_effect;
        cluster.callers.note(format!("begin {fault:?}").as_bytes());
        self.active.push(Active { fault, deed, takes, ends: now + time });
    }

    /// A number of a list.
    fn pick(&self, of: usize) -> usize {
        usize::try_from(self.dice.below(of.max(1) as u64)).unwrap_or(0)
    }

    fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.dice.below(to.saturating_sub(from).max(1)))
    }

    /// A node that is up, that no fault has, and that fits.
    fn victim(&self, cluster: &Cluster, fits: impl Fn(&NodeHost) -> bool) -> Option<usize> {
        let free = |n: &usize| {
            let host = &cluster.nodes[*n];
            host.up && !self.taken.contains(&(*n, *n)) && !host.machine.is_paused() && fits(host)
        };
        let able: Vec<usize> = (0..cluster.nodes.len()).filter(free).collect();
        (!able.is_empty()).then(|| able[self.pick(able.len())])
    }

    /// Two nodes, or a node and the callers, whose link no fault has.
    fn pair(&self, cluster: &Cluster, callers: bool) -> Option<(usize, usize)> {
        let all = cluster.nodes.len() + usize::from(callers);
        let (a, b) = (self.pick(all), self.pick(all));
        let link = (a.min(b), a.max(b));
        (a != b && !self.taken.contains(&link)).then_some((a, b))
    }

    fn partition(&mut self, cluster: &Cluster, sim: &turmoil::Sim<'_>) -> Option<Begun> {
        if let Some(aim) = self.params.aim {
            return self.aimed_partition(aim, cluster, sim);
        }
        let node = self.pick(cluster.nodes.len());
        // Sometimes its callers reach it all the same.
        let others = cluster.nodes.len() + self.pick(2);
        let links: Vec<_> = (0..others).filter(|n| *n != node).map(|n| (node.min(n), node.max(n))).collect();
        if links.is_empty() || links.iter().any(|l| self.taken.contains(l)) {
            return None;
        }
        let time = self.ms(300, self.params.ttl_ms * 2);
        Some(self.held(node, links, time, cluster, sim))
    }

    /// A worker is cut off from all nodes and keeps its callers; or a member that does not lead from the
    /// members, and keeps the workers. Longer than a session lives.
    fn aimed_partition(&mut self, aim: Aim, cluster: &Cluster, sim: &turmoil::Sim<'_>) -> Option<Begun> {
        let members = aim.cuts_members();
        let node = self.victim(cluster, |host| {
            host.is_ready()
                && if members { host.member && !host.leads() } else { host.worker && host.is_valid() }
        })?;
        let cut = |n: &usize| *n != node && (!members || cluster.nodes[*n].member);
        let links = (0..cluster.nodes.len()).filter(cut).map(|n| (node.min(n), node.max(n)));
        let links: Vec<_> = links.filter(|l| !self.taken.contains(l)).collect();
        if links.is_empty() {
            return None;
        }
        let time = self.ms(self.params.ttl_ms + 1_500, self.params.ttl_ms * 3);
        Some(self.held(node, links, time, cluster, sim))
    }

    fn hold(&mut self, cluster: &Cluster, sim: &turmoil::Sim<'_>) -> Option<Begun> {
        let (a, b) = self.pair(cluster, true)?;
        let time = self.ms(50, 3_000);
        Some(self.held(a, vec![(a.min(b), a.max(b))], time, cluster, sim))
    }

    fn held(
        &self,
        node: usize,
        links: Vec<(usize, usize)>,
        time: Duration,
        cluster: &Cluster,
        sim: &turmoil::Sim<'_>,
    ) -> Begun {
        for (a, b) in &links {
            sim.hold(ip(cluster, *a), ip(cluster, *b));
        }
        let before = sent(cluster, &links);
        let target = format!("{} ({} links)", name(cluster, node), links.len());
        Begun {
            target,
            session: cluster.nodes.get(node).and_then(NodeHost::session),
            takes: links.clone(),
            time,
            deed: Deed::Held(links, before),
            took_effect: false,
        }
    }

    fn one_way(&mut self, cluster: &Cluster, sim: &turmoil::Sim<'_>) -> Option<Begun> {
        let (from, to) = self.pair(cluster, false)?;
        let (a, b) = (ip(cluster, from), ip(cluster, to));
        sim.partition_oneway(a, b);
        let before = cluster.nodes[from].machine.conns.written_to(b);
        Some(Begun {
            target: format!("{} to {}", name(cluster, from), name(cluster, to)),
            session: cluster.nodes[from].session(),
            takes: vec![(from.min(to), from.max(to))],
            time: self.ms(300, self.params.ttl_ms * 2),
            deed: Deed::Cut(from, to, before),
            took_effect: false,
        })
    }

    fn reset(&mut self, cluster: &Cluster) -> Option<Begun> {
        let (a, b) = self.pair(cluster, false)?;
        let broken = cluster.nodes[a].machine.conns.reset(ip(cluster, b));
        cluster.nodes[b].machine.conns.reset(ip(cluster, a));
        Some(Begun {
            target: format!("{} and {}", name(cluster, a), name(cluster, b)),
            session: None,
            takes: Vec::new(),
            time: Duration::ZERO,
            deed: Deed::Done(broken > 0),
            took_effect: false,
        })
    }

    /// What a crash leaves on the disk.
    fn cut(&self) -> Cut {
        match self.dice.below(3) {
            0 => Cut::ProcessOnly,
            1 => Cut::DropUnsynced,
            _ => Cut::KeepSome(self.dice.next_u64()),
        }
    }

    fn crash(
        &mut self,
        cluster: &mut Cluster,
        sim: &mut turmoil::Sim<'_>,
        fits: impl Fn(&NodeHost) -> bool,
    ) -> Option<Begun> {
        let node = self.victim(cluster, |host| host.is_ready() && fits(host))?;
        let (session, cut) = (cluster.nodes[node].session(), self.cut());
        cluster.crash(sim, node, cut);
        Some(Begun {
            target: name(cluster, node),
            session,
            takes: vec![(node, node)],
            time: self.ms(20, 5_000),
            deed: Deed::Restart(vec![node]),
            took_effect: true,
        })
    }

    /// A node that does not lead, while all is well, and all stays well until its grains must answer.
    fn crash_alone(
        &mut self,
        now: Duration,
        cluster: &mut Cluster,
        sim: &mut turmoil::Sim<'_>,
    ) -> Option<Begun> {
        let wants = Duration::from_millis(self.params.ttl_ms + 2_000);
        let is_well = |n: &NodeHost| n.is_ready() && (!n.worker || n.is_valid());
        let well = self.active.is_empty() && cluster.nodes.iter().all(is_well);
        if !well || now + wants > self.params.faults {
            return None;
        }
        // Somebody must be left who can take its grains over.
        if cluster.nodes.iter().filter(|host| host.worker && host.is_valid()).count() < 2 {
            return None;
        }
        let begun = self.crash(cluster, sim, |host| !host.leads() && host.worker && host.is_valid())?;
        let node = begun.takes[0].0;
        cluster.reset_all(node);
        self.calm_until = now + wants;
        Some(Begun { time: wants, ..begun })
    }

    fn crash_all(&mut self, cluster: &mut Cluster, sim: &mut turmoil::Sim<'_>) -> Option<Begun> {
        if !self.active.is_empty() || !cluster.nodes.iter().all(NodeHost::is_ready) {
            return None;
        }
        let all: Vec<usize> = (0..cluster.nodes.len()).collect();
        let cut = self.cut();
        for node in &all {
            cluster.crash(sim, *node, cut);
        }
        Some(Begun {
            target: "every node".into(),
            session: None,
            takes: all.iter().map(|n| (*n, *n)).collect(),
            time: self.ms(20, 3_000),
            deed: Deed::Restart(all),
            took_effect: true,
        })
    }

    /// Longer than the lease, mostly.
    fn stall_time(&self) -> Duration {
        self.ms(self.params.stall_ms.0, self.params.stall_ms.1)
    }

    fn stall(&mut self, cluster: &Cluster) -> Option<Begun> {
        // Aimed: somebody who runs grains.
        let aimed = self.params.aim.is_some();
        let node =
            self.victim(cluster, |host| host.is_ready() && (!aimed || host.worker && host.is_valid()))?;
        let (host, time) = (&cluster.nodes[node], self.stall_time());
        let deed = Deed::Stalled(node, host.is_valid(), host.leads());
        host.machine.pause(time + Duration::from_secs(1));
        Some(self.on(cluster, node, time, deed, false))
    }

    fn point_stall(&mut self, cluster: &Cluster) -> Option<Begun> {
        let at = self.params.points[self.pick(self.params.points.len())];
        let aimed = self.params.aim.is_some();
        let leader = matches!(at, Point::KeepalivesClosed | Point::TickStamped);
        let node = self.victim(cluster, |host| {
            host.is_ready() && (!leader || host.leads()) && (!aimed || host.worker && host.is_valid())
        })?;
        let (time, after) = (self.stall_time(), self.dice.below(30));
        cluster.nodes[node].machine.arm(Arm { at, after, time });
        let begun = self.on(cluster, node, time + Duration::from_secs(5), Deed::Armed(node), false);
        Some(Begun { target: format!("{} at {at:?}", begun.target), ..begun })
    }

    fn slow_disk(&mut self, cluster: &Cluster) -> Option<Begun> {
        let node = self.victim(cluster, |host| host.member)?;
        let machine = &cluster.nodes[node].machine;
        machine.set_disk_delay(self.ms(2, 400));
        let deed = Deed::Slow(node, machine.disk.sync_count());
        let time = self.ms(500, 6_000);
        Some(self.on(cluster, node, time, deed, false))
    }

    fn failing_disk(&mut self, cluster: &Cluster) -> Option<Begun> {
        let node = self.victim(cluster, |host| host.member && host.is_ready())?;
        let disk = &cluster.nodes[node].machine.disk;
        match self.dice.below(2) {
            0 => disk.fail_sync_after(self.dice.below(20)),
            _ => disk.fail_write_after(self.dice.below(40)),
        }
        Some(self.on(cluster, node, Duration::from_secs(4), Deed::Failing(node), false))
    }

    fn clock_rate(&mut self, cluster: &Cluster) -> Option<Begun> {
        let node = self.victim(cluster, |_| true)?;
        let rate = 900_000 + self.dice.below(200_001);
        cluster.nodes[node].machine.clock.set_rate_ppm(rate);
        let begun = self.on(cluster, node, Duration::ZERO, Deed::Done(cluster.nodes[node].is_valid()), false);
        Some(Begun { target: format!("{} to {rate} ppm", begun.target), ..begun })
    }

    fn wall_jump(&mut self, cluster: &Cluster) -> Option<Begun> {
        let node = self.victim(cluster, |_| true)?;
        let by = i64::try_from(self.dice.below(7_200_000)).unwrap_or(0) - 3_600_000;
        cluster.nodes[node].machine.clock.jump_wall(by);
        let begun = self.on(cluster, node, Duration::ZERO, Deed::Done(cluster.nodes[node].is_valid()), false);
        Some(Begun { target: format!("{} by {by} ms", begun.target), ..begun })
    }

    fn on(&self, cluster: &Cluster, node: usize, time: Duration, deed: Deed, took_effect: bool) -> Begun {
        let host = &cluster.nodes[node];
        let (target, session) = (host.machine.name.clone(), host.session());
        Begun { target, session, takes: vec![(node, node)], time, deed, took_effect }
    }
}

fn name(cluster: &Cluster, node: usize) -> String {
    cluster.nodes.get(node).map_or(&cluster.callers.name, |n| &n.machine.name).clone()
}
