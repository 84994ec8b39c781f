//! `kill -9` in the middle of writing, twenty times over, on a real disk: every life finds what the ones
//! before it were told, and nothing else. `child::rounds` says when they are fewer.

use std::sync::OnceLock;

use millet_raft_meta::EngineKind;

use crate::{
    child::{Lives, Subject, rounds},
    disks::FileSystemSync,
};

const KILLS: usize = 20;
const SUBJECTS: [Subject; 4] = [
    Subject::Log,
    Subject::Member(EngineKind::Sled),
    Subject::Member(EngineKind::Redb),
    Subject::Sled(FileSystemSync::Real),
];

/// All subjects at once, when the first test asks: they mostly wait for disks and for each other's death.
fn survives_kills(subject: Subject) {
    static ALL: OnceLock<Vec<(Subject, Result<u64, String>)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        std::thread::scope(|s| {
            let started: Vec<_> = SUBJECTS.map(|subject| (subject, s.spawn(move || kills(subject)))).into();
            started.into_iter().map(|(subject, run)| (subject, run.join().unwrap())).collect()
        })
    });
    let (_, outcome) = all.iter().find(|(s, _)| *s == subject).unwrap();
    let answered = outcome.as_ref().unwrap_or_else(|why| panic!("{subject:?}, {why}"));
    let kills = rounds(KILLS);
    println!("{subject:?}: {kills} kills, {answered} answers, none lost");
    assert!(*answered >= subject.least(kills), "{subject:?}: {answered} answers");
}

/// How many writes were answered; the error says what was found wrong.
fn kills(subject: Subject) -> Result<u64, String> {
    let temp = tempfile::tempdir().unwrap();
    let mut lives = Lives::new(subject, &temp.path().join("data"));
    for kill in 0..rounds(KILLS) {
        let mut running = lives.live(2 + kill * 7 % 23).map_err(|why| format!("after kill {kill}: {why}"))?;
        running.kill();
        lives.ended(running);
    }
    let mut last = lives.live(0).map_err(|why| format!("after the last kill: {why}"))?;
    last.kill();
    Ok(lives.book.answered)
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

/// Closed, then killed: what was closed is there. Killed while it is open it is rebuilt, as the member's is.
#[test]
fn r19_sled_that_was_closed_survives_20_kills() {
    survives_kills(Subject::Sled(FileSystemSync::Real));
}
