//! The form of a backup file: frames behind a magic number, each checked against everything before it, so
//! that a flipped, missing, doubled or moved byte is found, with its place. Reads and writes in pieces.
//!
//! A frame: kind (u8), length (u32), payload, and the xxh3-64 of the whole file up to here (u64); numbers are
//! little endian. Order: a header, then for each group a section, its data and the end of the section, then
//! the end of the file.

use std::io::{self, Read, Write};

use prost::Message as _;
use xxhash_rust::xxh3::Xxh3;

use crate::wire::{BackupHeader, BackupSection};

/// First bytes of every backup; the last one is the format's version.
const MAGIC: &[u8; 8] = b"MLTBKUP\x01";
/// Bytes of data in one frame.
const PIECE: usize = 256 * 1024;
/// A longer frame is damage; bounds what a reader allocates.
const FRAME_BYTES: u32 = 1024 * 1024;

const HEADER: u8 = 1;
const SECTION: u8 = 2;
const DATA: u8 = 3;
const SECTION_END: u8 = 4;
const END: u8 = 5;

/// Why a file is not a whole backup.
#[derive(Debug, thiserror::Error)]
#[error("not a whole backup: {why}, at byte {offset}; nothing of it may be used, take another backup")]
pub struct BackupError {
    /// Where the frame that is wrong begins.
    pub offset: u64,
    /// What is wrong.
    pub why: String,
}

impl From<BackupError> for io::Error {
    fn from(e: BackupError) -> Self {
        Self::new(io::ErrorKind::InvalidData, e)
    }
}

/// Writes a backup. Data goes through [`Write`]; call [`Writer::finish`] or the file is not whole.
pub struct Writer<W: Write> {
    to: W,
    hash: Xxh3,
    buffer: Vec<u8>,
    sections: u32,
    data: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(to: W, header: &BackupHeader) -> io::Result<Self> {
        let buffer = Vec::with_capacity(PIECE);
        let mut writer = Self { to, hash: Xxh3::new(), buffer, sections: 0, data: 0 };
        writer.put(MAGIC)?;
        writer.frame(HEADER, &header.encode_to_vec())?;
        Ok(writer)
    }

    /// Begins a group's part; its data follows.
    pub fn section(&mut self, section: &BackupSection) -> io::Result<()> {
        (self.sections, self.data) = (self.sections + 1, 0);
        self.frame(SECTION, &section.encode_to_vec())
    }

    /// Ends a group's part.
    pub fn end_section(&mut self) -> io::Result<()> {
        self.flush()?;
        self.frame(SECTION_END, &self.data.to_le_bytes())
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<W> {
        self.frame(END, &self.sections.to_le_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).ok().filter(|n| *n <= FRAME_BYTES);
        let len = len.ok_or_else(|| io::Error::other(format!("a frame of {} bytes", payload.len())))?;
        self.put(&[kind])?;
        self.put(&len.to_le_bytes())?;
        self.put(payload)?;
        let sum = self.hash.digest();
        self.put(&sum.to_le_bytes())
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        self.data += n as u64;
        if self.buffer.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut full = std::mem::take(&mut self.buffer);
        let done = self.frame(DATA, &full);
        full.clear();
        self.buffer = full;
        done
    }
}

/// Reads a backup, frame by frame.
pub struct Reader<R: Read> {
    from: R,
    hash: Xxh3,
    /// Where the next frame begins.
    offset: u64,
    header: BackupHeader,
    sections: u32,
    /// Data of the section so far; `None` outside of one.
    data: Option<u64>,
    piece: Vec<u8>,
    taken: usize,
}

impl<R: Read> Reader<R> {
    /// Reads as far as the header.
    pub fn new(from: R) -> Result<Self, BackupError> {
        let mut reader = Self {
            from,
            hash: Xxh3::new(),
            offset: 0,
            header: BackupHeader::default(),
            sections: 0,
            data: None,
            piece: Vec::new(),
            taken: 0,
        };
        let mut magic = [0; 8];
        reader.fill(&mut magic, "the file is shorter than its first eight bytes")?;
        if magic[..7] != MAGIC[..7] {
            return Err(reader.bad("it does not begin as a backup of Millet does"));
        }
        if magic[7] != MAGIC[7] {
            let why = format!("format {}, this build reads {}; upgrade it", magic[7], MAGIC[7]);
            return Err(reader.bad(why));
        }
        reader.offset = 8;
        let (kind, payload) = reader.frame()?;
        if kind != HEADER {
            return Err(reader.bad("no header"));
        }
        reader.header = BackupHeader::decode(&payload[..]).map_err(|e| reader.bad(format!("header: {e}")))?;
        Ok(reader)
    }

    /// Who made it, and when.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// How many bytes have been read and found good.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next group's part, or `None` at the end of a whole file. What is left of the last part's data is
    /// read first. The data comes through [`Read`].
    pub fn next_section(&mut self) -> Result<Option<BackupSection>, BackupError> {
        while self.data.is_some() {
            self.refill()?;
        }
        let at = self.offset;
        let (kind, payload) = self.frame()?;
        let bad = |why: String| BackupError { offset: at, why };
        match kind {
            SECTION => {
                (self.sections, self.data) = (self.sections + 1, Some(0));
                BackupSection::decode(&payload[..]).map(Some).map_err(|e| bad(format!("section: {e}")))
            }
            END if payload[..] == self.sections.to_le_bytes() => {
                let mut more = [0];
                match self.from.read(&mut more) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(self.bad("something stands behind its end")),
                    Err(e) => Err(self.bad(e.to_string())),
                }
            }
            END => Err(bad("another number of sections than it says".into())),
            other => Err(bad(format!("a frame of kind {other} where a section was to begin"))),
        }
    }

