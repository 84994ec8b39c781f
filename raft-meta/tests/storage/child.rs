//! A process that looks at what an earlier one left, goes on writing and says on its standard output what
//! was answered, until it is killed or its disk goes. And the side that starts and reads it.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use millet_raft_meta::{
    EngineKind,
    engine::{Engine, SledEngine},
    log::{GroupId, LogEntry, LogStore, Wal, WalOptions},
};
use millet_testkit::{StdThreads, until};
use parking_lot::Mutex;

use crate::{
    book::{Book, Event, Row, SIZES},
    disks::{FileSystemSync, Odd},
    engine_crash::{CACHE, apply, reached, rows, rows_after},
    log_crash::{payload, wait},
    member::{One, Setup, Started},
    real::RealDisk,
};

/// How often a child is killed or loses its power: `full` times, or a quarter (three at least) with
/// `MILLET_STORAGE_QUICK=1`, for whoever has run all of it a moment ago. Every summary says the number.
pub fn rounds(full: usize) -> usize {
    match std::env::var_os("MILLET_STORAGE_QUICK").is_some_and(|v| v == "1") {
        true => (full / 4).max(3),
        false => full,
    }
}

/// What a child runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The log alone: two groups, one entry under way each.
    Log,
    /// A whole member.
    Member(EngineKind),
    /// sled alone, closed after some changes, with this for its guard.
    Sled(FileSystemSync),
}

impl Subject {
    /// All of them.
    pub const ALL: [Subject; 6] = [
        Self::Log,
        Self::Member(EngineKind::Sled),
        Self::Member(EngineKind::Redb),
        Self::Sled(FileSystemSync::Real),
        Self::Sled(FileSystemSync::SledFileOnly),
        Self::Sled(FileSystemSync::None),
    ];
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// How many answers so many lives must have had.
    pub fn least(self, lives: usize) -> u64 {
        match self {
            Self::Sled(_) => lives as u64,
            Self::Log | Self::Member(_) => 5 * lives as u64 + 1,
        }
    }

    /// How many answers to wait for, where `n` are asked for: sled alone gives one in a life.
    fn answers(self, n: usize) -> usize {
        match self {
            Self::Sled(_) => n.min(1),
            Self::Log | Self::Member(_) => n,
        }
    }
}

/// Not a test of its own: what the tests of `kill` and `power` start.
#[test]
fn child_that_writes_until_it_ends() {
    let Ok(name) = std::env::var("MILLET_STORAGE_CHILD") else { return };
    let subject = Subject::ALL.into_iter().find(|s| s.name() == name).unwrap();
    let text = |name| std::env::var(name).unwrap();
    let dir = PathBuf::from(text("MILLET_STORAGE_DIR"));
    let mut book = Book::default();
    std::fs::read_to_string(text("MILLET_STORAGE_BOOK"))
        .unwrap()
        .lines()
        .filter_map(Event::of)
        .for_each(|e| book.note(e));
    // It ends with its parent, whatever becomes of that.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(3);
    });
    let looked = match subject {
        Subject::Log => log(&dir, &book),
        Subject::Member(engine) => member(&dir, engine, text("MILLET_STORAGE_LIFE").parse().unwrap(), book),
        Subject::Sled(sync) => sled(&dir, sync, &book),
    };
    if let Err(why) = looked {
        println!("wrong: {why}");
    }
}

fn say(event: Event) {
    println!("{}", event.line());
}

/// Says how a save that was under way has ended, and that all was looked at.
fn settled(before: &Book, after: &Book) {
    for (grain, row) in &after.rows {
        if before.rows.get(grain).is_some_and(|b| b.saved != row.saved) {
            say(Event::Saved(*grain, row.saved.0));
        }
    }
    println!("looked");
}

fn size(n: u64) -> usize {
    SIZES[(n % 8) as usize]
}

