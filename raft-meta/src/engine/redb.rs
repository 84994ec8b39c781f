//! redb 4, on World's disk, so that the simulator can run it. Single changes are not synced (the log has
//! them); a crash goes back to the last commit that was, made every so often and by the guard.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millet_core::world::{Disk, DiskFile};
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::{Engine, Put, failed};

const FILE: &str = "state.redb";
const DATA: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("data");
const MARK: TableDefinition<'_, (), &[u8]> = TableDefinition::new("mark");

/// Bytes changed, or commits, after which one commit is synced: unsynced ones keep their old pages.
const SYNC_BYTES: usize = 64 << 20;
const SYNC_COMMITS: usize = 4096;

/// A redb database in a folder of its own.
pub struct RedbEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes: usize,
    /// `None` once closed.
    db: RwLock<Option<Database>>,
    /// Since the last synced commit: commits and bytes.
    unsynced: Mutex<(usize, usize)>,
}

impl RedbEngine {
    /// Opens or creates it. Empty afterwards, with a warning logged, if redb cannot read it.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        disk.create_dir(dir)?;
        let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
        let engine = Self {
            disk,
            dir: dir.to_owned(),
            cache_bytes,
            db: RwLock::new(None),
            unsynced: Mutex::new((0, 0)),
        };
        let db = engine.open_database().or_else(|error| {
            tracing::warn!(dir = %dir.display(), %error, "the state engine's file is unreadable and removed: it is rebuilt from snapshot and log");
            engine.disk.remove(&engine.dir.join(FILE))?;
            engine.open_database()
        })?;
        *engine.db.write() = Some(db);
        Ok(engine)
    }

    fn open_database(&self) -> io::Result<Database> {
        let path = self.dir.join(FILE);
        let file = match self.disk.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.create(&path, 0)?;
                self.disk.sync_dir(&self.dir)?;
                file
            }
            file => file?,
        };
        let db = Database::builder()
            .set_cache_size(self.cache_bytes)
            .create_with_backend(Backend(file))
            .map_err(|e| self.failed(&e))?;
        let make = || -> Result<(), redb::Error> {
            let tx = db.begin_write()?;
            tx.open_table(DATA)?;
            tx.open_table(MARK)?;
            Ok(tx.commit()?)
        };
        make().map_err(|e| self.failed(&e))?;
        Ok(db)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> io::Error {
        failed("redb", &self.dir, error)
    }

    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> io::Result<T> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(|| self.failed(&"it is closed"))?;
        f(db).map_err(|e| self.failed(&e))
    }

    /// Whether this commit is to be synced.
    fn due(&self, bytes: usize) -> bool {
        let mut unsynced = self.unsynced.lock();
        unsynced.0 += 1;
        unsynced.1 += bytes;
        let due = unsynced.0 >= SYNC_COMMITS || unsynced.1 >= SYNC_BYTES;
        if due {
            *unsynced = (0, 0);
        }
        due
    }
}

impl Engine for RedbEngine {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.with(|db| {
            Ok(db.begin_read()?.open_table(DATA)?.get(key)?.map(|v| Bytes::copy_from_slice(v.value())))
        })
    }

    fn apply(&self, puts: &[Put], mark: Option<&[u8]>) -> io::Result<()> {
        let bytes = puts.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
        let durability = if self.due(bytes) { Durability::Immediate } else { Durability::None };
        self.with(|db| {
            let mut tx = db.begin_write()?;
            tx.set_durability(durability)?;
            {
                let mut data = tx.open_table(DATA)?;
                for (key, value) in puts {
                    match value {
                        Some(value) => drop(data.insert(&key[..], &value[..])?),
                        None => drop(data.remove(&key[..])?),
                    }
                }
                if let Some(mark) = mark {
                    tx.open_table(MARK)?.insert((), mark)?;
                }
            }
            Ok(tx.commit()?)
        })
    }

    fn scan(&self, from: &[u8], items: usize, bytes: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        self.with(|db| {
            let (mut found, mut size) = (Vec::new(), 0);
            let data = db.begin_read()?.open_table(DATA)?;
            for pair in data.range(from..)? {
                let (key, value) = pair?;
                size += key.value().len() + value.value().len();
                found.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())));
                if found.len() >= items || size >= bytes {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn mark(&self) -> io::Result<Option<Bytes>> {
        self.with(|db| {
            Ok(db.begin_read()?.open_table(MARK)?.get(())?.map(|v| Bytes::copy_from_slice(v.value())))
        })
    }

    fn guard(&self) -> io::Result<()> {
        *self.unsynced.lock() = (0, 0);
        self.with(|db| {
            let mut tx = db.begin_write()?;
            tx.set_durability(Durability::Immediate)?;
            // The file ends clean: the next open need not walk it all.
            tx.set_quick_repair(true);
            Ok(tx.commit()?)
        })
    }

    fn wipe(&self) -> io::Result<()> {
        self.with(|db| {
            let tx = db.begin_write()?;
            tx.delete_table(MARK)?;
            tx.delete_table(DATA)?;
            tx.open_table(DATA)?;
            tx.open_table(MARK)?;
            Ok(tx.commit()?)
        })
    }

    fn close(&self) -> io::Result<()> {
        self.guard()?;
        drop(self.db.write().take());
        Ok(())
    }
}

/// World's file as redb's storage. The member's own lock on its data folder keeps other processes out.
struct Backend(Box<dyn DiskFile>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
