//! Recoveries on disks that fail half-way (R16): what is left of them is never taken for a cluster.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use millet_core::world::DiskFile;

use super::*;

/// A disk that fails in the new member's directory.
#[derive(Default)]
struct Broken {
    /// No first snapshot can be laid down.
    full: bool,
    /// Nothing of the log can be removed.
    stuck: bool,
    /// So often the directory is not synced once its identity names a cluster, nor after that.
    unsynced: AtomicU32,
    joined: AtomicBool,
}

impl Disk for Broken {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        if self.full && path.parent().is_some_and(|dir| dir.ends_with("new/snapshots")) {
            return Err(io::Error::other("no room"));
        }
        RealDisk.create(path, bytes)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.stuck && path.parent().is_some_and(|dir| dir.ends_with("new/log")) {
            true => Err(io::Error::other("it sticks")),
            false => RealDisk.remove(path),
        }
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let identity = RealDisk.read(&dir.join("identity")).unwrap_or_default();
        if dir.ends_with("new") && String::from_utf8_lossy(&identity).contains("cluster=") {
            self.joined.store(true, Relaxed);
        }
        let left = |n: u32| n.checked_sub(1);
        let fails = dir.ends_with("new") && self.joined.load(Relaxed);
        if fails && self.unsynced.fetch_update(Relaxed, Relaxed, left).is_ok() {
            return Err(io::Error::other("not synced"));
        }
        RealDisk.sync_dir(dir)
    }
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_file_system(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }
}

/// R16: what a failed force-new-cluster has begun is removed, or the directory is refused from then on: a
/// member that started there would begin a cluster over half of another's data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_failed_force_new_cluster_leaves_a_fresh_directory_or_one_that_is_refused() {
    let mut cluster = Cluster::of(1, named(EngineKind::Sled)).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    fill(&cluster, session).await;
    cluster.stop(0).await;
    let old = cluster.dirs[0].path().to_owned();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new");
    let forced = |disk: Arc<dyn Disk>| {
        let new = NewMember { disk, ..new_member(&dir, "127.0.0.1:1", now_ms()) };
        force_new_cluster(&old, "realm", &new).map_err(|e| e.to_string())
    };
    let left = || {
        let parts = ["log", "snapshots", "state", "scratch"].map(|part| RealDisk.list(&dir.join(part)));
        parts.into_iter().flatten().flatten().filter(|name| name != "lock").count()
    };
    let free = async || {
        forced(Arc::new(Broken { full: true, ..Broken::default() })).err().filter(|e| !e.contains("locked"))
    };
    let why = until_some("the old directory is free", free, LIMIT).await;
    assert!(why.contains("no room") && left() == 0, "{why}: {} files are left", left());
    let why = forced(Arc::new(Broken { full: true, stuck: true, ..Broken::default() })).unwrap_err();
    assert!(
        why.contains("no room") && why.contains("it sticks") && why.contains("clear that directory"),
        "{why}"
    );
    assert!(left() > 0);
    let why = forced(Arc::new(RealDisk)).unwrap_err();
    assert!(why.contains("interrupted") && why.contains("clear the directory"), "{why}");
    std::fs::remove_dir_all(dir.join("log")).unwrap();
    assert_eq!(forced(Arc::new(RealDisk)).unwrap().values, 49);
    assert_eq!(RealDisk.list(&dir.join("scratch")).unwrap(), Vec::<String>::new());
}

/// R16: the identity already names the new cluster when the last sync of all fails. A directory without log
/// and snapshots, but with that identity, would begin the cluster again, empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_recovery_that_fails_at_its_last_sync_leaves_no_empty_cluster_behind() {
    let cluster = Cluster::of(1, named(EngineKind::Redb)).await;
    let (_home, file) = backup(&cluster, 0).await;
    cluster.end().await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new");
    let restored = |disk: Arc<dyn Disk>| {
        let new = NewMember { disk, ..new_member(&dir, "127.0.0.1:1", now_ms()) };
        restore(&file, &new).map_err(|e| e.to_string())
    };
    let broken = |unsynced| Arc::new(Broken { unsynced: AtomicU32::new(unsynced), ..Broken::default() });
    let why = restored(broken(1)).unwrap_err();
    assert!(why.contains("not synced"), "{why}");
    assert!(!dir.join("identity").exists(), "it names a cluster that is not there");
    assert_eq!(RealDisk.list(&dir.join("log")).unwrap(), Vec::<String>::new());
    // The removal of the identity cannot be made durable either: what it names stays, whole.
    let why = restored(broken(2)).unwrap_err();
    assert!(why.contains("not synced") && why.contains("clear that directory"), "{why}");
    assert!(
        !RealDisk.list(&dir.join("log")).unwrap().is_empty(),
        "after a power cut the identity may be back"
    );
    let why = restored(Arc::new(RealDisk)).unwrap_err();
    assert!(why.contains("interrupted") && why.contains("clear the directory"), "{why}");
    for part in ["log", "snapshots"] {
        std::fs::remove_dir_all(dir.join(part)).unwrap();
    }
    restored(Arc::new(RealDisk)).unwrap();
}
