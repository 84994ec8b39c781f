//! Power cuts of a real file system: an ext4 image on a loop device is shut down without its journal's
//! latest part (EXT4_IOC_SHUTDOWN), unmounted and mounted again. Needs root. The image itself does not
//! forget: this is the kind sort of power cut, and sled without its guard loses even so.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use millet_raft_meta::EngineKind;
use millet_testkit::{skip, skip_unprivileged, until};
use rustix::ioctl;

use crate::{
    child::{Lives, OTHER_ROWS, Subject, rounds},
    disks::FileSystemSync,
};

const CUTS: usize = 10;

/// Controls always need all of them: a single cut may do no harm.
fn count(subject: Subject) -> usize {
    match subject {
        Subject::Sled(FileSystemSync::SledFileOnly | FileSystemSync::None) => CUTS,
        Subject::Log | Subject::Member(_) | Subject::Sled(FileSystemSync::Real) => rounds(CUTS),
    }
}

/// `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
/// What is only in the journal's memory is not written out first.
const NO_LOG_FLUSH: u32 = 2;

/// A mounted image.
struct Image {
    _home: tempfile::TempDir,
    image: PathBuf,
    mount: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|e| e.to_string())?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()) }
}

impl Image {
    /// `None`, and said why: this machine does not let us.
    fn make(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip_unprivileged(test, "root");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let (image, mount) = (home.path().join("image"), home.path().join("mount"));
        File::create(&image).unwrap().set_len(768 << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        if run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).is_err() {
            skip(test, "mkfs.ext4 (package e2fsprogs)");
            return None;
        }
        let made = Self { _home: home, image, mount };
        if let Err(why) = made.mount() {
            skip_unprivileged(test, &format!("the right to mount a loop device ({why})"));
            return None;
        }
        Some(made)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", self.image.to_str().unwrap(), self.mount.to_str().unwrap()])?;
        // While a process with a mount table of its own still has the one that was shut down, we get that.
        std::fs::write(self.mount.join("alive"), b"yes").map_err(|e| {
            self.unmount();
            e.to_string()
        })
    }

    #[allow(
        unsafe_code,
        reason = "the one ioctl that cuts a file system off: it takes a u32, which it is given"
    )]
    fn shut_down(&self) {
        let dir = File::open(&self.mount).unwrap();
        // Safety: the opcode reads one u32 from the pointer; `Setter` passes a pointer to this one.
        unsafe { ioctl::ioctl(&dir, ioctl::Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }.unwrap();
    }

    fn unmount(&self) {
        let gone = || run("umount", &[self.mount.to_str().unwrap()]).is_ok();
        until("the image is unmounted", gone, Duration::from_secs(60));
    }

    /// The power goes, and comes back.
    fn cut(&self, child: impl FnOnce()) {
        self.shut_down();
        child();
        self.unmount();
        until("the image is mounted again", || self.mount().is_ok(), Duration::from_secs(60));
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // After a failed test: whatever still has it open is a child that ends with its pipe.
        let _ = run("umount", &["-l", self.mount.to_str().unwrap()]);
    }
}

/// What the cuts of one subject did, and how many writes were answered; `None` where we may not.
type Harm = Option<(Vec<String>, u64)>;

/// All subjects at once, on an image each, when the first test asks: they mostly wait for disks.
fn outcome(test: &str, subject: Subject) -> &'static Harm {
    static ALL: OnceLock<Vec<(Subject, Harm)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        std::thread::scope(|s| {
            let started: Vec<_> =
                Subject::ALL.map(|subject| (subject, s.spawn(move || cuts(test, subject)))).into();
            started.into_iter().map(|(subject, run)| (subject, run.join().unwrap())).collect()
        })
    });
    let (_, harm) = all.iter().find(|(s, _)| *s == subject).unwrap();
    match harm {
        None => skip_unprivileged(test, "root, and what is said above"),
        Some((harm, answered)) => {
            let cuts = count(subject);
            println!("{subject:?}: {cuts} power cuts, {answered} answers, harm by {}: {harm:#?}", harm.len());
        }
    }
    harm
}

/// Cuts the power again and again while a child writes; what each cut did is in the list. After harm it begins
/// anew in a fresh folder.
fn cuts(test: &str, subject: Subject) -> Harm {
    let image = Image::make(test)?;
    let folder = |n: usize| -> PathBuf { Path::new(&image.mount).join(format!("data-{n}")) };
    let (mut lives, mut harm, mut answered) = (Lives::new(subject, &folder(0)), Vec::new(), 0);
    for cut in 0..count(subject) {
        let mut running = match lives.live(2 + cut * 7 % 23) {
            Ok(running) => running,
            Err(why) => {
                harm.push(format!("cut {cut}: {why}"));
                answered += lives.book.answered;
                lives = Lives::new(subject, &folder(cut));
                lives.live(12).unwrap_or_else(|why| panic!("{subject:?}: a fresh folder: {why}"))
            }
        };
        image.cut(|| running.kill());
        lives.ended(running);
    }
    match lives.live(0) {
        Ok(mut running) => running.kill(),
        Err(why) => harm.push(format!("after the last cut: {why}")),
    }
    answered += lives.book.answered;
    image.unmount();
    Some((harm, answered))
}

fn survives(test: &str, subject: Subject) {
    let Some((harm, answered)) = outcome(test, subject) else { return };
    assert!(harm.is_empty(), "{subject:?}: {harm:#?}");
    assert!(*answered >= subject.least(count(subject)), "{subject:?}: {answered} answers");
}

#[test]
fn g2_the_log_survives_10_power_cuts() {
    survives("g2_the_log_survives_10_power_cuts", Subject::Log);
}

#[test]
fn g2_a_member_on_sled_survives_10_power_cuts() {
    survives("g2_a_member_on_sled_survives_10_power_cuts", Subject::Member(EngineKind::Sled));
}

#[test]
fn g2_a_member_on_redb_survives_10_power_cuts() {
    survives("g2_a_member_on_redb_survives_10_power_cuts", Subject::Member(EngineKind::Redb));
}

#[test]
fn r19_sled_that_was_closed_survives_10_power_cuts() {
    survives("r19_sled_that_was_closed_survives_10_power_cuts", Subject::Sled(FileSystemSync::Real));
}

/// A control's harm: what was closed is gone. That it is gone is seen, and nothing else is served for it.
fn loses(test: &str, sync: FileSystemSync) {
    let Some((harm, _)) = outcome(test, Subject::Sled(sync)) else { return };
    assert!(harm.len() > CUTS / 3, "the power-cut test does not see what R19 is for: {harm:?}");
    assert!(!harm.iter().any(|why| why.contains(OTHER_ROWS)), "the note's digests are for this: {harm:#?}");
}

/// The control for the guard: values of 16 KB and more lie in files that this does not sync.
#[test]
fn control_sled_closed_with_a_sync_of_its_file_only_is_lost() {
    loses("control_sled_closed_with_a_sync_of_its_file_only_is_lost", FileSystemSync::SledFileOnly);
}

#[test]
fn control_sled_closed_without_a_guard_is_lost() {
    loses("control_sled_closed_without_a_guard_is_lost", FileSystemSync::None);
}
