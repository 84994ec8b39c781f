//! The log on a disk that forgets: the power goes at every change of the disk, and again at every change
//! of the opening after it. What was acknowledged is there, nothing else is.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, mpsc::sync_channel},
};

use bytes::Bytes;
use millet_core::world::Disk;
use millet_raft_meta::log::{Done, GroupId, LogEntry, LogStore, Wal, WalOptions};
use millet_testkit::{Cut, SimDisk, StdThreads};

use crate::disks::Odd;

pub fn dir() -> &'static Path {
    Path::new("/data/log")
}

/// Segments so small that a few entries cross them. No thread beside the writer: the same changes of the
/// disk in the same order each time.
pub fn small() -> WalOptions {
    WalOptions {
        first_segment_bytes: 1024,
        segment_bytes: 2048,
        cache_bytes: 512,
        prepare_ahead: false,
        ..WalOptions::new(0xFEED)
    }
}

pub fn wait(op: impl FnOnce(Done)) -> io::Result<()> {
    let (tell, told) = sync_channel(1);
    op(Box::new(move |r| tell.send(r).expect("the test waits")));
    told.recv().expect("done is always called")
}

/// Bytes that say whose they are.
pub fn payload(of: u64, len: usize) -> Bytes {
    (0..len as u64).map(|n| (of.wrapping_mul(0x9E37_79B9).wrapping_add(n * n) >> 3) as u8).collect()
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Entries of these sizes.
    Append(u32, Vec<usize>),
    /// Removes the last so many.
    Truncate(u32, u64),
    /// Keeps the last so many.
    Purge(u32, u64),
    Vote(u32),
    Committed(u32),
    /// Closed and opened again.
    Restart,
}
use Step::{Append, Committed, Purge, Restart, Truncate, Vote};

#[derive(Clone, Default, PartialEq, Debug)]
pub struct Kept {
    entries: BTreeMap<u64, Bytes>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
}

/// What each group holds.
pub type Groups = BTreeMap<u32, Kept>;

impl Kept {
    fn floor(&self) -> u64 {
        self.purged.as_ref().map_or(0, |p| p.0)
    }
    fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.floor())
    }
}

/// Step `n` on the log and in the book; `Ok` iff it was acknowledged.
pub fn carry_out(wal: &Wal, groups: &mut Groups, step: &Step, n: u64) -> io::Result<()> {
    match *step {
        Append(group, ref sizes) => {
            let kept = groups.entry(group).or_default();
            let from = kept.last() + 1;
            let entries: Vec<LogEntry> = (from..)
                .zip(sizes)
                .map(|(index, len)| LogEntry { index, payload: payload(n * 1000 + index, *len) })
                .collect();
            kept.entries.extend(entries.iter().map(|e| (e.index, e.payload.clone())));
            wait(|d| wal.append(GroupId(group), entries, d))
        }
        Truncate(group, back) => {
            let kept = groups.entry(group).or_default();
            let last = kept.last().saturating_sub(back).max(kept.floor());
            drop(kept.entries.split_off(&(last + 1)));
            wait(|d| wal.truncate_after(GroupId(group), last, d))
        }
        Purge(group, keep) => {
            let kept = groups.entry(group).or_default();
            let upto = kept.last().saturating_sub(keep).max(kept.floor());
            kept.entries = kept.entries.split_off(&(upto + 1));
            kept.purged = Some((upto, payload(n, 9)));
            wait(|d| wal.purge(GroupId(group), upto, payload(n, 9), d))
        }
        Vote(group) => {
            groups.entry(group).or_default().vote = Some(payload(n, 18));
            wait(|d| wal.save_vote(GroupId(group), payload(n, 18), d))
        }
        Committed(group) => wait(|d| wal.save_committed(GroupId(group), payload(n, 25), d)),
        Restart => Ok(()),
    }
}