    /// Takes the next piece of data; ends the section behind the last one.
    fn refill(&mut self) -> Result<(), BackupError> {
        let Some(data) = self.data else { return Ok(()) };
        let at = self.offset;
        let (kind, payload) = self.frame()?;
        (self.piece, self.taken) = (Vec::new(), 0);
        match kind {
            DATA => {
                self.data = Some(data + payload.len() as u64);
                self.piece = payload;
                Ok(())
            }
            SECTION_END if payload[..] == data.to_le_bytes() => {
                self.data = None;
                Ok(())
            }
            SECTION_END => Err(BackupError { offset: at, why: "another length than the section has".into() }),
            other => {
                Err(BackupError { offset: at, why: format!("a frame of kind {other} within a section") })
            }
        }
    }

    fn bad(&self, why: impl Into<String>) -> BackupError {
        BackupError { offset: self.offset, why: why.into() }
    }

    fn fill(&mut self, into: &mut [u8], short: &str) -> Result<(), BackupError> {
        self.from.read_exact(into).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => self.bad(short),
            _ => self.bad(e.to_string()),
        })?;
        self.hash.update(into);
        Ok(())
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        const SHORT: &str = "it is cut off within the frame that begins here";
        let mut head = [0; 5];
        self.fill(&mut head, SHORT)?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if len > FRAME_BYTES {
            return Err(self.bad(format!("a frame of {len} bytes: damaged")));
        }
        let mut payload = vec![0; len as usize];
        self.fill(&mut payload, SHORT)?;
        let sum = self.hash.digest();
        let mut kept = [0; 8];
        self.fill(&mut kept, SHORT)?;
        if kept != sum.to_le_bytes() {
            return Err(self.bad("the checksum of the frame that begins here differs: it is damaged"));
        }
        self.offset += 13 + u64::from(len);
        Ok((head[0], payload))
    }
}

/// The data of the section that [`Reader::next_section`] returned last.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() && self.data.is_some() {
            self.refill()?;
        }
        let n = into.len().min(self.piece.len() - self.taken);
        into[..n].copy_from_slice(&self.piece[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BackupHeader {
        BackupHeader { cluster: "c1".into(), member: 2, taken_ms: 3, members: vec![], version: "v".into() }
    }

    fn section(group: u32) -> BackupSection {
        BackupSection { group, name: "g".into(), index: 7 }
    }

    fn file(data: &[&[u8]]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for (data, group) in data.iter().zip(0..) {
            writer.section(&section(group)).unwrap();
            writer.write_all(data).unwrap();
            writer.end_section().unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BackupError> {
        let mut reader = Reader::new(bytes)?;
        assert_eq!(reader.header(), &header());
        let mut all = Vec::new();
        while let Some(found) = reader.next_section()? {
            assert_eq!(found, section(u32::try_from(all.len()).unwrap()));
            let mut data = Vec::new();
            if let Err(e) = reader.read_to_end(&mut data) {
                return Err(*e.into_inner().unwrap().downcast::<BackupError>().unwrap());
            }
            all.push(data);
        }
        assert_eq!(reader.offset(), bytes.len() as u64);
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read_back_in_pieces() {
        let long: Vec<u8> = (0..PIECE * 2 + 5).map(|n| (n % 251) as u8).collect();
        assert_eq!(read(&file(&[&long, b"", b"end"])).unwrap(), [long, vec![], b"end".to_vec()]);
        assert!(read(&file(&[])).unwrap().is_empty());
    }

    #[test]
    fn any_flipped_bit_is_found_in_its_frame() {
        let good = file(&[b"one", b"two"]);
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            let error = read(&bad).expect_err("a flipped bit");
            assert!(error.offset <= byte as u64, "byte {byte}: {error}");
            assert!(error.to_string().contains(&format!("at byte {}", error.offset)), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_cut_or_goes_on_is_not_whole() {
        let good = file(&[b"one", b"two"]);
        for len in 0..good.len() {
            let error = read(&good[..len]).expect_err("cut off");
            assert!(error.offset <= len as u64, "{error}");
        }
        let error = read(&[&good[..], b"x"].concat()).expect_err("longer");
        assert!(error.to_string().contains("behind its end"), "{error}");
    }

    #[test]
    fn golden_bytes_of_a_backup() {
        let hex: String = file(&[b"ab"]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    /// Backups outlive releases: these bytes never change.
    const GOLDEN: &str = concat!(
        "4d4c54424b555001",
        "010b0000000a026331100218032a01762d0ce0bb2cf0d6c1",
        "020500000012016718076ffa1e3f07b9a9fc",
        "030200000061625d0b17b26345708a",
        "040800000002000000000000006978ba8fd863c28c",
        "050400000001000000460abd62df82e1a4",
    );
}
