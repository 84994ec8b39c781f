//! redb 4, on World's disk, so that the simulator can run it. Single changes are not synced: the log has
//! them, and a database that was not closed is not used again (`life`), whatever redb itself could recover.
//! After a failed sync, for one, the page cache reads back what the disk never got.
//!
//! redb checks its pages only after a crash and when asked, so a flipped bit in a key or a count would turn
//! a row into another one, an older one or none. Every block below it has a checksum (`blocks`), which every
//! read is held against: a running engine fails with `InvalidData`, and at open the note's seal over all of
//! them decides. Whatever is wrong, the engine begins empty and is rebuilt, at the cost that `sled` names.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millet_core::world::Disk;
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};

use super::{Engine, Put, blocks::Blocks, failed, life};

const FILE: &str = "state.redb";
const DATA: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const MARK: TableDefinition<'_, (), &[u8]> = TableDefinition::new("applied");

/// Bytes changed, or commits, after which one commit is synced: unsynced ones keep their old pages.
const SYNC_BYTES: usize = 64 << 20;
const SYNC_COMMITS: usize = 4096;

/// A redb database in a folder of its own.
pub struct RedbEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes: usize,
    /// `None` once closed.
    db: RwLock<Option<Open>>,
    /// Since the last synced commit: commits and bytes.
    unsynced: Mutex<(usize, usize)>,
}

/// The database, and what is below it.
struct Open {
    db: Database,
    blocks: Arc<Blocks>,
}

impl RedbEngine {
    /// Opens or creates it. Empty afterwards, with a warning logged, unless it was closed cleanly and is what
    /// was closed. A disk that fails or is full is an error.
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
        let closed = engine.closed().map_err(|e| engine.failed(&e))?;
        life::begin(&*engine.disk, dir).map_err(|e| engine.failed(&e))?;
        let opened = match closed {
            Ok(blocks) => match engine.open_database(blocks) {
                Err(e) if e.kind() == io::ErrorKind::InvalidData => engine.begin_empty(&e)?,
                opened => opened?,
            },
            Err(why) => engine.begin_empty(&why)?,
        };
        *engine.db.write() = Some(opened);
        Ok(engine)
    }

    /// The file as it was closed, or why it must not be used.
    fn closed(&self) -> io::Result<Result<Blocks, &'static str>> {
        let Some(seal) = life::seal(&*self.disk, &self.dir)? else {
            return Ok(Err("it was not closed cleanly"));
        };
        let damaged = [io::ErrorKind::NotFound, io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
        Ok(match self.disk.open(&self.path()).and_then(Blocks::over) {
            Ok(blocks) if seal_of(&blocks) == seal => Ok(blocks),
            Err(e) if !damaged.contains(&e.kind()) => return Err(e),
            Ok(_) | Err(_) => Err("its file is not the one that was closed"),
        })
    }

    fn begin_empty(&self, why: &dyn std::fmt::Display) -> io::Result<Open> {
        let file = || {
            if life::remove(&*self.disk, &self.path())? {
                tracing::warn!(dir = %self.dir.display(), %why, "the state engine's file is removed: it is rebuilt from snapshot and log");
            }
            let file = self.disk.create(&self.path(), 0)?;
            self.disk.sync_dir(&self.dir)?;
            Blocks::over(file)
        };
        self.open_database(file().map_err(|e| self.failed(&e))?)
    }

    /// `InvalidData`: it is damaged.
    fn open_database(&self, blocks: Blocks) -> io::Result<Open> {
        let blocks = Arc::new(blocks);
        let backend = Backend(Arc::clone(&blocks));
        let open = || -> Result<Database, redb::Error> {
            let builder = &mut Database::builder();
            let db = builder.set_cache_size(self.cache_bytes).create_with_backend(backend)?;
            let tx = db.begin_write()?;
            tx.open_table(DATA)?;
            tx.open_table(MARK)?;
            tx.commit()?;
            Ok(db)
        };
        // On damaged files redb may also panic.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(db)) => Ok(Open { db, blocks }),
            Ok(Err(e)) => Err(self.explained(&e, &blocks)),
            Err(_) => Err(self.damaged(&"it panicked while opening")),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> io::Error {
        failed("redb", &self.dir, error)
    }

    fn damaged(&self, why: &dyn std::fmt::Display) -> io::Error {
        let what = format!("{why}; start this member again, and it is rebuilt from snapshot and log");
        io::Error::new(io::ErrorKind::InvalidData, self.failed(&what))
    }

    /// redb tells only the first one what has failed.
    fn explained(&self, error: &redb::Error, blocks: &Blocks) -> io::Error {
        match (error, blocks.failure()) {
            (redb::Error::PreviousIo, Some(why)) => self.failed(&why),
            _ if is_disk(error) => self.failed(error),
            _ => self.damaged(error),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> io::Result<T> {
        let db = self.db.read();
        let open = db.as_ref().ok_or_else(|| self.failed(&"it is closed"))?;
        f(&open.db).map_err(|e| self.explained(&e, &open.blocks))
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
                let (key, value) = (key.value(), value.value());
                size += key.len() + value.len();
                found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
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
        let Some(Open { db, blocks }) = self.db.write().take() else { return Ok(()) };
        // It writes once more, and tells nobody how that went.
        drop(db);
        let noted = blocks.sync().and_then(|()| life::end(&*self.disk, &self.dir, &seal_of(&blocks)));
        noted.map_err(|e| self.failed(&e))
    }
}

/// What the note says of a file.
fn seal_of(blocks: &Blocks) -> String {
    format!("{:032x}", blocks.digest())
}

/// Whether it is the disk that failed. A file that ends too early is damage.
fn is_disk(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(e) => !matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData),
        redb::Error::PreviousIo => true,
        _ => false,
    }
}

/// World's file as redb's storage. The member's own lock on its data folder keeps other processes out.
struct Backend(Arc<Blocks>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
