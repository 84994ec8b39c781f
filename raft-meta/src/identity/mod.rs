//! Who a data directory belongs to: a small checksummed file, and a lock so that no second process uses
//! it. Ids live here, never in host names or ordinals.

mod text;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millet_core::{
    NodeId,
    world::{Disk, Entropy},
};

use self::text::{parse, write};
use crate::{log::has_segments, machine::Secret};

/// The identity file's format.
const FORMAT: u32 = 1;
/// The identity file's name.
const FILE: &str = "identity";
/// Where a recovery puts things together before it lays anything down.
pub(crate) const SCRATCH: &str = "scratch";
/// The folders beside the identity that hold a member's data.
pub(crate) const PARTS: [&str; 4] = ["log", "snapshots", "state", SCRATCH];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error(
        "data directory {dir} is locked by process {process}; stop that process or use another directory"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process, as far as known.
        process: String,
    },
    /// It belongs to another cluster.
    #[error(
        "data directory {dir} belongs to cluster {found}, not to cluster {wanted}; use the directory of this cluster, or an empty one"
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: String,
        /// The cluster it was to serve.
        wanted: String,
    },
    /// Its member has left its cluster for good.
    #[error(
        "data directory {dir} belonged to member {member} of cluster {cluster}, which has left it for good; use an empty directory"
    )]
    Left {
        /// The directory.
        dir: PathBuf,
        /// Who it was.
        member: u64,
        /// Its cluster.
        cluster: String,
    },
    /// The identity file cannot be read.
    #[error(
        "{file} is damaged ({why}); restore it from a backup, or replace this member with an empty directory"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Its log is gone, and with it the votes it gave.
    #[error(
        "data directory {dir} has lost its log/: member {member} would forget its votes and what it has acknowledged; put log/ back, or replace this member with an empty directory"
    )]
    LogGone {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        member: u64,
    },
    /// Written by a newer build.
    #[error("{file} has format {found}, this build reads up to {FORMAT}; upgrade")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The disk refused.
    #[error("{path}: {source}; check that the directory exists, is writable and not full")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// A member's place in a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The cluster's id, drawn at `init`: 32 hexadecimal digits, behind the cluster's name if it has one.
    pub cluster: String,
    /// This member's id, never used again.
    pub member: u64,
    /// Names lease rows (R31).
    pub secret: Secret,
    /// The members at `init`: id and address.
    pub founders: Vec<(u64, String)>,
}

/// Whether `cluster` is the one that settings name: by its whole id, or by the name it was given at `init`.
pub fn is_named(cluster: &str, name: &str) -> bool {
    cluster == name || cluster.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
}

/// What the identity file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Drawn when the directory was first used.
    pub node: NodeId,
    /// Wall clock then, milliseconds since 1970; for people.
    pub created_ms: u64,
    /// `None` until the cluster is made.
    pub membership: Option<Membership>,
    /// It has left its cluster, whose members count on never hearing this id again.
    pub retired: bool,
    /// Its log was opened once, so there are votes that it must not forget.
    pub started: bool,
}

