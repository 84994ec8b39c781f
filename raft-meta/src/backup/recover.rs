//! The first member of a cluster that does not start from a quorum of an old one (R16): new cluster id, every
//! generation above all that were, all sessions ended, nothing granted for one TTL. It starts alone; others
//! are added to it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millet_core::{
    Clock, SessionId, limits,
    world::{Disk, Entropy, Threads},
};
use millet_proto::wire::BackupHeader;

use super::source::{Directory, File, Source};
use crate::{
    identity::{DataDir, Membership, PARTS, SCRATCH, is_named},
    log::{LogStore, Wal, WalOptions},
    machine::Recovery,
    member::{META, MemberError, STATE},
    raft::{Founding, SnapshotFiles, found},
    state::recover,
};

/// The first member's id: the cluster is new, so are its ids.
const MEMBER: u64 = 1;

/// The member that the new cluster begins with.
pub struct NewMember {
    /// Its data directory: an empty one.
    pub dir: PathBuf,
    /// Its peer address, as others will reach it.
    pub addr: String,
    /// The cluster's name; empty: the old one's.
    pub name: String,
    /// The longest TTL that sessions of the old cluster may have.
    pub ttl: Duration,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// The log's threads.
    pub threads: Arc<dyn Threads>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The new cluster's id.
    pub cluster: String,
    /// The old one's.
    pub old: String,
    /// Its generation: above every one of the old cluster.
    pub generation: u32,
    /// Grains' values.
    pub values: u64,
    /// The last entries in it: of `meta`, of `state`.
    pub indexes: (u64, u64),
}

/// Makes the first member of a new cluster from a backup file.
pub fn restore(file: &Path, new: &NewMember) -> Result<Recovered, MemberError> {
    let mut source = File { disk: Arc::clone(&new.disk), path: file.to_owned() };
    let mut dir = new.open()?;
    new.or_clear(new.make(&mut source, &mut dir))
}

/// Makes the first member of a new cluster from what a member of a lost one has: for the permanent loss of
/// the majority. `confirm` is the old cluster's name or id, as typed.
pub fn force_new_cluster(old: &Path, confirm: &str, new: &NewMember) -> Result<Recovered, MemberError> {
    let (disk, entropy) = (Arc::clone(&new.disk), &*new.entropy);
    let unreadable = |source| MemberError::Storage { dir: old.to_owned(), source };
    // Opening makes an empty directory a fresh one.
    new.disk.read(&old.join("identity")).map_err(unreadable)?;
    let held = DataDir::open(disk, old, None, entropy, new.clock.wall_ms())?;
    let place = held.identity().membership.clone().ok_or_else(|| {
        MemberError::Refused(format!("data directory {} belongs to no cluster", old.display()))
    })?;
    if held.identity().retired {
        return Err(MemberError::Refused(format!(
            "data directory {} belonged to member {} of cluster {}, which went on without it: what it has is old; take the directory of a member that had not left",
            old.display(),
            place.member,
            place.cluster
        )));
    }
    if !is_named(&place.cluster, confirm) {
        return Err(MemberError::Refused(format!(
            "{confirm:?} is not the name of cluster {}; what only the lost members had will be gone: nothing was done",
            place.cluster
        )));
    }
    let mut dir = new.open()?;
    let scratch = new.dir.join(SCRATCH);
    let made = Directory::open(&new.disk, &*new.threads, entropy.next_u64(), old, held.identity(), &scratch)
        .and_then(|source| new.remove_files(&scratch).map(|()| source))
        .map_err(unreadable)
        .and_then(|mut source| new.make(&mut source, &mut dir));
    new.or_clear(made)
}

/// The name in a cluster's id: all but the 32 digits behind it.
fn name_of(cluster: &str) -> &str {
    let drawn = |d: &str| d.len() == 32 && d.bytes().all(|b| b.is_ascii_hexdigit());
    cluster.rsplit_once('-').filter(|(_, rest)| drawn(rest)).map_or("", |(name, _)| name)
}

impl NewMember {
    fn failed(&self, source: io::Error) -> MemberError {
        MemberError::Storage { dir: self.dir.clone(), source }
    }

    /// The new directory, locked; it must be empty.
    fn open(&self) -> Result<DataDir, MemberError> {
        let (disk, entropy) = (Arc::clone(&self.disk), &*self.entropy);
        let dir = DataDir::open(disk, &self.dir, None, entropy, self.clock.wall_ms())?;
        match &dir.identity().membership {
            None => Ok(dir),
            Some(place) => Err(MemberError::Refused(format!(
                "data directory {} belongs to member {} of cluster {}; name an empty one",
                self.dir.display(),
                place.member,
                place.cluster
            ))),
        }
    }

