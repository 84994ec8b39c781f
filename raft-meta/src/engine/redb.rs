//! redb 4, on World's disk, so that the simulator can run it. Single changes are not synced (the log has
//! them); a crash goes back to the last commit that was, made every so often and by the guard.
//!
//! redb checks its pages' checksums only after a crash and when asked. So all of it is checked at every
//! open, as the snapshot file is, and every value carries a checksum of its own, checked when it is read.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use millet_core::world::{Disk, DiskFile};
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, StorageBackend, Table, TableDefinition};
use xxhash_rust::xxh3::Xxh3;

use super::{Engine, Put, failed};

const FILE: &str = "state.redb";
/// Values are [`sealed`].
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

/// The database, and how its disk failed if it did.
struct Open {
    db: Database,
    failure: Arc<OnceLock<String>>,
}

impl RedbEngine {
    /// Opens or creates it, and checks all of it. Empty afterwards, with a warning logged, if it is damaged.
    /// A disk that fails or is full is an error: what it holds may be good.
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
        let opened = engine.open_database().or_else(|error| {
            if error.kind() != io::ErrorKind::InvalidData {
                return Err(error);
            }
            tracing::warn!(dir = %dir.display(), %error, "the state engine's file is unreadable and removed: it is rebuilt from snapshot and log");
            engine.disk.remove(&engine.dir.join(FILE))?;
            engine.open_database()
        })?;
        *engine.db.write() = Some(opened);
        Ok(engine)
    }

    /// `InvalidData`: it is damaged.
    fn open_database(&self) -> io::Result<Open> {
        let path = self.dir.join(FILE);
        let file = match self.disk.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = self.disk.create(&path, 0).map_err(|e| self.failed(&e))?;
                self.disk.sync_dir(&self.dir).map_err(|e| self.failed(&e))?;
                file
            }
            file => file.map_err(|e| self.failed(&e))?,
        };
        let failure = Arc::new(OnceLock::new());
        let backend = Backend { file, failure: Arc::clone(&failure) };
        let open = || -> Result<Database, redb::Error> {
            let builder = &mut Database::builder();
            let mut db = builder.set_cache_size(self.cache_bytes).create_with_backend(backend)?;
            if !db.check_integrity()? {
                tracing::warn!(dir = %self.dir.display(), "the state engine's file was repaired");
            }
            let tx = db.begin_write()?;
            tx.open_table(DATA)?;
            tx.open_table(MARK)?;
            tx.commit()?;
            Ok(db)
        };
        // On damaged files redb may also panic.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(db)) => Ok(Open { db, failure }),
            Ok(Err(e)) if is_disk(&e) => Err(self.failed(&e)),
            Ok(Err(e)) => Err(self.damaged(&e)),
            Err(_) => Err(self.damaged(&"it panicked while opening")),
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> io::Error {
        failed("redb", &self.dir, error)
    }

    fn damaged(&self, why: &dyn std::fmt::Display) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self.failed(why))
    }

    /// The value of a table's entry.
    fn unseal(&self, key: &[u8], sealed: &[u8]) -> io::Result<Bytes> {
        unsealed(key, sealed).map(Bytes::copy_from_slice).ok_or_else(|| {
            self.damaged(&"a value is not what was written; stop this member, remove the engine's folder and start it again")
        })
    }

    fn with<T>(&self, f: impl FnOnce(&Database) -> Result<T, redb::Error>) -> io::Result<T> {
        let db = self.db.read();
        let open = db.as_ref().ok_or_else(|| self.failed(&"it is closed"))?;
        f(&open.db).map_err(|e| self.failed(&e))
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
        let found = self
            .with(|db| Ok(db.begin_read()?.open_table(DATA)?.get(key)?.map(|v| self.unseal(key, v.value()))));
        found?.transpose()
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
                        Some(value) => seal(&mut data, key, value)?,
                        None => drop(data.remove(&key[..])?),
                    }
                }
                if let Some(mark) = mark {
                    tx.open_table(MARK)?.insert((), &sealed(MARK_KEY, mark)[..])?;
                }
            }
            Ok(tx.commit()?)
        })
    }

    fn scan(&self, from: &[u8], items: usize, bytes: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let found: Vec<io::Result<(Bytes, Bytes)>> = self.with(|db| {
            let (mut found, mut size) = (Vec::new(), 0);
            let data = db.begin_read()?.open_table(DATA)?;
            for pair in data.range(from..)? {
                let (key, value) = pair?;
                let (key, value) = (key.value(), value.value());
                size += key.len() + value.len();
                found.push(self.unseal(key, value).map(|v| (Bytes::copy_from_slice(key), v)));
                if found.len() >= items || size >= bytes {
                    break;
                }
            }
            Ok(found)
        })?;
        found.into_iter().collect()
    }

    fn mark(&self) -> io::Result<Option<Bytes>> {
        let found = self.with(|db| {
            Ok(db.begin_read()?.open_table(MARK)?.get(())?.map(|v| self.unseal(MARK_KEY, v.value())))
        });
        found?.transpose()
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
        let Some(Open { db, failure }) = self.db.write().take() else { return Ok(()) };
        // It writes once more, and tells nobody how that went.
        drop(db);
        failure.get().map_or(Ok(()), |why| Err(self.failed(why)))
    }
}

/// What the mark's checksum takes for its key.
const MARK_KEY: &[u8] = b"mark";
/// Bytes of a value's checksum.
const SEAL: usize = 8;

/// Covers the key: a value under another key is damage too.
fn checksum(key: &[u8], value: &[u8]) -> [u8; SEAL] {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest().to_le_bytes()
}

/// A value behind its checksum.
fn sealed(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&checksum(key, value)[..], value].concat()
}

/// The value, if it is the one that was written under the key.
fn unsealed<'a>(key: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = sealed.split_first_chunk::<SEAL>()?;
    (checksum(key, value) == *sum).then_some(value)
}

/// Inserts a value as [`sealed`], without a copy in between.
fn seal(data: &mut Table<'_, &[u8], &[u8]>, key: &[u8], value: &[u8]) -> Result<(), redb::Error> {
    let mut place = data.insert_reserve(key, SEAL + value.len())?;
    let (sum, rest) = place.as_mut().split_at_mut(SEAL);
    sum.copy_from_slice(&checksum(key, value));
    rest.copy_from_slice(value);
    Ok(())
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
///
/// Nothing is written behind a failed write or sync: redb would try once more when it is closed, and the
/// disk would promise nothing (G2).
struct Backend {
    file: Box<dyn DiskFile>,
    /// The first failure.
    failure: Arc<OnceLock<String>>,
}

impl Backend {
    fn change(&self, change: impl FnOnce(&dyn DiskFile) -> io::Result<()>) -> io::Result<()> {
        if let Some(why) = self.failure.get() {
            return Err(io::Error::other(format!("its disk has failed before: {why}")));
        }
        change(&*self.file).inspect_err(|e| drop(self.failure.set(e.to_string())))
    }
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(FILE)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.change(|file| file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|file| file.write_at(offset, data))
    }
}