/// A locked data directory.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Creates or opens a data directory and locks it until this value is dropped. `cluster`: refuse a
    /// directory of any other one.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        cluster: Option<&str>,
        entropy: &dyn Entropy,
        wall_ms: u64,
    ) -> Result<Self, IdentityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        disk.create_dir(dir).map_err(at(dir))?;
        let lock = disk.lock(&dir.join("lock")).map_err(|e| locked(dir, e))?;
        let file = dir.join(FILE);
        let identity = match disk.read(&file) {
            Ok(bytes) => parse(&file, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(rest) = left_over(&*disk, dir)? {
                    let why = format!(
                        "it is missing, but {rest}/ beside it holds a member's data; if that is of a restore that was interrupted, clear the directory"
                    );
                    return Err(IdentityError::Damaged { file, why });
                }
                // 0 means "no node" on the wire.
                let fresh = Identity {
                    node: NodeId(entropy.next_u64().max(1)),
                    created_ms: wall_ms,
                    membership: None,
                    retired: false,
                    started: false,
                };
                write(&*disk, dir, &fresh).map_err(at(&file))?;
                fresh
            }
            Err(e) => return Err(at(&file)(e)),
        };
        if identity.membership.is_none()
            && let Some(rest) = left_over(&*disk, dir)?
        {
            let why = format!(
                "it belongs to no cluster, but {rest}/ beside it holds data: a restore that was interrupted; clear the directory"
            );
            return Err(IdentityError::Damaged { file, why });
        }
        if let (Some(m), Some(wanted)) = (&identity.membership, cluster)
            && !is_named(&m.cluster, wanted)
        {
            return Err(IdentityError::OtherCluster {
                dir: dir.to_owned(),
                found: m.cluster.clone(),
                wanted: wanted.to_owned(),
            });
        }
        let opened = Self { disk, dir: dir.to_owned(), identity, _lock: lock };
        if opened.identity.started && !opened.has_log()? {
            let member = opened.identity.membership.as_ref().map_or(0, |place| place.member);
            return Err(IdentityError::LogGone { dir: dir.to_owned(), member });
        }
        Ok(opened)
    }

    fn has_log(&self) -> Result<bool, IdentityError> {
        let path = self.dir.join("log");
        has_segments(&*self.disk, &path).map_err(|source| IdentityError::Io { path, source })
    }

    /// What it says.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Refuses a directory whose member has left its cluster: the others count on never hearing it again.
    pub(crate) fn not_left(&self) -> Result<(), IdentityError> {
        let place = self.identity.membership.as_ref();
        match self.identity.retired {
            false => Ok(()),
            true => Err(IdentityError::Left {
                dir: self.dir.clone(),
                member: place.map_or(0, |p| p.member),
                cluster: place.map_or("?", |p| &p.cluster).to_owned(),
            }),
        }
    }

    /// Takes a place in a cluster, durably. The same place again is fine, another one is refused, and who has
    /// left takes none, also while its process still runs.
    pub fn join(&mut self, membership: Membership) -> Result<(), IdentityError> {
        self.not_left()?;
        match &self.identity.membership {
            Some(have) if *have == membership => Ok(()),
            Some(have) => Err(IdentityError::OtherCluster {
                dir: self.dir.clone(),
                found: have.cluster.clone(),
                wanted: membership.cluster,
            }),
            None => self.put(Identity { membership: Some(membership), ..self.identity.clone() }),
        }
    }

    /// Notes durably that the member has left its cluster.
    pub fn retire(&mut self) -> Result<(), IdentityError> {
        self.put(Identity { retired: true, ..self.identity.clone() })
    }

    /// Notes durably that there is a log: without it the directory is refused from now on.
    pub(crate) fn started(&mut self) -> Result<(), IdentityError> {
        if self.identity.started {
            return Ok(());
        }
        self.put(Identity { started: true, ..self.identity.clone() })
    }

    /// Forgets the identity, durably: whatever is left beside it is refused from now on.
    pub(crate) fn forget(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        match disk.remove(&dir.join(FILE)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        disk.sync_dir(dir)
    }

    fn put(&mut self, identity: Identity) -> Result<(), IdentityError> {
        write(&*self.disk, &self.dir, &identity)
            .map_err(|source| IdentityError::Io { path: self.dir.join(FILE), source })?;
        self.identity = identity;
        Ok(())
    }
}

/// Which folder holds what is left of a member: another cluster would go on with it, votes included.
fn left_over(disk: &dyn Disk, dir: &Path) -> Result<Option<&'static str>, IdentityError> {
    for rest in PARTS {
        let path = dir.join(rest);
        let names = match disk.list(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            names => names.map_err(|source| IdentityError::Io { path, source })?,
        };
        if names.iter().any(|name| name != "lock") {
            return Ok(Some(rest));
        }
    }
    Ok(None)
}

fn locked(dir: &Path, e: io::Error) -> IdentityError {
    if e.kind() != io::ErrorKind::WouldBlock {
        return IdentityError::Io { path: dir.to_owned(), source: e };
    }
    let text = e.to_string();
    let digits: String =
        text.chars().rev().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let process = if digits.is_empty() { text } else { digits.chars().rev().collect() };
    IdentityError::Locked { dir: dir.to_owned(), process }
}

#[cfg(test)]
mod tests {
    use millet_testkit::{SeededEntropy, SimDisk, StdThreads};

    use super::*;

