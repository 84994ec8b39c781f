//! What the demo prints: a line a second while it runs, and the report at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{bots::Bots, cluster::Heard, readback::Read};

/// The live table.
pub struct Table {
    bots: Arc<Bots>,
    heard: Arc<Mutex<Heard>>,
    next: Duration,
    begin: Duration,
    checked: Arc<Checked>,
}

/// Ledgers looked at while the bots play.
#[derive(Default)]
struct Checked {
    whole: AtomicU64,
    broken: AtomicU64,
}

/// Ledgers looked at in a second.
const CHECKS: u64 = 5;

impl Table {
    /// Prints the head.
    pub fn start(bots: &Arc<Bots>, heard: Arc<Mutex<Heard>>) -> Self {
        println!(
            "  sec   calls/s   deeds/s      p50      p99  waiting  grains per node        leases  fenced  unknown  errors  guarantee"
        );
        let now = bots.now();
        bots.accounts.lock().turn_second();
        Self {
            bots: bots.clone(),
            heard,
            next: now + Duration::from_secs(1),
            begin: now,
            checked: Arc::default(),
        }
    }

    /// Prints lines until `end` (driver's clock).
    pub async fn until(&mut self, end: Duration) {
        while self.next <= end {
            self.line().await;
        }
        tokio::time::sleep(end.saturating_sub(self.bots.now())).await;
    }

    /// Waits for the next full second and prints its line. Cancel safe: a line is printed or still due.
    pub async fn line(&mut self) {
        tokio::time::sleep(self.next.saturating_sub(self.bots.now())).await;
        let sec = (self.next - self.begin).as_secs();
        self.next += Duration::from_secs(1);
        let (t, p50, p99, errors) = {
            let mut a = self.bots.accounts.lock();
            let (t, p50, p99) = a.turn_second();
            (t, p50, p99, a.survivor_errors)
        };
        for n in 0..CHECKS {
            let (bots, checked) = (self.bots.clone(), self.checked.clone());
            // Strides through all players, a few a second.
            let player = (sec * CHECKS + n).wrapping_mul(7919) % bots.players;
            tokio::spawn(async move {
                match super::readback::spot_check(&bots, player).await {
                    Some(true) => checked.whole.fetch_add(1, Ordering::Relaxed),
                    Some(false) => checked.broken.fetch_add(1, Ordering::Relaxed),
                    None => 0,
                };
            });
        }
        let (whole, broken) =
            (self.checked.whole.load(Ordering::Relaxed), self.checked.broken.load(Ordering::Relaxed));
        let guarantee = if broken == 0 && errors == 0 {
            format!("holds: {whole} ledgers whole, no error on a survivor")
        } else {
            format!("BROKEN: {broken} ledgers, {errors} errors on survivors")
        };
        let h = self.heard.lock();
        let grains: Vec<String> = (0..h.ready.len())
            .map(|i| if h.ready[i] { h.activations[i].to_string() } else { "down".into() })
            .collect();
        let waiting = self.bots.in_flight.load(Ordering::Relaxed);
        println!(
            "{sec:>5} {:>9} {:>9} {:>8} {:>8} {waiting:>8}  {:<20} {:>8} {:>7} {:>8} {:>7}  {guarantee}",
            t.calls,
            t.deeds,
            millis(p50),
            millis(p99),
            grains.join(" "),
            h.leases,
            h.fenced.iter().sum::<u64>(),
            t.unknown,
            t.errors,
        );
    }

    /// Prints a remark between two lines.
    pub fn say(&self, what: String) {
        println!("      -- {what}");
    }
}

fn millis(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

/// The result; its fields are the JSON line.
#[derive(Serialize, Debug)]
pub struct Report {
    pub nodes: u64,
    pub players: u64,
    pub victim_led: bool,
    pub deeds_per_s: f64,
    pub calls: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub errors: u64,
    pub lost: u64,
    pub doubled: u64,
    pub lease_expiry_ms: Option<u64>,
    pub failover_ms_p50: Option<u64>,
    pub failover_ms_p99: Option<u64>,
    pub failover_ms_max: Option<u64>,
    pub survivor_errors: u64,
    pub survivor_p99_ms: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub ready_ms: u64,
    #[serde(skip)]
    remarks: Vec<String>,
}

impl Report {
    #[expect(clippy::too_many_arguments, reason = "a report gathers everything once")]
    pub fn new(
        nodes: u64,
        players: u64,
        ready_ms: u64,
        deeds_per_s: f64,
        bots: &Bots,
        read: &Read,
        victim_led: bool,
        expiry: Option<u64>,
    ) -> Self {
        let a = bots.accounts.lock();
        let failover = a.failover_ms();
        let at = |q: f64| {
            let last = failover.len().checked_sub(1)?;
            failover.get((last as f64 * q).ceil() as usize).copied()
        };
        let (p50_us, p99_us, survivors_us) = a.latencies();
        let mut remarks: Vec<String> = a.samples.clone();
        let skipped = bots.skipped.load(Ordering::Relaxed);
        for (n, what) in [
            (skipped, "calls were not issued: too many waiting"),
            (read.unread, "grains could not be read back"),
            (a.still_away() as u64, "grains of the victim have not answered since"),
        ] {
            if n > 0 {
                remarks.push(format!("{n} {what}"));
            }
        }
        // What cannot be read back counts as lost, gold that vanished too; gold that appeared as doubled.
        let vanished = u64::from(read.gold_off < 0);
        if read.gold_off != 0 {
            remarks.push(format!("the guilds' gold is off by {}", read.gold_off));
        }
        println!(
            "read back: {} ledgers and {} treasuries; guarantee: {}",
            read.players,
            read.guilds,
            if read.lost + read.doubled + read.unread == 0 && read.gold_off == 0 {
                "every acknowledged deed is there exactly once, no other more than once, no gold made or lost"
            } else {
                "BROKEN"
            }
        );
        Self {
            nodes,
            players,
            victim_led,
            deeds_per_s: deeds_per_s.round(),
            calls: a.total.calls,
            acknowledged: a.total.acknowledged,
            unknown: a.total.unknown,
            errors: a.total.errors,
            lost: read.lost + read.unread + vanished,
            doubled: read.doubled + u64::from(read.gold_off > 0),
            lease_expiry_ms: expiry,
            failover_ms_p50: at(0.5),
            failover_ms_p99: at(0.99),
            failover_ms_max: at(1.0),
            survivor_errors: a.survivor_errors,
            survivor_p99_ms: survivors_us as f64 / 1000.0,
            p50_us,
            p99_us,
            ready_ms,
            remarks,
        }
    }

    /// The report for people.
    pub fn print(&self) {
        for r in &self.remarks {
            println!("  {r}");
        }
        println!(
            "{} calls: {} acknowledged, {} unknown, {} errors ({} on survivors); {:.0} deeds/s; p50 {}, p99 {}",
            self.calls,
            self.acknowledged,
            self.unknown,
            self.errors,
            self.survivor_errors,
            self.deeds_per_s,
            millis(self.p50_us),
            millis(self.p99_us)
        );
        if let (Some(p50), Some(p99), Some(max)) =
            (self.failover_ms_p50, self.failover_ms_p99, self.failover_ms_max)
        {
            let expiry = self.lease_expiry_ms.map_or("not seen".into(), |ms| format!("{ms} ms"));
            println!(
                "lease expiry {expiry}; failover p50 {p50} ms, p99 {p99} ms, max {max} ms; survivors' p99 {:.1} ms",
                self.survivor_p99_ms
            );
        }
        println!("lost {}, doubled {}", self.lost, self.doubled);
    }
}
