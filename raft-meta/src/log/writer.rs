//! The writer thread: takes what is queued, writes it as one batch, syncs once, tells the callers.
//! Batch n+1 is written only after the sync of batch n returned (R20).

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use millet_core::{
    control::{Rule, off},
    world::Disk,
};

use super::{
    Done, GroupId,
    index::{Freed, Place},
    queue::{Op, Shared},
    record::{self, Header, Kind, Record, SEGMENT_HEADER},
    segment::{Fatal, Maker, Segment},
    wal::{WalOptions, read_record},
};

/// An old segment is rewritten rather than kept when this many are there …
const CROWDED_SEGMENTS: usize = 4;
/// … and no more than this much of it is still needed.
const SPARSE_BYTES: u64 = 4 << 20;

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shared: Arc<Shared>,
    maker: Maker,
    options: WalOptions,
    current: Option<Current>,
    next_batch: u64,
    /// What each group's records other than entries come to, as far as durable: what a new segment
    /// begins with.
    durable: BTreeMap<GroupId, Marks>,
    /// Committed positions that wait for the next batch: they need no sync of their own, and an
    /// unsynced batch may not be followed by another.
    committed: BTreeMap<GroupId, Bytes>,
    buffer: Vec<u8>,
    /// Set by a new segment: only then is it worth while to look whether the oldest can be emptied.
    rolled: bool,
    lock: Option<Box<dyn Send + Sync>>,
}

#[derive(Default)]
struct Marks {
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

/// The segment being written.
struct Current {
    sequence: u64,
    incarnation: u64,
    path: PathBuf,
    file: Arc<dyn millet_core::world::DiskFile>,
    used: u64,
    size: u64,
}

/// One record of a batch, and whose entry it is.
struct Line<'a> {
    kind: Kind,
    group: GroupId,
    index: u64,
    payload: &'a [u8],
    /// The slot, for entries.
    slot: u64,
    /// Where a moved entry was.
    moved_from: Option<u64>,
}

impl<'a> Line<'a> {
    fn plain(kind: Kind, group: GroupId, index: u64, payload: &'a [u8]) -> Self {
        Self { kind, group, index, payload, slot: 0, moved_from: None }
    }
}

