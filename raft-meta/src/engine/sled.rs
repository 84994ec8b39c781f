//! sled 0.34.7. Its `flush` syncs neither its file nor its blob files (what is above 128 KB), so a
//! power cut may lose or corrupt anything: the guard is flush, then `syncfs` (R19). Opening, it leaves out
//! whatever it finds damaged, without a word: a row is then an older one, or none, under the latest mark.
//!
//! So it is used again only after a clean close (`life`), whose seal holds two digests. One is over all of
//! its files and is compared before sled sees them: sled believes lengths that it reads, and panics. The
//! other is over all rows, taken through sled, and compared with what sled serves after it has opened them:
//! damage that was there when the files were closed is in the first digest, not in this one. A running sled
//! checks the CRC of whatever it reads.
//!
//! A batch that fails leaves behind what it had done of it, and a failed write leaves a writer that flush and
//! drop wait for: the first failure of a change ends the engine. It serves nothing more, and is not closed.
//!
//! **What that costs.** A close reads all rows and all files, an open after it does too. Any other start,
//! after `kill -9` as after a power cut, rebuilds: it reads the group's snapshot file, writes its rows into an
//! empty sled and applies the log from there. That is proportional to the snapshot, whatever was in the
//! engine; docs/operations.md has figures.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millet_core::world::Disk;
use parking_lot::RwLock;
use xxhash_rust::xxh3::Xxh3;

use super::{Engine, Put, failed, life};

/// The mark lies beside the data, which all begins with `d`.
const MARK: &[u8] = b"m";
const DATA: u8 = b'd';
/// Bytes of a file read at once.
const CHUNK: usize = 1 << 20;

/// A sled database in a folder of its own.
pub struct SledEngine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cache_bytes: u64,
    /// Held for writing while a batch is applied, so that nobody reads half of it.
    db: RwLock<Held>,
}

enum Held {
    Open(sled::Db),
    Closed,
    /// A change failed: why. What is below it may be half of something.
    Broken(String),
}

impl Held {
    /// The database is forgotten, not dropped: that would wait for the writer that failed.
    fn break_off(&mut self, why: &str) {
        if let Self::Open(db) = std::mem::replace(self, Self::Broken(why.to_owned())) {
            std::mem::forget(db);
        }
    }
}

