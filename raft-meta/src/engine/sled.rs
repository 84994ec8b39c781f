//! sled 0.34.7. Its `flush` syncs neither its file nor its blob files (values of 16 KB and more), so a
//! power cut may lose or corrupt anything: the guard is flush, then `syncfs` (R19), and a database that
//! was open when the machine went down is not trusted at all.
//!
//! Beside it lies a note, `life`: `running` or `clean`, and the machine's boot id.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millet_core::world::Disk;
use parking_lot::RwLock;

use super::{Engine, Put, failed};

const NOTE: &str = "life";
/// The mark lies beside the data, which all begins with `d`.
const MARK: &[u8] = b"m";
const DATA: u8 = b'd';

/// A sled database in a folder of its own.
pub struct SledEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes: u64,
    /// `None` once closed. Written only to wipe and to close.
    db: RwLock<Option<sled::Db>>,
}

impl SledEngine {
    /// Opens or creates it. Empty afterwards, with a warning logged, if the machine went down while it was open (its
    /// boot id changed) or if sled cannot read it.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        disk.create_dir(dir)?;
        let engine = Self { disk, dir: dir.to_owned(), cache_bytes, db: RwLock::new(None) };
        if let Some(why) = engine.distrust()? {
            tracing::warn!(dir = %dir.display(), why, "the state engine's files are removed: they are rebuilt from snapshot and log");
            engine.remove_files()?;
        }
        engine.write_note("running")?;
        let opened = engine.open_database().or_else(|error| {
            tracing::warn!(dir = %dir.display(), %error, "the state engine's files are unreadable and removed: they are rebuilt from snapshot and log");
            engine.remove_files()?;
            engine.open_database()
        })?;
        *engine.db.write() = Some(opened);
        Ok(engine)
    }

    /// Why the files must not be used, if so.
    fn distrust(&self) -> io::Result<Option<&'static str>> {
        let note = match self.disk.read(&self.dir.join(NOTE)) {
            Ok(note) => String::from_utf8_lossy(&note).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("there is no note of how it was left"));
            }
            Err(e) => return Err(e),
        };
        Ok(match note.trim().split_once(' ') {
            Some(("clean", _)) => None,
            Some(("running", boot)) if self.boot_id().is_some_and(|now| now == boot) => None,
            Some(("running", _)) => Some("the machine went down while it was open"),
            _ => Some("the note of how it was left is unreadable"),
        })
    }

    /// `None` where the system has none: then every start counts as one after a power cut.
    fn boot_id(&self) -> Option<String> {
        self.disk.boot_id().ok()
    }

    fn write_note(&self, life: &str) -> io::Result<()> {
        let (path, temporary) = (self.dir.join(NOTE), self.dir.join("life.tmp"));
        match self.disk.remove(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.create(&temporary, 0)?;
        file.write_at(0, format!("{life} {}\n", self.boot_id().unwrap_or_default()).as_bytes())?;
        file.sync_data()?;
        self.disk.rename(&temporary, &path)?;
        self.disk.sync_dir(&self.dir)
    }

    fn database_dir(&self) -> PathBuf {
        self.dir.join("db")
    }

    fn open_database(&self) -> io::Result<sled::Db> {
        let config = sled::Config::new()
            .path(self.database_dir())
            .cache_capacity(self.cache_bytes)
            .mode(sled::Mode::HighThroughput);
        // On damaged files sled panics as often as it returns an error.
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(opened) => opened.map_err(|e| self.failed(&e)),
            Err(_) => Err(self.failed(&"it panicked while opening")),
        }
    }

    fn remove_files(&self) -> io::Result<()> {
        for dir in [self.database_dir().join("blobs"), self.database_dir()] {
            let names = match self.disk.list(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                names => names?,
            };
            for name in names {
                self.disk.remove(&dir.join(name))?;
            }
            self.disk.sync_dir(&dir)?;
        }
        Ok(())
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> io::Error {
        failed("sled", &self.dir, error)
    }

    fn with<T>(&self, f: impl FnOnce(&sled::Db) -> Result<T, sled::Error>) -> io::Result<T> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(|| self.failed(&"it is closed"))?;
        f(db).map_err(|e| self.failed(&e))
    }
}

fn data_key(key: &[u8]) -> Vec<u8> {
    let mut k = Vec::with_capacity(1 + key.len());
    k.push(DATA);
    k.extend_from_slice(key);
    k
}

impl Engine for SledEngine {
    fn name(&self) -> &'static str {
        "sled"
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.with(|db| Ok(db.get(data_key(key))?.map(|v| Bytes::copy_from_slice(&v))))
    }

    fn apply(&self, puts: &[Put], mark: Option<&[u8]>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in puts {
            match value {
                Some(value) => batch.insert(data_key(key), &value[..]),
                None => batch.remove(data_key(key)),
            }
        }
        if let Some(mark) = mark {
            batch.insert(MARK, mark);
        }
        self.with(|db| db.apply_batch(batch))
    }

    fn scan(&self, from: &[u8], items: usize, bytes: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.with(|db| {
            let (mut found, mut size) = (Vec::new(), 0);
            for pair in db.range(data_key(from)..vec![DATA + 1]) {
                let (key, value) = pair?;
                size += key.len() + value.len();
                found.push((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(&value)));
                if found.len() >= items || size >= bytes {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn mark(&self) -> io::Result<Option<Bytes>> {
        self.with(|db| Ok(db.get(MARK)?.map(|v| Bytes::copy_from_slice(&v))))
    }

    fn guard(&self) -> io::Result<()> {
        self.with(|db| db.flush().map(drop))?;
        self.disk.sync_file_system(&self.dir)
    }

    fn wipe(&self) -> io::Result<()> {
        let mut db = self.db.write();
        drop(db.take());
        self.remove_files()?;
        *db = Some(self.open_database()?);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.with(|db| db.flush().map(drop))?;
        // Dropping stops its threads, which write.
        drop(self.db.write().take());
        self.disk.sync_file_system(&self.dir)?;
        self.write_note("clean")
    }
}
