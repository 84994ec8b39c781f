//! What the log should hold, and what it may hold: entries acknowledged, and appended since.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        group: u32,
        count: u64,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    Purge {
        group: u32,
        keep: u64,
    },
    Vote {
        group: u32,
    },
    Committed {
        group: u32,
    },
    Restart,
    /// The power goes after so many changes of the disk; what follows until then is tried.
    Cut {
        after: u64,
        seed: Option<u64>,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let group = 0..2u32;
    let step = prop_oneof![
        8 => (group.clone(), 1..12u64).prop_map(|(group, count)| Step::Append { group, count }),
        2 => (group.clone(), 0..8u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group.clone(), 0..12u64).prop_map(|(group, keep)| Step::Purge { group, keep }),
        2 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.prop_map(|group| Step::Committed { group }),
        1 => Just(Step::Restart),
        2 => (0..24u64, any::<Option<u64>>()).prop_map(|(after, seed)| Step::Cut { after, seed }),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Clone, Default, PartialEq, Debug)]
struct Group {
    entries: BTreeMap<u64, Bytes>,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
}

impl Group {
    fn last(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(0, |p| p.0);
        self.entries.keys().next_back().copied().unwrap_or(purged)
    }
}

type Groups = BTreeMap<u32, Group>;

/// Carries a step out on the log; `Ok` iff it was acknowledged.
fn step(wal: &Wal, groups: &mut Groups, step: &Step, n: usize) -> io::Result<()> {
    let fresh = |index: u64| Bytes::from(format!("step {n} entry {index} {}", "padding ".repeat(n % 20)));
    match *step {
        Step::Append { group, count } => {
            let g = groups.entry(group).or_default();
            let entries: Vec<LogEntry> = (g.last() + 1..=g.last() + count)
                .map(|index| LogEntry { index, payload: fresh(index) })
                .collect();
            g.entries.extend(entries.iter().map(|e| (e.index, e.payload.clone())));
            wait(|d| wal.append(GroupId(group), entries, d))
        }
        Step::Truncate { group, back } => {
            let g = groups.entry(group).or_default();
            let purged = g.purged.as_ref().map_or(0, |p| p.0);
            let last_kept = g.last().saturating_sub(back).max(purged);
            let _ = g.entries.split_off(&(last_kept + 1));
            wait(|d| wal.truncate_after(GroupId(group), last_kept, d))
        }
        Step::Purge { group, keep } => {
            let g = groups.entry(group).or_default();
            let upto = g.last().saturating_sub(keep).max(g.purged.as_ref().map_or(0, |p| p.0));
            g.entries = g.entries.split_off(&(upto + 1));
            let mark = fresh(upto);
            g.purged = Some((upto, mark.clone()));
            wait(|d| wal.purge(GroupId(group), upto, mark, d))
        }
        Step::Vote { group } => {
            let vote = fresh(0);
            groups.entry(group).or_default().vote = Some(vote.clone());
            wait(|d| wal.save_vote(GroupId(group), vote, d))
        }
        Step::Committed { group } => wait(|d| wal.save_committed(GroupId(group), fresh(0), d)),
        Step::Restart | Step::Cut { .. } => Ok(()),
    }
}

fn found(wal: &Wal) -> Groups {
    let mut all = Groups::new();
    for group in 0..2 {
        let state = wal.state(GroupId(group));
        let entries = wal.read(GroupId(group), 0..u64::MAX).unwrap();
        assert_eq!(state.last.as_ref(), entries.last());
        let entries = entries.into_iter().map(|e| (e.index, e.payload)).collect();
        let group_found = Group { entries, purged: state.purged, vote: state.vote };
        if group_found != Group::default() {
            all.insert(group, group_found);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing acknowledged is lost and nothing else appears: after a cut the log is either as
    /// acknowledged, or that and the one operation whose outcome nobody was told.
    #[test]
    fn r20_a_log_is_what_was_acknowledged_after_any_power_cut(steps in steps()) {
        let disk = SimDisk::new();
        let mut wal = Some(open(&disk));
        let mut groups = Groups::new();
        let mut cut = None;
        for (n, s) in steps.iter().enumerate() {
            if let Step::Cut { after, seed } = s {
                if cut.is_none() {
                    disk.power_off_after(*after);
                    cut = Some(*seed);
                }
                continue;
            }
            groups.retain(|_, g| *g != Group::default());
            let acknowledged = groups.clone();
            if !matches!(s, Step::Restart) && step(wal.as_ref().expect("open"), &mut groups, s, n).is_ok() {
                continue;
            }
            drop(wal.take());
            let reopened = reopen(&disk, &mut cut);
            let found = found(&reopened);
            groups.retain(|_, g| *g != Group::default());
            prop_assert!(found == acknowledged || found == groups, "step {}: found {:?}, acknowledged {:?}, asked for {:?}", n, found, acknowledged, groups);
            groups = found;
            wal = Some(reopened);
        }
        drop(wal.take());
        disk.power_cut(cut.flatten().map_or(Cut::DropUnsynced, Cut::KeepSome));
        groups.retain(|_, g| *g != Group::default());
        prop_assert_eq!(found(&open(&disk)), groups);
    }
}

/// Opens the log again. The power may go while it does; once it has gone it comes back.
fn reopen(disk: &SimDisk, cut: &mut Option<Option<u64>>) -> Wal {
    if let Some(seed) = *cut {
        let tried = Wal::open(Arc::new(disk.clone()), &StdThreads, dir(), small());
        if let Ok(wal) = tried {
            return wal;
        }
        assert!(disk.is_off(), "it may fail for no other reason: {:?}", tried.err());
        *cut = None;
        disk.power_cut(seed.map_or(Cut::DropUnsynced, Cut::KeepSome));
    }
    open(disk)
}