impl SledEngine {
    /// Opens or creates it. Empty afterwards, with a warning logged, unless it was closed cleanly, its files are
    /// those that were closed, and sled finds the rows in them that were closed.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, cache_bytes: u64) -> io::Result<Self> {
        disk.create_dir(dir)?;
        let engine = Self { disk, dir: dir.to_owned(), cache_bytes, db: RwLock::new(Held::Closed) };
        let closed = engine.closed().map_err(|e| engine.failed(&e))?;
        life::begin(&*engine.disk, dir).map_err(|e| engine.failed(&e))?;
        let opened = match closed {
            Ok((files, rows)) => engine.open_closed(&files, &rows)?,
            Err(why) => engine.begin_empty(&why)?,
        };
        *engine.db.write() = Held::Open(opened);
        Ok(engine)
    }

    /// The digests of the seal, if the files are those that were closed; else why they must not be used.
    fn closed(&self) -> io::Result<Result<(String, String), &'static str>> {
        let seal = life::seal(&*self.disk, &self.dir)?;
        let Some((files, rows)) = seal.as_deref().and_then(|seal| seal.split_once(' ')) else {
            return Ok(Err("it was not closed cleanly"));
        };
        let same = files == hex(self.digest_of_files()?);
        Ok(if same {
            Ok((files.to_owned(), rows.to_owned()))
        } else {
            Err("its files are not those that were closed")
        })
    }

    /// A disk that fails says nothing of what is on it: that is an error, and the files stay.
    fn open_closed(&self, files: &str, rows: &str) -> io::Result<sled::Db> {
        let opened = self.open_database().and_then(|db| Ok((self.digest_of_rows(&db)?, db)));
        match opened {
            Ok((found, db)) if hex(found) == rows => Ok(db),
            Ok((_, db)) => {
                drop(db);
                self.begin_empty(&"its rows are not those that were closed")
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => self.begin_empty(&e),
            Err(e) => {
                if hex(self.digest_of_files()?) == files {
                    life::end(&*self.disk, &self.dir, &format!("{files} {rows}"))?;
                }
                Err(e)
            }
        }
    }

    fn begin_empty(&self, why: &dyn std::fmt::Display) -> io::Result<sled::Db> {
        if self.remove_files().map_err(|e| self.failed(&e))? {
            tracing::warn!(dir = %self.dir.display(), %why, "the state engine's files are removed: they are rebuilt from snapshot and log");
        }
        self.open_empty()
    }

    /// Opens it after its files were removed: rows of before, with no mark or an old one, would pass for its own.
    fn open_empty(&self) -> io::Result<sled::Db> {
        let db = self.open_database()?;
        if db.was_recovered() || db.iter().next().is_some() {
            return Err(self.failed(&"it is not empty after its files were removed; remove the folder"));
        }
        Ok(db)
    }

    /// Names, lengths and bytes of all files.
    fn digest_of_files(&self) -> io::Result<u128> {
        let (mut hash, mut chunk) = (Xxh3::new(), vec![0; CHUNK]);
        for (name, path) in self.files()? {
            let file = self.disk.open(&path)?;
            let len = file.len()?;
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(&len.to_le_bytes());
            for at in (0..len).step_by(CHUNK) {
                let part = &mut chunk[..usize::try_from(len - at).map_or(CHUNK, |left| left.min(CHUNK))];
                file.read_at(at, part)?;
                hash.update(part);
            }
        }
        Ok(hash.digest128())
    }

    /// All rows as sled serves them, the mark among them. What it cannot read is an error.
    fn digest_of_rows(&self, db: &sled::Db) -> io::Result<u128> {
        let read = || -> Result<u128, sled::Error> {
            let mut hash = Xxh3::new();
            for row in db.iter() {
                let (key, value) = row?;
                hash.update(&(key.len() as u64).to_le_bytes());
                hash.update(&key);
                hash.update(&(value.len() as u64).to_le_bytes());
                hash.update(&value);
            }
            Ok(hash.digest128())
        };
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(digest) => digest.map_err(|e| self.explained(&e)),
            Err(_) => Err(self.damaged(&"it panicked while it was read")),
        }
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
            Ok(opened) => opened.map_err(|e| self.explained(&e)),
            Err(_) => Err(self.damaged(&"it panicked while opening")),
        }
    }

    /// Names below the folder, and paths, in order.
    fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for folder in ["db", "db/blobs"] {
            match self.disk.list(&self.dir.join(folder)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                names => files.extend(names?.into_iter().map(|name| format!("{folder}/{name}"))),
            }
        }
        Ok(files.into_iter().map(|name| (name.clone(), self.dir.join(name))).collect())
    }

    /// Whether there were any.
    fn remove_files(&self) -> io::Result<bool> {
        let files = self.files()?;
        for (_, path) in &files {
            self.disk.remove(path)?;
        }
        Ok(!files.is_empty())
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> io::Error {
        failed("sled", &self.dir, error)
    }

    /// `InvalidData`: it is damaged.
    fn damaged(&self, why: &dyn std::fmt::Display) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self.failed(why))
    }

    /// Whether it is damaged, or the disk failed. Its own lock keeps nobody out but a sled that this process
    /// has closed and that is still ending (the member has locked its folder): the rows in it are given up.
    fn explained(&self, error: &sled::Error) -> io::Error {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match error {
            sled::Error::Io(e)
                if !matches!(e.kind(), UnexpectedEof | InvalidData)
                    && !e.to_string().starts_with("could not acquire lock") =>
            {
                self.failed(error)
            }
            _ => self.damaged(error),
        }
    }

    fn db<'a>(&self, held: &'a Held) -> io::Result<&'a sled::Db> {
        match held {
            Held::Open(db) => Ok(db),
            Held::Closed => Err(self.failed(&"it is closed")),
            Held::Broken(why) => Err(self.failed(&format!("it serves nothing more, a change failed: {why}"))),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&sled::Db) -> Result<T, sled::Error>) -> io::Result<T> {
        f(self.db(&self.db.read())?).map_err(|e| self.failed(&e))
    }

    /// Changes it. If that fails, it is over before anybody reads again.
    fn change(&self, f: impl FnOnce(&sled::Db) -> Result<(), sled::Error>) -> io::Result<()> {
        let mut held = self.db.write();
        let db = self.db(&held)?;
        let done = catch_unwind(AssertUnwindSafe(|| f(db)));
        self.or_break_off(&mut held, done)
    }

    /// Flushes, while others read: what is in memory stays right.
    fn flush(&self) -> io::Result<()> {
        let done = {
            let held = self.db.read();
            let db = self.db(&held)?;
            catch_unwind(AssertUnwindSafe(|| db.flush().map(drop)))
        };
        if matches!(done, Ok(Ok(()))) { Ok(()) } else { self.or_break_off(&mut self.db.write(), done) }
    }

    fn or_break_off(
        &self,
        held: &mut Held,
        done: std::thread::Result<Result<(), sled::Error>>,
    ) -> io::Result<()> {
        let why = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        held.break_off(&why);
        Err(self.failed(&why))
    }
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
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
        self.change(|db| db.apply_batch(batch))
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
        self.flush()?;
        self.disk.sync_file_system(&self.dir)
    }

    fn wipe(&self) -> io::Result<()> {
        let mut held = self.db.write();
        self.db(&held)?;
        // Whatever fails below, this stays. Dropping stops its threads, which write.
        drop(std::mem::replace(&mut *held, Held::Broken("it was not emptied to the end".into())));
        self.remove_files().map_err(|e| self.failed(&e))?;
        *held = Held::Open(self.open_empty()?);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let rows = self.digest_of_rows(self.db(&self.db.read())?)?;
        self.flush()?;
        // Dropping stops its threads, which write.
        drop(std::mem::replace(&mut *self.db.write(), Held::Closed));
        let end = || {
            self.disk.sync_file_system(&self.dir)?;
            let seal = format!("{} {}", hex(self.digest_of_files()?), hex(rows));
            life::end(&*self.disk, &self.dir, &seal)
        };
        end().map_err(|e| self.failed(&e))
    }
}