/// What the log holds; the error says what does not fit together.
pub fn found(wal: &Wal) -> Result<Groups, String> {
    let mut all = Groups::new();
    for group in 0..3 {
        let state = wal.state(GroupId(group));
        let entries = wal.read(GroupId(group), 0..u64::MAX).map_err(|e| e.to_string())?;
        if state.last.as_ref() != entries.last() {
            return Err("the last entry is another one in the state".into());
        }
        let entries = entries.into_iter().map(|e| (e.index, e.payload)).collect();
        let kept = Kept { entries, purged: state.purged, vote: state.vote };
        if kept != Kept::default() {
            all.insert(group, kept);
        }
    }
    Ok(all)
}

/// Every kind of record, two groups, several segments, segments moved and removed.
pub fn script(sizes: &[usize]) -> Vec<Step> {
    let size = |n: usize| sizes[n % sizes.len()];
    let mut steps = vec![Vote(0), Append(1, vec![size(0)]), Vote(1)];
    for n in 0..14 {
        steps.push(Append(0, (0..=n % 3).map(|m| size(n + m)).collect()));
        steps.push(match n % 7 {
            0 => Committed(0),
            1 => Truncate(0, 2),
            2 => Append(1, vec![size(n + 1)]),
            3 => Purge(0, 3),
            4 => Vote(0),
            5 => Restart,
            _ => Truncate(1, 1),
        });
    }
    steps.extend([
        Purge(0, 1),
        Append(1, vec![size(2)]),
        Committed(1),
        Purge(1, 0),
        Append(0, vec![size(3)]),
    ]);
    steps
}

/// A kind of log under test.
pub struct Subject<'a> {
    pub steps: &'a [Step],
    pub options: &'a dyn Fn() -> WalOptions,
    /// The disk that the log gets.
    pub disk: &'a dyn Fn(SimDisk) -> Arc<dyn Disk>,
}

impl Subject<'_> {
    fn open(&self, disk: &SimDisk) -> Result<Wal, String> {
        Wal::open((self.disk)(disk.clone()), &StdThreads, dir(), (self.options)()).map_err(|e| e.to_string())
    }

    /// Runs the steps until the power goes. What was acknowledged, and that with the step under way.
    fn run(&self, disk: &SimDisk) -> (Groups, Groups) {
        let mut groups = Groups::new();
        let Ok(mut wal) = self.open(disk) else { return (groups.clone(), groups) };
        for (n, step) in (1..).zip(self.steps) {
            let acknowledged = groups.clone();
            if matches!(step, Restart) {
                drop(wal);
                let Ok(again) = self.open(disk) else { return (acknowledged, groups) };
                wal = again;
            }
            if carry_out(&wal, &mut groups, step, n).is_err() {
                return (acknowledged, groups);
            }
        }
        drop(wal);
        (groups.clone(), groups)
    }

    fn check(&self, disk: &SimDisk, told: &(Groups, Groups)) -> Result<(), String> {
        let wal = self.open(disk).map_err(|e| format!("it does not open: {e}"))?;
        let found = found(&wal)?;
        let whole = |g: &Groups| {
            g.iter().filter(|(_, k)| **k != Kept::default()).map(|(n, k)| (*n, k.clone())).collect()
        };
        let (acknowledged, asked): (Groups, Groups) = (whole(&told.0), whole(&told.1));
        if found != acknowledged && found != asked {
            return Err(format!("found {:?}, acknowledged {:?}", brief(&found), brief(&acknowledged)));
        }
        // It goes on from there.
        let mut now = found;
        let steps = [Append(0, vec![40]), Vote(1), Append(1, vec![7, 7])];
        for (n, step) in (9_000..).zip(&steps) {
            carry_out(&wal, &mut now, step, n).map_err(|e| format!("it does not go on: {e}"))?;
        }
        drop(wal);
        disk.power_cut(Cut::DropUnsynced);
        let again = self.open(disk).map_err(|e| format!("it does not open again: {e}"))?;
        if self::found(&again)? == now { Ok(()) } else { Err("lost after it went on".into()) }
    }

    /// The power goes at every change, and `cuts` ways of what is left. Crashes, and what went wrong.
    pub fn crash_everywhere(&self, cuts: u64) -> (u64, Vec<String>) {
        let mut wrong = Vec::new();
        for k in 0..100_000 {
            let disk = SimDisk::new();
            disk.power_off_after(k);
            let told = self.run(&disk);
            let ended = !disk.is_off();
            for seed in 0..cuts {
                let cut = if seed == 0 { Cut::DropUnsynced } else { Cut::KeepSome(k * 31 + seed) };
                let after = disk.fork();
                after.power_cut(cut);
                if k % 9 == 0 && seed == 1 {
                    wrong.extend(
                        self.crash_while_opening(&after, &told)
                            .err()
                            .map(|e| format!("change {k}, {cut:?}, opening: {e}")),
                    );
                }
                wrong.extend(self.check(&after, &told).err().map(|e| format!("change {k}, {cut:?}: {e}")));
            }
            if ended {
                return (k, wrong);
            }
        }
        panic!("the steps never end");
    }

    /// The power goes again at every change that opening makes.
    fn crash_while_opening(&self, disk: &SimDisk, told: &(Groups, Groups)) -> Result<(), String> {
        for k in 0..1_000 {
            let again = disk.fork();
            again.power_off_after(k);
            drop(self.open(&again));
            if !again.is_off() {
                return Ok(());
            }
            let after = again.fork();
            after.power_cut(Cut::KeepSome(k));
            self.check(&after, told).map_err(|e| format!("change {k}: {e}"))?;
        }
        panic!("opening never ends");
    }
}

