//! A file whose every block has a checksum in memory, taken when the block was written, or when the file was
//! opened and found to be what was closed. A block that reads as something else (a flipped bit, a lost or
//! misdirected write) is an error, and from the first failure on nothing is written any more.
//!
//! The checksums are not on disk, so nothing has to be written in any order: a file that was not closed is
//! not used again (`life`). They cost 8 bytes of memory for each 4 KiB of the file.
//!
//! Not here: what is in the file. redb reads and writes each page from one thread at a time.

use std::{io, sync::OnceLock};

use millet_core::world::DiskFile;
use parking_lot::RwLock;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes of a block: redb's page.
const BLOCK: usize = 4096;
/// Blocks read at once when a file is opened.
const CHUNK: usize = 256;

/// The file.
pub(super) struct Blocks {
    file: Box<dyn DiskFile>,
    /// Of all blocks, in order.
    sums: RwLock<Vec<u64>>,
    /// The first failure.
    failure: OnceLock<String>,
}

impl Blocks {
    /// Reads all of a file. `InvalidData`: it does not end with a block.
    pub(super) fn over(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let all = blocks(file.len()?)?;
        let (mut sums, mut chunk) = (Vec::with_capacity(all), vec![0; CHUNK * BLOCK]);
        while sums.len() < all {
            let bytes = CHUNK.min(all - sums.len()) * BLOCK;
            file.read_at((sums.len() * BLOCK) as u64, &mut chunk[..bytes])?;
            sums.extend(chunk[..bytes].chunks_exact(BLOCK).map(xxh3_64));
        }
        Ok(Self { file, sums: RwLock::new(sums), failure: OnceLock::new() })
    }

    /// Stands for everything that is in the file.
    pub(super) fn digest(&self) -> u128 {
        let mut hash = Xxh3::new();
        for sum in &*self.sums.read() {
            hash.update(&sum.to_le_bytes());
        }
        hash.digest128()
    }

    /// Why it can no longer be used, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn len(&self) -> u64 {
        (self.sums.read().len() * BLOCK) as u64
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut read = || match Span::over(offset, out.len())? {
            Span { first, before: 0, blocks } if blocks * BLOCK == out.len() => self.read_blocks(first, out),
            span => {
                out.copy_from_slice(&self.whole(&span)?[span.before..][..out.len()]);
                Ok(())
            }
        };
        self.latched(read())
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.usable()?;
        let write = || {
            let span = Span::over(offset, data.len())?;
            let sums: Vec<u64> = if span.blocks * BLOCK == data.len() {
                data.chunks_exact(BLOCK).map(xxh3_64).collect()
            } else {
                let mut whole = self.whole(&span)?;
                whole[span.before..][..data.len()].copy_from_slice(data);
                whole.chunks_exact(BLOCK).map(xxh3_64).collect()
            };
            if span.first + span.blocks > self.sums.read().len() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a write behind the end of the file",
                ));
            }
            self.file.write_at(offset, data)?;
            self.sums.write()[span.first..][..span.blocks].copy_from_slice(&sums);
            Ok(())
        };
        self.latched(write())
    }

    pub(super) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.usable()?;
        let set = || {
            let blocks = blocks(bytes)?;
            self.file.set_len(bytes)?;
            self.sums.write().resize(blocks, xxh3_64(&[0; BLOCK]));
            Ok(())
        };
        self.latched(set())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.usable()?;
        self.latched(self.file.sync_data())
    }

    /// Nothing is written behind a failed write or sync: redb would try once more when it is closed, and the
    /// disk would promise nothing (G2). Nor behind a damaged block, which might be copied elsewhere.
    fn usable(&self) -> io::Result<()> {
        self.failure()
            .map_or(Ok(()), |why| Err(io::Error::other(format!("its disk has failed before: {why}"))))
    }

    fn latched<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|e| drop(self.failure.set(e.to_string())))
    }

    /// All of the blocks that a span touches.
    fn whole(&self, span: &Span) -> io::Result<Vec<u8>> {
        let mut whole = vec![0; span.blocks * BLOCK];
        self.read_blocks(span.first, &mut whole)?;
        Ok(whole)
    }

    fn read_blocks(&self, first: usize, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at((first * BLOCK) as u64, out)?;
        let sums = self.sums.read();
        for (at, block) in (first..).zip(out.chunks_exact(BLOCK)) {
            if sums.get(at) != Some(&xxh3_64(block)) {
                let why = format!("the {BLOCK} bytes at {} are not what was written", at * BLOCK);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(())
    }
}

/// How many blocks a length is.
fn blocks(bytes: u64) -> io::Result<usize> {
    let blocks = usize::try_from(bytes / BLOCK as u64).ok().filter(|_| bytes.is_multiple_of(BLOCK as u64));
    blocks.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{bytes} bytes do not end with a block of {BLOCK}"),
        )
    })
}

