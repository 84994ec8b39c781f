//! `kill -9` in the middle of writing, twenty times over, on a real disk: every life finds what the ones
//! before it were told, and nothing else.

use millet_raft_meta::EngineKind;

use crate::{
    child::{Lives, Subject},
    disks::FileSystemSync,
};

const KILLS: usize = 20;

fn survives_kills(subject: Subject) {
    let temp = tempfile::tempdir().unwrap();
    let mut lives = Lives::new(subject, &temp.path().join("data"));
    for kill in 0..KILLS {
        let mut running = lives
            .live("boot", 2 + kill * 7 % 23)
            .unwrap_or_else(|why| panic!("{subject:?}, after kill {kill}: {why}"));
        running.kill();
        lives.ended(running);
    }
    let mut last =
        lives.live("boot", 0).unwrap_or_else(|why| panic!("{subject:?}, after the last kill: {why}"));
    last.kill();
    assert!(lives.book.answered > 100, "{subject:?}: {} answers", lives.book.answered);
    println!("{subject:?}: {KILLS} kills, {} answers, none lost", lives.book.answered);
}

#[test]
fn g2_the_log_survives_20_kills() {
    survives_kills(Subject::Log);
}

#[test]
fn g2_a_member_on_sled_survives_20_kills() {
    survives_kills(Subject::Member(EngineKind::Sled));
}

#[test]
fn g2_a_member_on_redb_survives_20_kills() {
    survives_kills(Subject::Member(EngineKind::Redb));
}

/// Guarded after every change, which a member does not: alone it must be whole as well.
#[test]
fn r19_sled_alone_survives_20_kills() {
    survives_kills(Subject::Sled(FileSystemSync::Real));
}