    /// Removes what a failed attempt has begun: the directory is a fresh one again, or is refused from now on.
    /// First the identity, durably: it may name the new cluster already, and without log and snapshots it
    /// would begin that cluster again, empty. Where it cannot be removed, what it belongs to stays, whole.
    fn or_clear<T>(&self, made: Result<T, MemberError>) -> Result<T, MemberError> {
        made.map_err(|why| {
            let cleared = DataDir::forget(&*self.disk, &self.dir)
                .and_then(|()| PARTS.iter().try_for_each(|part| self.remove_files(&self.dir.join(part))));
            match cleared {
                Ok(()) => why,
                Err(e) => MemberError::Refused(format!(
                    "{why}; what was begun in {} could not be removed either ({e}): clear that directory",
                    self.dir.display()
                )),
            }
        })
    }

    fn remove_files(&self, folder: &Path) -> io::Result<()> {
        let names = match self.disk.list(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        names.iter().try_for_each(|name| self.disk.remove(&folder.join(name)))?;
        self.disk.sync_dir(folder)
    }

    /// A wall clock behind the backup's would give snowflakes out again, and generations: what the old
    /// cluster did until then was dated later (R16).
    fn check_clock(&self, header: &BackupHeader, wall_ms: u64) -> Result<(), MemberError> {
        if wall_ms >= header.taken_ms {
            return Ok(());
        }
        Err(MemberError::Refused(format!(
            "the wall clock here says {wall_ms} ms since 1970, {} s before the backup was taken, at {} ms by the clock of member {}: set this machine's clock right, then repeat; if it is right and that member's was ahead, wait until that time",
            (header.taken_ms - wall_ms).div_ceil(1_000),
            header.taken_ms,
            header.member
        )))
    }

    /// Writes log and snapshots, and last the identity: without it the directory is refused.
    fn make(&self, source: &mut dyn Source, dir: &mut DataDir) -> Result<Recovered, MemberError> {
        let survey = source.survey().map_err(|e| MemberError::Refused(e.to_string()))?;
        let old = survey.meta.cluster().cloned().ok_or_else(|| {
            MemberError::Refused("it holds no cluster: none had been made when it was taken".into())
        })?;
        let (wall_ms, entropy) = (self.clock.wall_ms(), &*self.entropy);
        self.check_clock(&survey.header, wall_ms)?;
        let seconds = u32::try_from(wall_ms / 1_000).unwrap_or(u32::MAX);
        let above = survey
            .generation()
            .checked_add(1)
            .ok_or_else(|| MemberError::Refused("its generation is the last one there is".into()))?;
        let generation = above.max(seconds);
        let name = if self.name.is_empty() { name_of(&old.cluster) } else { &self.name };
        let drawn = format!("{:032x}", entropy.next_u128());
        let cluster = if name.is_empty() { drawn } else { format!("{name}-{drawn}") };
        let ttl = self.ttl.max(limits::SESSION_TTL);
        let meta = survey.meta.recovered(&Recovery {
            cluster: cluster.clone(),
            member: MEMBER,
            generation,
            wall_ms,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            oldest: survey.state.oldest,
        });
        let first_session = SessionId(meta.revision().0 + 1);
        let indexes = (meta.revision().0, survey.state_index.max(1));
        let secret = old.secret;
        let mut content = source.state().map_err(|e| self.failed(e))?;
        self.lay_down(indexes, Box::new(move |to| meta.write_to(to)), {
            Box::new(move |to| recover(&mut content, to, generation, first_session))
        })
        .map_err(|e| self.failed(e))?;
        let founders = vec![(MEMBER, self.addr.clone())];
        dir.join(Membership { cluster: cluster.clone(), member: MEMBER, secret, founders })?;
        Ok(Recovered { cluster, old: old.cluster, generation, values: survey.state.values, indexes })
    }

    fn lay_down(
        &self,
        (meta_index, state_index): (u64, u64),
        meta: crate::raft::Content,
        state: crate::raft::Content,
    ) -> io::Result<()> {
        let options = WalOptions::new(self.entropy.next_u64());
        let wal = Wal::open(Arc::clone(&self.disk), &*self.threads, &self.dir.join("log"), options);
        let wal: Box<dyn LogStore> = Box::new(wal.map_err(io::Error::other)?);
        for (group, index, content) in [(META, meta_index, meta), (STATE, state_index, state)] {
            let files = SnapshotFiles::open(Arc::clone(&self.disk), self.dir.join("snapshots"), group)?;
            let addr = self.addr.clone();
            found(&*wal, &files, Founding { group, member: MEMBER, addr, index, content })?;
        }
        Ok(())
    }
}