impl Writer {
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        shared: Arc<Shared>,
        maker: Maker,
        options: WalOptions,
        lock: Box<dyn Send + Sync>,
    ) -> Self {
        let durable = shared.with(|m| {
            m.index
                .groups
                .iter()
                .map(|(id, g)| {
                    (
                        *id,
                        Marks {
                            purged: g.purged.clone(),
                            vote: g.vote.clone(),
                            committed: g.committed.clone(),
                        },
                    )
                })
                .collect()
        });
        Self {
            disk,
            dir,
            shared,
            maker,
            options,
            current: None,
            next_batch: 1,
            durable,
            committed: BTreeMap::new(),
            buffer: Vec::new(),
            rolled: false,
            lock: Some(lock),
        }
    }

    /// Begins a new segment: after an open nothing is written behind what was found. Nobody has seen the
    /// log yet, so what the index holds is what is durable.
    pub fn start(&mut self, sequence: u64, batch: u64) -> Result<(), Fatal> {
        self.next_batch = batch;
        self.roll(sequence, self.options.first_segment_bytes)?;
        self.tidy()
    }

    /// Until the log is closed.
    pub fn run(mut self) -> impl Future<Output = ()> + Send {
        let end = End(self.shared.clone());
        let lock = self.lock.take();
        async move {
            let _end = end;
            // Let go before `End` tells that the log is closed.
            let _lock = lock;
            self.rounds().await;
        }
    }

    async fn rounds(&mut self) {
        let shared = self.shared.clone();
        while let Some(work) = shared.take(self.options.batch_bytes).await {
            let (ops, dones): (Vec<Op>, Vec<Done>) = work.into_iter().unzip();
            let result =
                self.shared.check().and_then(|()| self.commit(&ops).map_err(|fatal| self.stop(&fatal)));
            for (op, done) in ops.into_iter().zip(dones) {
                done(match (&result, op) {
                    (_, Op::Refused(error)) => Err(error),
                    (Err(e), _) => Err(io::Error::new(e.kind(), e.to_string())),
                    (Ok(()), _) => Ok(()),
                });
            }
            if result.is_ok()
                && let Err(fatal) = self.tidy()
            {
                self.stop(&fatal);
            }
        }
        // A last batch vouches for the one before it: without it, damage there would look like a tear.
        if self.shared.check().is_ok()
            && let Err(fatal) = self.close()
        {
            self.stop(&fatal);
        }
    }

    /// Stops the log for ever; returns the error that callers get.
    fn stop(&self, (path, error): &Fatal) -> io::Error {
        self.shared.fail(path, error);
        self.shared.check().err().unwrap_or_else(|| io::Error::other("the log has stopped"))
    }

    /// Makes operations durable, and says so in the index.
    fn commit(&mut self, ops: &[Op]) -> Result<(), Fatal> {
        for op in ops {
            if let Op::Committed { group, committed } = op {
                self.committed.insert(*group, committed.clone());
            }
        }
        if ops.iter().all(|op| matches!(op, Op::Committed { .. } | Op::Refused(_))) {
            return Ok(());
        }
        let committed = std::mem::take(&mut self.committed);
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut freed: Vec<&Freed> = Vec::new();
        for op in ops {
            match op {
                Op::Append { group, entries, ids } => {
                    lines.extend(entries.iter().zip(ids).map(|(e, id)| Line {
                        slot: *id,
                        ..Line::plain(Kind::Entry, *group, e.index, &e.payload)
                    }));
                }
                Op::Truncate { group, last_kept, freed: f } => {
                    lines.push(Line::plain(Kind::Truncate, *group, *last_kept, &[]));
                    freed.push(f);
                }
                Op::Purge { group, upto, mark, freed: f } => {
                    lines.push(Line::plain(Kind::Purge, *group, *upto, mark));
                    freed.push(f);
                }
                Op::Vote { group, vote } => lines.push(Line::plain(Kind::Vote, *group, 0, vote)),
                Op::Committed { .. } | Op::Refused(_) => {}
            }
        }
        lines.extend(committed.iter().map(|(group, c)| Line::plain(Kind::Committed, *group, 0, c)));
        self.write(&lines)?;
        note(&mut self.durable, ops, &committed);
        self.shared.with(|m| {
            for (segment, count) in freed.into_iter().flatten() {
                if let Some(s) = m.segments.get_mut(segment) {
                    s.live -= count;
                }
            }
        });
        Ok(())
    }

    /// Writes one batch and syncs it.
    fn write(&mut self, lines: &[Line<'_>]) -> Result<(), Fatal> {
        if lines.is_empty() {
            return Ok(()); // appends of no entries
        }
        let bytes: usize = lines.iter().map(|l| record::size(l.payload.len())).sum();
        if self.current.as_ref().is_none_or(|c| c.used + bytes as u64 > c.size) {
            let next = self.current.as_ref().map_or(1, |c| c.sequence + 1);
            self.roll(next, self.options.segment_bytes.max((bytes + SEGMENT_HEADER) as u64))?;
        }
        let current = self.current.as_mut().expect("a log that has started has a segment");
        let at = current.used;
        self.buffer.clear();
        encode(&mut self.buffer, current.incarnation, self.next_batch, lines);
        let written = current.file.write_at(at, &self.buffer);
        let durable =
            written.and_then(|()| if off(Rule::LogSync) { Ok(()) } else { current.file.sync_data() });
        durable.map_err(|e| (current.path.clone(), e))?;
        current.used += self.buffer.len() as u64;
        self.next_batch += 1;
        let segment = current.sequence;
        // One huge batch must not keep its memory for ever.
        self.buffer.shrink_to(self.options.batch_bytes);
        self.place(segment, at, lines);
        Ok(())
    }

    /// Tells the index where the entries of a durable batch lie.
    fn place(&self, segment: u64, at: u64, lines: &[Line<'_>]) {
        self.shared.with(|m| {
            let mut offset = at;
            for l in lines {
                let len = u32::try_from(l.payload.len()).expect("checked when appended");
                if matches!(l.kind, Kind::Entry | Kind::Moved)
                    && m.index.placed(l.group, l.index, l.slot, Place { segment, offset, len }).is_ok()
                {
                    m.segments.get_mut(&segment).expect("the segment being written").live += 1;
                    if let Some(old) = l.moved_from.and_then(|old| m.segments.get_mut(&old)) {
                        old.live -= 1;
                    }
                }
                offset += record::size(l.payload.len()) as u64;
            }
            m.index.evict();
        });
    }

    /// Goes on in a new segment of at least `size` bytes. It starts with everything that older segments
    /// hold besides entries, so that they can go.
    fn roll(&mut self, sequence: u64, size: u64) -> Result<(), Fatal> {
        let incarnation = self.options.incarnation.wrapping_add(sequence);
        let header = Header { sequence, incarnation, first_batch: self.next_batch };
        let mut first = Vec::new();
        self.encode_carried(&mut first, incarnation);
        let size = size.saturating_add(first.len() as u64);
        let (segment, size) = self.maker.make(header, &first, size)?;
        if !first.is_empty() {
            self.next_batch += 1;
        }
        let (path, file) = (segment.path.clone(), segment.file.clone());
        self.current = Some(Current {
            sequence,
            incarnation,
            path,
            file,
            used: (SEGMENT_HEADER + first.len()) as u64,
            size,
        });
        self.shared.with(|m| m.segments.insert(sequence, segment));
        self.rolled = true;
        Ok(())
    }

    /// The groups' votes, committed positions and purge marks, as far as durable, as one batch.
    fn encode_carried(&self, to: &mut Vec<u8>, incarnation: u64) {
        let mut lines = Vec::new();
        for (group, marks) in &self.durable {
            lines.extend(
                marks.purged.iter().map(|(upto, mark)| Line::plain(Kind::Purge, *group, *upto, mark)),
            );
            lines.extend(marks.vote.iter().map(|v| Line::plain(Kind::Vote, *group, 0, v)));
            lines.extend(marks.committed.iter().map(|c| Line::plain(Kind::Committed, *group, 0, c)));
        }
        encode(to, incarnation, self.next_batch, &lines);
    }

    /// Frees segments that hold nothing any more, and empties the oldest if little of it is needed.
    fn tidy(&mut self) -> Result<(), Fatal> {
        self.remove_empty_segments()?;
        if std::mem::take(&mut self.rolled) {
            while self.shared.with(|m| m.segments.len() > CROWDED_SEGMENTS) && self.move_oldest()? {
                self.remove_empty_segments()?;
            }
        }
        Ok(())
    }

    /// Removes segments from the oldest on, each durably before the next, so that none is ever missing
    /// in the middle.
    fn remove_empty_segments(&mut self) -> Result<(), Fatal> {
        let current = self.current.as_ref().map_or(0, |c| c.sequence);
        while let Some(path) = self.shared.with(|m| {
            let (sequence, _) = m.segments.first_key_value().filter(|(n, s)| **n < current && s.live == 0)?;
            let sequence = *sequence;
            m.segments.remove(&sequence).map(|s: Segment| s.path)
        }) {
            self.disk.remove(&path).and_then(|()| self.disk.sync_dir(&self.dir)).map_err(|e| (path, e))?;
        }
        Ok(())
    }

    /// Writes the oldest segment's entries once more if they are few: a group that is seldom written must
    /// not keep all the others' old segments.
    fn move_oldest(&mut self) -> Result<bool, Fatal> {
        let (moving, file, path, incarnation) = self.shared.with(|m| {
            let oldest = m.segments.values().next().expect("crowded");
            (
                m.index.in_segment(oldest.sequence),
                oldest.file.clone(),
                oldest.path.clone(),
                oldest.incarnation,
            )
        });
        let bytes: u64 = moving.iter().map(|(_, _, _, place)| u64::from(place.len)).sum();
        if moving.is_empty() || bytes > SPARSE_BYTES.min(self.options.segment_bytes / 4) {
            return Ok(false);
        }
        let mut payloads = Vec::with_capacity(moving.len());
        for (_, index, _, place) in &moving {
            payloads.push(
                read_record(&*file, &path, incarnation, *index, *place).map_err(|e| (path.clone(), e))?,
            );
        }
        let lines: Vec<Line<'_>> = moving
            .iter()
            .zip(&payloads)
            .map(|((group, index, slot, place), payload)| Line {
                slot: *slot,
                moved_from: Some(place.segment),
                ..Line::plain(Kind::Moved, *group, *index, payload)
            })
            .collect();
        self.write(&lines)?;
        Ok(true)
    }

    fn close(&mut self) -> Result<(), Fatal> {
        note(&mut self.durable, &[], &self.committed);
        let mut carried = Vec::new();
        let Some(current) = &self.current else { return Ok(()) };
        self.encode_carried(&mut carried, current.incarnation);
        if carried.is_empty() {
            return Ok(());
        }
        // Also where the segment is full: it then grows by this once.
        let written = current.file.write_at(current.used, &carried).and_then(|()| current.file.sync_data());
        written.map_err(|e| (current.path.clone(), e))
    }
}

/// Encodes lines as one batch.
fn encode(to: &mut Vec<u8>, incarnation: u64, batch: u64, lines: &[Line<'_>]) {
    for (n, l) in lines.iter().enumerate() {
        let ord = u32::try_from(n).expect("a batch has less than 2^32 records");
        let last = n + 1 == lines.len();
        record::encode(
            to,
            incarnation,
            &Record { batch, ord, last, kind: l.kind, group: l.group, index: l.index, payload: l.payload },
        );
    }
}

/// Takes over what a durable batch said besides entries.
fn note(durable: &mut BTreeMap<GroupId, Marks>, ops: &[Op], committed: &BTreeMap<GroupId, Bytes>) {
    for op in ops {
        match op {
            Op::Purge { group, upto, mark, .. } => {
                let marks = durable.entry(*group).or_default();
                if marks.purged.as_ref().is_none_or(|(at, _)| at <= upto) {
                    marks.purged = Some((*upto, mark.clone()));
                }
            }
            Op::Vote { group, vote } => durable.entry(*group).or_default().vote = Some(vote.clone()),
            Op::Append { .. } | Op::Truncate { .. } | Op::Committed { .. } | Op::Refused(_) => {}
        }
    }
    for (group, c) in committed {
        durable.entry(*group).or_default().committed = Some(c.clone());
    }
}

/// Tells callers that the writer is gone, also when it panicked.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(
                std::path::Path::new("wal-writer"),
                &io::Error::other("the log's writer thread panicked"),
            );
        }
        self.0.writer_ends();
    }
}