    fn dir() -> &'static Path {
        Path::new("/data")
    }
    fn open(disk: &SimDisk, cluster: Option<&str>, seed: u64) -> Result<DataDir, IdentityError> {
        DataDir::open(Arc::new(disk.clone()), dir(), cluster, &SeededEntropy::new(seed), 7)
    }
    fn place(cluster: &str) -> Membership {
        let founders = vec![(1, "a:1".into()), (2, "b:1".into())];
        Membership { cluster: cluster.into(), member: 2, secret: Secret([9; 16]), founders }
    }

    #[test]
    fn a_directory_keeps_its_node_and_its_place() {
        let disk = SimDisk::new();
        let mut first = open(&disk, None, 1).expect("fresh");
        let node = first.identity().node;
        assert_eq!(first.identity().membership, None);
        first.join(place("c1")).expect("fresh");
        first.join(place("c1")).expect("the same place again");
        drop(first);
        let again = open(&disk, Some("c1"), 2).expect("same cluster");
        assert_eq!((again.identity().node, again.identity().membership.clone()), (node, Some(place("c1"))));
    }

    #[test]
    fn another_clusters_directory_is_refused_naming_both() {
        let disk = SimDisk::new();
        let mut first = open(&disk, None, 1).expect("fresh");
        first.join(place("c1")).expect("fresh");
        let joined = first.join(place("c2")).expect_err("another cluster").to_string();
        drop(first);
        let opened = open(&disk, Some("c2"), 1).err().expect("another cluster").to_string();
        for text in [joined, opened] {
            assert!(
                text.contains("cluster c1") && text.contains("cluster c2") && text.contains("/data"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_directory_remembers_that_its_member_has_left() {
        let disk = SimDisk::new();
        let mut first = open(&disk, None, 1).expect("fresh");
        first.join(place("c1")).expect("fresh");
        first.retire().expect("written");
        drop(first);
        let again = open(&disk, Some("c1"), 2).expect("same cluster");
        assert!(again.identity().retired && again.identity().membership == Some(place("c1")));
    }

    /// R34: its process still runs and holds the directory; asked once more, as by a repeated `init` or a late
    /// adoption, it does not come back.
    #[test]
    fn r34_who_has_left_does_not_take_its_place_again_in_the_same_process() {
        let disk = SimDisk::new();
        let mut first = open(&disk, None, 1).expect("fresh");
        first.join(place("c1")).expect("fresh");
        first.retire().expect("written");
        let why = first.join(place("c1")).expect_err("it has left").to_string();
        assert!(why.contains("member 2 of cluster c1") && why.contains("has left it for good"), "{why}");
    }

    /// A member without its votes could give them twice.
    #[test]
    fn g2_who_has_lost_its_log_does_not_start_as_if_it_had_never_voted() {
        let (disk, log) = (SimDisk::new(), Path::new("/data/log"));
        let mut first = open(&disk, None, 1).expect("fresh");
        first.join(place("c1")).expect("fresh");
        drop(first);
        let mut again = open(&disk, None, 2).expect("it never ran");
        let options = crate::log::WalOptions::new(7);
        drop(crate::log::Wal::open(Arc::new(disk.clone()), &StdThreads, log, options).expect("a new log"));
        again.started().expect("written");
        drop(again);
        drop(open(&disk, None, 3).expect("its log is there"));
        for name in disk.list(log).expect("a folder") {
            disk.remove(&log.join(name)).expect("removed");
        }
        let text = open(&disk, None, 4).err().expect("refused").to_string();
        assert!(text.contains("member 2") && text.contains("/data") && text.contains("log/"), "{text}");
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_lock() {
        let disk = SimDisk::new();
        let _first = open(&disk, None, 1).expect("fresh");
        let text = open(&disk, None, 1).err().expect("locked").to_string();
        let said = format!("data directory /data is locked by process {}", std::process::id());
        assert!(text.starts_with(&said), "{text}");
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let disk = SimDisk::new();
        drop(open(&disk, None, 1).expect("fresh"));
        disk.flip_bit(Path::new("/data/identity"), 40, 2);
        assert!(matches!(open(&disk, None, 1), Err(IdentityError::Damaged { .. })));
    }

    /// A directory that was copied or cleared by half: its log belongs to some cluster, nobody knows which.
    #[test]
    fn a_log_without_an_identity_is_not_a_fresh_directory() {
        let disk = SimDisk::new();
        open(&disk, None, 1).expect("fresh").join(place("c1")).expect("fresh");
        disk.create_dir(Path::new("/data/log")).expect("made");
        drop(disk.create(Path::new("/data/log/wal-0000000000000001.log"), 64).expect("created"));
        drop(open(&disk, None, 1).expect("with its identity"));
        disk.remove(Path::new("/data/identity")).expect("removed");
        let text = open(&disk, None, 1).err().expect("refused").to_string();
        assert!(text.contains("/data/identity") && text.contains("log/"), "{text}");
    }

    /// A restore writes the identity last: what is there before it would be taken for a fresh member's.
    #[test]
    fn r16_an_interrupted_restore_is_not_a_fresh_directory() {
        for rest in ["snapshots/snapshot-0-1", "state/life", "scratch/state.redb"] {
            let (disk, rest) = (SimDisk::new(), Path::new("/data").join(rest));
            drop(open(&disk, None, 1).expect("fresh"));
            disk.create_dir(rest.parent().expect("a folder")).expect("made");
            drop(disk.create(&rest, 64).expect("created"));
            let text = open(&disk, None, 1).err().expect("refused").to_string();
            assert!(text.contains("/data/identity") && text.contains("interrupted"), "{text}");
        }
    }
}