fn log(dir: &Path, book: &Book) -> Result<(), String> {
    let entry =
        |group: u64, index: u64| LogEntry { index, payload: payload(group * 77_777 + index, size(index)) };
    let options = WalOptions::new(u64::from(std::process::id()) << 20 | 5);
    let wal = Arc::new(Wal::open(Arc::new(RealDisk), &StdThreads, dir, options).map_err(|e| e.to_string())?);
    let mut now = book.clone();
    for group in 0..2 {
        let state = wal.state(GroupId(group));
        let group = u64::from(group);
        let from = state.purged.map_or(0, |p| p.0) + 1;
        let entries = wal.read(GroupId(group as u32), 0..u64::MAX).map_err(|e| e.to_string())?;
        let last = entries.last().map_or(from - 1, |e| e.index);
        let Row { saved: (saved, _), tried } = now.rows.get(&group).copied().unwrap_or_default();
        if last != saved && Some(last) != tried.map(|t| t.0) {
            return Err(format!("group {group} ends at {last}, told was {saved}, {tried:?}"));
        }
        if !entries.iter().map(|e| e.index).eq(from..=last)
            || entries.iter().any(|e| *e != entry(group, e.index))
        {
            return Err(format!("group {group} holds other entries than were written"));
        }
        let vote = state.vote.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
        if vote < saved / 5 * 5 || vote > last + 1 {
            return Err(format!("group {group} has voted {vote}, told was {saved}"));
        }
        now.rows.insert(group, Row { saved: (last, size(last)), tried: None });
    }
    settled(book, &now);
    let writers: Vec<_> = (0..2u32)
        .map(|group| {
            let (wal, number) = (Arc::clone(&wal), u64::from(group));
            let from = now.rows[&number].saved.0 + 1;
            std::thread::spawn(move || {
                for index in from..from + 100_000 {
                    if index % 5 == 0
                        && wait(|d| {
                            wal.save_vote(GroupId(group), Bytes::copy_from_slice(&index.to_le_bytes()), d)
                        })
                        .is_err()
                    {
                        return;
                    }
                    say(Event::Try(number, index, size(index)));
                    if wait(|d| wal.append(GroupId(group), vec![entry(number, index)], d)).is_err() {
                        return;
                    }
                    say(Event::Saved(number, index));
                    if index % 20 == 0
                        && wait(|d| wal.purge(GroupId(group), index - 18, Bytes::from_static(b"mark"), d))
                            .is_err()
                    {
                        return;
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    Ok(())
}

fn member(dir: &Path, engine: EngineKind, life: u64, mut book: Book) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let setup = Setup::new(Arc::new(RealDisk), dir, engine);
        let one = One::start(&setup, &Started::default()).await.map_err(|e| e.to_string())?;
        let before = book.clone();
        one.check(life, &mut book).await?;
        settled(&before, &book);
        one.work(life, &book, &SIZES.repeat(2_000), &mut say).await;
        Ok(())
    })
}

/// What no guard, and no lack of one, may lead to.
pub const OTHER_ROWS: &str = "other rows than were written";
/// How many changes a life of sled alone makes.
const CHANGES: u64 = 12;

/// Looks, changes, closes, says so and waits for its end.
fn sled(dir: &Path, sync: FileSystemSync, book: &Book) -> Result<(), String> {
    let disk = Arc::new(Odd { disk: RealDisk, file_system: sync, syncs: true, lists: true });
    let text = |e: std::io::Error| e.to_string();
    let engine = SledEngine::open(disk, dir, CACHE).map_err(text)?;
    let at = reached(&engine).map_err(text)?;
    // Whatever is lost: what is there is whole.
    if rows(&engine).map_err(text)? != rows_after(at, usize::MAX) {
        return Err(format!("it is at change {at} with {OTHER_ROWS}"));
    }
    let Row { saved: (saved, _), tried } = book.rows.get(&0).copied().unwrap_or_default();
    // While it is open, or closes, there is nothing to keep.
    let known = [Some(saved), tried.map(|_| 0), tried.map(|t| t.0)];
    if !known.contains(&Some(at)) {
        return Err(format!("it is at change {at}, closed was {saved}, tried {tried:?}"));
    }
    let mut now = book.clone();
    now.rows.insert(0, Row { saved: (at, 0), tried: None });
    settled(book, &now);
    say(Event::Try(0, at + CHANGES, 0));
    let changed = (at + 1..=at + CHANGES).try_for_each(|n| apply(&engine, n, usize::MAX));
    if changed.and_then(|()| engine.close()).is_err() {
        // Its disk is gone. sled would hang or panic on its way out.
        std::process::exit(0);
    }
    say(Event::Saved(0, at + CHANGES));
    loop {
        std::thread::park();
    }
}

/// A child as its parent has it.
pub struct Running {
    child: Child,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    events: Vec<Event>,
    looked: bool,
    wrong: Option<String>,
    ended: bool,
}

/// One subject in one folder, over many lives of its child.
pub struct Lives {
    pub subject: Subject,
    pub dir: PathBuf,
    /// Outside of the folder, which may be on a disk that goes.
    pub notes: tempfile::TempDir,
    pub book: Book,
    lines: Vec<String>,
    life: u64,
}

impl Lives {
    pub fn new(subject: Subject, dir: &Path) -> Self {
        let notes = tempfile::tempdir().unwrap();
        Self { subject, dir: dir.to_owned(), notes, book: Book::default(), lines: Vec::new(), life: 0 }
    }

    /// Starts the next life, waits until it has looked at what the last one left and until `more` of its
    /// writes were answered. The error says what it found wrong.
    pub fn live(&mut self, more: usize) -> Result<Running, String> {
        let more = self.subject.answers(more);
        self.life += 1;
        let book = self.notes.path().join("book");
        std::fs::write(&book, self.lines.join("\n")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::child_that_writes_until_it_ends", "--nocapture"])
            .env("MILLET_STORAGE_CHILD", self.subject.name())
            .env("MILLET_STORAGE_DIR", &self.dir)
            .env("MILLET_STORAGE_BOOK", &book)
            .env("MILLET_STORAGE_LIFE", self.life.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(std::fs::File::create(self.notes.path().join("stderr")).unwrap()))
            .spawn()
            .unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (out, to) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&heard));
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // libtest may have begun the line.
                let said = line.find("told ").map_or(&line[..], |at| &line[at..]);
                let mut to = to.lock();
                to.events.extend(Event::of(said));
                to.looked |= line.ends_with("looked");
                if let Some(why) = line.split("wrong: ").nth(1) {
                    to.wrong = Some(why.to_owned());
                }
            }
            to.lock().ended = true;
        });
        let mut running = Running { child, heard: Arc::clone(&heard), reader: Some(reader) };
        let answered =
            |h: &Heard| h.looked && h.events.iter().filter(|e| !matches!(e, Event::Try(..))).count() >= more;
        let told = || {
            let h = heard.lock();
            answered(&h) || h.ended || h.wrong.is_some()
        };
        until("a child has looked and written", told, Duration::from_secs(180));
        let (looked, wrong) = {
            let h = heard.lock();
            (h.looked, h.wrong.clone())
        };
        if wrong.is_some() || !looked || !answered(&heard.lock()) {
            running.kill();
            let stderr = std::fs::read_to_string(self.notes.path().join("stderr")).unwrap_or_default();
            let tail: Vec<&str> = stderr.lines().rev().take(6).collect();
            return Err(wrong.unwrap_or_else(|| format!("it ended by itself (looked: {looked}): {tail:?}")));
        }
        Ok(running)
    }

    /// The child is dead: what it was told is in the book.
    pub fn ended(&mut self, running: Running) {
        // Leases of an earlier life are not asked for again: their sessions may have ended.
        let events = running.heard.lock().events.clone();
        if events.iter().any(|e| matches!(e, Event::Granted(..))) {
            self.lines.retain(|l| !l.contains("granted"));
        }
        events.into_iter().for_each(|e| {
            self.book.note(e);
            self.lines.push(e.line());
        });
    }
}

impl Running {
    /// `kill -9`, and everything that it said before.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
