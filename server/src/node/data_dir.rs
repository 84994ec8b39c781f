//! A node's data directory: locked by one process, and marked with the node's id and its cluster, so that
//! it is never used by another node or for another cluster.

use std::{
    io,
    path::{Path, PathBuf},
};

use millet_core::{
    NodeId,
    world::{Disk, Entropy},
};

use super::StartError;

const LOCK: &str = "LOCK";
const MARK: &str = "node";
const FORMAT: &str = "millet-node 1";

/// An open data directory; the lock is held until this is dropped.
pub struct DataDir {
    path: PathBuf,
    node: NodeId,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Creates or opens it, takes the lock, and checks that it belongs to `cluster`.
    pub fn open(
        disk: &dyn Disk,
        entropy: &dyn Entropy,
        path: &Path,
        cluster: &str,
    ) -> Result<Self, StartError> {
        let refuse = |why: String| StartError::DataDir { dir: path.display().to_string(), why };
        disk.create_dir(path).map_err(|e| refuse(explain(&e)))?;
        let lock = disk.lock(&path.join(LOCK)).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => refuse(format!("{e}; stop that process or use another directory")),
            _ => refuse(explain(&e)),
        })?;
        let mark = path.join(MARK);
        let node = match disk.read(&mark) {
            Ok(bytes) => read_mark(&bytes, cluster).map_err(refuse)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let node = NodeId(entropy.next_u64().max(1));
                write_mark(disk, path, node, cluster).map_err(|e| refuse(explain(&e)))?;
                node
            }
            Err(e) => return Err(refuse(explain(&e))),
        };
        Ok(Self { path: path.to_owned(), node, _lock: lock })
    }

    /// The node's id, drawn when the directory was made.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where the metadata member keeps its files.
    pub fn member(&self) -> PathBuf {
        self.path.join("meta")
    }
}

fn explain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{e}; the node needs to read and write there")
        }
        _ => e.to_string(),
    }
}

fn read_mark(bytes: &[u8], cluster: &str) -> Result<NodeId, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let format = lines.next().unwrap_or_default();
    if format != FORMAT {
        return Err(format!("its mark {MARK:?} says {format:.40?}, this build reads {FORMAT:?}"));
    }
    let mut value = |key: &str| lines.next().and_then(|l| l.strip_prefix(key)).map(str::to_owned);
    let node = value("node ").and_then(|n| n.parse().ok()).filter(|n| *n != 0);
    let node = node.ok_or_else(|| format!("its mark {MARK:?} is damaged"))?;
    match value("cluster ") {
        Some(mine) if mine == cluster => Ok(NodeId(node)),
        Some(mine) => Err(format!(
            "it belongs to cluster {mine:?}, this is {cluster:?}; use the right directory or fix cluster.id"
        )),
        None => Err(format!("its mark {MARK:?} is damaged")),
    }
}

/// Written beside, synced, renamed: a crash leaves a whole mark or none.
fn write_mark(disk: &dyn Disk, dir: &Path, node: NodeId, cluster: &str) -> io::Result<()> {
    let text = format!("{FORMAT}\nnode {}\ncluster {cluster}\n", node.0);
    let beside = dir.join("node.new");
    match disk.remove(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&beside, text.len() as u64)?;
    file.write_at(0, text.as_bytes())?;
    file.sync_data()?;
    disk.rename(&beside, &dir.join(MARK))?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use millet_testkit::{SeededEntropy, SimDisk};

    use super::*;

    fn open(disk: &SimDisk, cluster: &str) -> Result<DataDir, String> {
        DataDir::open(disk, &SeededEntropy::new(1), Path::new("/data"), cluster).map_err(|e| e.to_string())
    }

    #[test]
    fn a_directory_keeps_its_node_id() {
        let disk = SimDisk::new();
        let first = open(&disk, "c").expect("new").node();
        assert_eq!(open(&disk, "c").expect("again").node(), first);
        assert_ne!(first, NodeId(0));
    }

    #[test]
    fn a_directory_of_another_cluster_is_refused_by_name() {
        let disk = SimDisk::new();
        drop(open(&disk, "blue").expect("new"));
        let said = open(&disk, "red").err().expect("refused");
        assert!(said.contains("/data") && said.contains("\"blue\"") && said.contains("\"red\""), "{said}");
    }

    #[test]
    fn a_locked_directory_is_refused() {
        let disk = SimDisk::new();
        let held = open(&disk, "c").expect("new");
        let said = open(&disk, "c").err().expect("refused");
        assert!(said.contains("node.data_dir") && said.contains("stop that process"), "{said}");
        drop(held);
        assert!(open(&disk, "c").is_ok());
    }

    #[test]
    fn a_damaged_mark_is_refused_and_never_replaced() {
        for bytes in ["", "millet-node 9\n", "millet-node 1\nnode x\n", "millet-node 1\nnode 0\ncluster c\n"]
        {
            assert!(read_mark(bytes.as_bytes(), "c").is_err(), "{bytes:?}");
        }
    }
}
