//! An ext4 image on a loop device per metadata member: a small disk that can be filled, and whose power
//! can be cut. It lives in the run's own mount namespace.

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::{Context, Result};

use super::{Need, find, text, tool};

/// Of one member: several log segments of each group, snapshots and the state engine's files.
const BYTES: u64 = 320 * 1024 * 1024;
/// The name of what fills a disk.
const FILLER: &str = "filler";
/// Written at once.
const PIECE: usize = 1024 * 1024;

/// A mounted image.
pub struct Image {
    file: PathBuf,
    at: PathBuf,
}

impl Image {
    /// Whether images can be made here (inside a room of our own).
    pub fn can() -> Need<()> {
        find("mkfs.ext4")?;
        find("mount")?;
        find("losetup").map(drop)
    }

    /// Makes and mounts one.
    pub fn make(file: PathBuf, at: PathBuf) -> Result<Self> {
        File::create(&file).and_then(|f| f.set_len(BYTES)).context("making an image")?;
        tool("mkfs.ext4", &["-q", "-F", "-m", "0", text(&file)?])?;
        std::fs::create_dir_all(&at).context("making the folder to mount an image at")?;
        let image = Self { file, at };
        image.mount()?;
        Ok(image)
    }

    fn mount(&self) -> Result<()> {
        tool("mount", &["-o", "loop", text(&self.file)?, text(&self.at)?])
    }

    /// Takes all the space there is now.
    pub fn fill(&self) -> Result<u64> {
        let mut file =
            File::options().create(true).append(true).open(self.at.join(FILLER)).context("filling a disk")?;
        let mut taken = 0;
        for size in [PIECE, 4096, 1] {
            let piece = vec![0x5a; size];
            while let Ok(n) = file.write(&piece) {
                taken += n as u64;
                if n < size {
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// Gives the space back.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.at.join(FILLER)).context("freeing a disk")
    }

    /// From here on nothing reaches the image: as if the power were gone. Ends with [`Image::restore`].
    pub fn cut(&self) -> Result<()> {
        let dir = File::open(&self.at).context("opening the image's folder")?;
        shut_down(&dir).context("cutting the power of an image")
    }

    /// The power is back: nobody may have files open. What had not been synced is gone.
    pub fn restore(&self) -> Result<()> {
        tool("umount", &[text(&self.at)?])?;
        self.mount()
    }
}

/// `EXT4_IOC_SHUTDOWN` without a flush of the journal.
fn shut_down(dir: &File) -> rustix::io::Result<()> {
    const NO_LOG_FLUSH: u32 = 2;
    const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    // SAFETY: the kernel reads one u32 behind this opcode, which is declared so; nothing else is touched.
    #[expect(unsafe_code, reason = "an ioctl that no crate wraps")]
    unsafe {
        let call = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(dir, call)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // The namespace takes the mount with it when the driver is gone.
        let _ = tool("umount", &["-l", self.at.to_str().unwrap_or_default()]);
    }
}
