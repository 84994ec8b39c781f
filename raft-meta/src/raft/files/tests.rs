//! Snapshot files over power cuts, full disks and flipped bits.

use millet_testkit::{Cut, SimDisk};

use super::*;

const GROUP: GroupId = GroupId(1);

fn files(disk: &SimDisk) -> io::Result<SnapshotFiles> {
    SnapshotFiles::open(Arc::new(disk.clone()), PathBuf::from("/snapshots"), GROUP)
}

/// A picture of `len` bytes as of `index`.
struct Picture(u64, usize);

impl Picture {
    fn content(&self) -> Vec<u8> {
        (0..self.1).map(|n| ((n as u64 * self.0) >> 3) as u8).collect()
    }
}

impl SnapshotSource for Picture {
    fn applied(&self) -> Applied {
        let (log_id, membership) = (Bytes::from(format!("id {}", self.0)), Bytes::from_static(b"members"));
        Applied { index: self.0, log_id, membership }
    }
    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
        self.content().chunks(100_000).try_for_each(|part| to.write_all(part))
    }
}

fn content(file: &SnapshotFile) -> Vec<u8> {
    let mut content = Vec::new();
    file.content().unwrap().read_to_end(&mut content).unwrap();
    content
}

#[test]
fn a_snapshot_is_read_back_as_written_and_an_older_one_is_kept_out() {
    let disk = SimDisk::new();
    let kept = files(&disk).unwrap();
    for (index, len) in [(5, 0), (7, 700_000)] {
        kept.write(Box::new(Picture(index, len))).unwrap();
        let again = files(&disk).unwrap().current().unwrap().unwrap();
        assert_eq!(again.applied(), &Picture(index, len).applied());
        assert!(content(&again) == Picture(index, len).content());
    }
    assert_eq!(kept.write(Box::new(Picture(6, 10))).unwrap().applied().index, 7);
    assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
}

/// R19: the log is purged up to the current file, so a power cut at any moment leaves the one before
/// or the new one, whole.
#[test]
fn r19_a_power_cut_at_any_moment_leaves_the_old_or_the_new_snapshot_whole() {
    let mut seen = [0, 0];
    for seed in 0..60u64 {
        let disk = SimDisk::new();
        files(&disk).unwrap().write(Box::new(Picture(5, 300_000))).unwrap();
        disk.power_off_after(seed % 15);
        let told = files(&disk).and_then(|f| f.write(Box::new(Picture(9, 600_000))));
        disk.power_cut(if seed % 2 == 0 { Cut::DropUnsynced } else { Cut::KeepSome(seed) });
        let current = files(&disk).unwrap().current().unwrap().expect("the first was durable");
        let (index, len) = if current.applied().index == 9 { (9, 600_000) } else { (5, 300_000) };
        seen[usize::from(index == 9)] += 1;
        assert!(index == 9 || told.is_err(), "seed {seed}: a snapshot that was reported is lost");
        assert_eq!(current.applied(), &Picture(index, len).applied());
        assert!(content(&current) == Picture(index, len).content(), "seed {seed}");
        assert_eq!(disk.paths().len(), 1, "nothing is left behind: {:?}", disk.paths());
    }
    assert!(seen[0] > 5 && seen[1] > 5, "both outcomes were met: {seen:?}");
}

#[test]
fn r19_any_flipped_bit_of_a_snapshot_is_refused() {
    let disk = SimDisk::new();
    let len = files(&disk).unwrap().write(Box::new(Picture(5, 300))).unwrap().len();
    let path = disk.paths()[0].clone();
    for byte in 0..len {
        disk.flip_bit(&path, byte, (byte % 8) as u8);
        let error = files(&disk).err().unwrap_or_else(|| panic!("byte {byte} is not guarded"));
        assert!(error.to_string().contains("snapshot-1-"), "{error}");
        disk.flip_bit(&path, byte, (byte % 8) as u8);
    }
    files(&disk).unwrap();
}

#[test]
fn a_full_disk_leaves_the_current_snapshot_as_it_was() {
    let disk = SimDisk::new();
    let kept = files(&disk).unwrap();
    kept.write(Box::new(Picture(5, 300_000))).unwrap();
    disk.fail_write_after(1);
    let error = kept.write(Box::new(Picture(9, 600_000))).unwrap_err().to_string();
    assert!(error.contains("/snapshots/") && error.contains("os error 28"), "{error}");
    assert!(content(&kept.current().unwrap().unwrap()) == Picture(5, 300_000).content());
    assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
}

/// What another member sent is byte for byte the file it has; one cut short is refused and removed.
#[test]
fn a_received_snapshot_is_whole_or_refused() {
    let (from, to) = (SimDisk::new(), SimDisk::new());
    let file = files(&from).unwrap().write(Box::new(Picture(7, 1_000))).unwrap();
    let bytes = file.piece(0, usize::MAX).unwrap();
    let receiver = files(&to).unwrap();
    let mut cut = receiver.incoming().unwrap();
    cut.write_all(&bytes[..bytes.len() - 1]).unwrap();
    assert!(cut.finish().is_err());
    assert!(to.paths().is_empty(), "nothing is left of it: {:?}", to.paths());
    let mut whole = receiver.incoming().unwrap();
    whole.write_all(&bytes).unwrap();
    let kept = receiver.keep(whole.finish().unwrap()).unwrap();
    assert_eq!((kept.applied(), content(&kept)), (file.applied(), content(&file)));
    // Raft has no use for one that is older than what is committed here: it must not fill the disk.
    let mut unwanted = receiver.incoming().unwrap();
    unwanted.write_all(&bytes).unwrap();
    drop(unwanted.finish().unwrap());
    assert_eq!(to.paths().len(), 1, "{:?}", to.paths());
}

/// The check and the use are two reads: a bit may flip in between, or a page leave the cache.
#[test]
fn r19_a_bit_that_flips_after_a_snapshot_was_checked_is_an_error_before_the_end_of_its_content() {
    for len in [1, 300, 700_000] {
        let disk = SimDisk::new();
        let file = files(&disk).unwrap().write(Box::new(Picture(5, len))).unwrap();
        let path = disk.paths()[0].clone();
        for byte in [0, 9, 30, file.len() - 17].into_iter().chain((50..file.len() - 16).step_by(70_001)) {
            disk.flip_bit(&path, byte, (byte % 8) as u8);
            let mut read = Vec::new();
            let error = file.content().and_then(|mut content| content.read_to_end(&mut read)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("snapshot-1-"), "{error}");
            assert!(read.len() < len, "byte {byte}: all of it was given away before it was checked");
            disk.flip_bit(&path, byte, (byte % 8) as u8);
            assert!(content(&file) == Picture(5, len).content());
        }
    }
}