/// The blocks that a range of bytes touches.
struct Span {
    first: usize,
    blocks: usize,
    /// Bytes of the first block before the range.
    before: usize,
}

impl Span {
    fn over(offset: u64, bytes: usize) -> io::Result<Self> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let before = offset % BLOCK;
        Ok(Self { first: offset / BLOCK, blocks: (before + bytes).div_ceil(BLOCK), before })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millet_core::world::Disk;
    use millet_testkit::SimDisk;

    use super::*;

    fn file(disk: &SimDisk) -> Blocks {
        disk.create_dir(Path::new("/d")).unwrap();
        Blocks::over(disk.create(Path::new("/d/f"), 0).unwrap()).unwrap()
    }

    #[test]
    fn parts_of_blocks_are_read_and_written_and_the_digest_is_that_of_the_file() {
        let (disk, mut expected) = (SimDisk::new(), vec![0; 4 * BLOCK]);
        let blocks = file(&disk);
        blocks.set_len(4 * BLOCK as u64).unwrap();
        for (offset, bytes, fill) in
            [(0, 320, 1), (BLOCK, 2 * BLOCK, 2), (BLOCK - 7, 20, 3), (BLOCK, BLOCK, 4)]
        {
            blocks.write(offset as u64, &vec![fill; bytes]).unwrap();
            expected[offset..][..bytes].fill(fill);
        }
        for (offset, bytes) in [(0, 4 * BLOCK), (0, 320), (BLOCK, BLOCK), (BLOCK - 1, 2), (3 * BLOCK + 9, 1)]
        {
            let mut found = vec![0; bytes];
            blocks.read(offset as u64, &mut found).unwrap();
            assert!(found == expected[offset..][..bytes], "{bytes} bytes at {offset}");
        }
        let again = || Blocks::over(disk.open(Path::new("/d/f")).unwrap()).unwrap();
        assert_eq!(again().digest(), blocks.digest());
        blocks.set_len(BLOCK as u64).unwrap();
        assert_eq!((again().digest(), blocks.len()), (blocks.digest(), BLOCK as u64));
        blocks.set_len(3 * BLOCK as u64).unwrap();
        assert_eq!(again().digest(), blocks.digest());
    }

    #[test]
    fn a_block_that_changed_is_an_error_and_nothing_is_written_behind_it() {
        let disk = SimDisk::new();
        let blocks = file(&disk);
        blocks.set_len(2 * BLOCK as u64).unwrap();
        blocks.write(0, &[1; BLOCK]).unwrap();
        disk.flip_bit(Path::new("/d/f"), 4000, 0);
        blocks.read(BLOCK as u64, &mut [0; BLOCK]).unwrap();
        assert_eq!(blocks.read(0, &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(blocks.write(0, &[1; BLOCK]).unwrap_err().to_string().contains("bytes at 0"));
        assert!(blocks.sync().is_err() && blocks.set_len(0).is_err());
    }

    #[test]
    fn what_does_not_end_with_a_block_or_lies_behind_the_end_is_refused() {
        let disk = SimDisk::new();
        assert_eq!(file(&disk).set_len(5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(Blocks::over(disk.open(Path::new("/d/f")).unwrap()).unwrap().write(0, &[1]).is_err());
    }
}