/// Lengths instead of bytes.
fn brief(groups: &Groups) -> Vec<String> {
    let lengths = |k: &Kept| k.entries.iter().map(|(i, b)| format!("{i}:{}", b.len())).collect::<Vec<_>>();
    let purged = |k: &Kept| k.purged.as_ref().map(|p| p.0);
    groups
        .iter()
        .map(|(g, k)| {
            format!("group {g}: purged {:?}, entries {:?}, vote {}", purged(k), lengths(k), k.vote.is_some())
        })
        .collect()
}

#[test]
fn r20_the_log_keeps_what_it_acknowledged_when_the_power_goes_at_any_write() {
    let steps = script(&[1, 40, 130, 300, 511, 900]);
    let log = Subject { steps: &steps, options: &small, disk: &|d| Arc::new(d) };
    let (crashes, wrong) = log.crash_everywhere(8);
    assert!(wrong.is_empty(), "{} of {crashes}: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(crashes > 150, "every change of the disk: {crashes}");
}

#[test]
fn r20_values_up_to_4_mib_are_kept_when_the_power_goes_at_any_write() {
    let steps = script(&[1, 4 << 20, 128, 70_000, 16 << 10, 1 << 20]);
    let options = || WalOptions {
        segment_bytes: 2 << 20,
        first_segment_bytes: 64 << 10,
        cache_bytes: 1 << 20,
        ..small()
    };
    let log = Subject { steps: &steps[..24], options: &options, disk: &|d| Arc::new(d) };
    let (crashes, wrong) = log.crash_everywhere(2);
    assert!(wrong.is_empty(), "{} of {crashes}: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(crashes > 50, "every change of the disk: {crashes}");
}

/// The control: the same suite, the same log, on a disk whose sync does nothing.
#[test]
fn control_a_log_that_skips_its_sync_is_caught() {
    let steps = script(&[1, 40, 130, 300, 511, 900]);
    let log = Subject { steps: &steps, options: &small, disk: &|d| Odd::unsynced(d) };
    let (crashes, wrong) = log.crash_everywhere(1);
    assert!(wrong.len() as u64 > crashes / 2, "most crashes show it: {} of {crashes}", wrong.len());
}
