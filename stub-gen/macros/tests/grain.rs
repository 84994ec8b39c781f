//! The Rust-first front, as a user writes it: it compiles, keeps the block, and its wire form allows
//! fields to be added in a rolling upgrade.
#![allow(missing_docs, reason = "a test's types")]

use std::{collections::BTreeMap, num::NonZeroU32};

use millet::{
    grain,
    rt::{CallError, Create, Ctx, Grain, Hosted, KeyKind, Method, Service, codec},
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum TooLow {
    Below { best: i64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    who: u64,
    score: i64,
}

pub struct Rank {
    best: BTreeMap<u64, i64>,
}

impl Grain for Rank {
    type Service = RankService;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Rank { best: BTreeMap::new() }
    }
}

/// Who is best.
#[grain(name = "realm.Rank", key = text)]
impl Rank {
    /// Reports a score.
    async fn report(&mut self, _ctx: &Ctx<Self>, who: u64, score: i64) -> Result<(), TooLow> {
        let best = self.best.entry(who).or_insert(i64::MIN);
        if score <= *best {
            return Err(TooLow::Below { best: *best });
        }
        *best = score;
        Ok(())
    }

    async fn top(&self, _ctx: &Ctx<Self>, n: u32) -> Vec<Entry> {
        self.best.iter().take(n as usize).map(|(&who, &score)| Entry { who, score }).collect()
    }

    #[idempotent]
    async fn forget(&mut self, _ctx: &Ctx<Self>) {
        self.best.clear();
    }

    async fn level(
        &mut self,
        _ctx: &Ctx<Self>,
        level: NonZeroU32,
        note: Option<String>,
        big: [u64; 32],
    ) -> u64 {
        u64::from(level.get()) + note.map_or(0, |n| n.len() as u64) + big[0]
    }
}

/// An integer-keyed type that is only seen in its crate.
pub struct Hidden;
impl Grain for Hidden {
    type Service = HiddenService;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Hidden
    }
}
#[grain(name = "realm.Hidden", key = int, crate = ::millet)]
impl Hidden {
    async fn r#type(&self, _: &Ctx<Self>, r#match: u8) -> u8 {
        r#match
    }
}

#[test]
fn a_service_describes_itself() {
    assert_eq!((RankService::NAME, RankService::KEYS), ("realm.Rank", KeyKind::Text));
    let marks: Vec<_> = RankService::METHODS.iter().map(|m| (m.name, m.shared, m.idempotent)).collect();
    assert_eq!(
        marks,
        [("report", false, false), ("top", true, true), ("forget", false, true), ("level", false, false)]
    );
    assert_eq!((HiddenService::KEYS, HiddenService::METHODS[0].name), (KeyKind::Int, "type"));
    assert_eq!(RankService::DESCRIPTORS, None);
}

#[test]
fn results_and_errors_survive_the_wire() {
    let entries = vec![Entry { who: 1, score: -2 }];
    assert_eq!(rank::Top::decode_result(rank::Top::encode_result(Ok(entries.clone()))), Ok(entries));
    let outcome = rank::Report::encode_result(Err(TooLow::Below { best: 9 }));
    assert_eq!(rank::Report::decode_result(outcome), Err(CallError::App(TooLow::Below { best: 9 })));
    assert_eq!(rank::Forget::decode_result(rank::Forget::encode_result(Ok(()))), Ok(()));
}

#[test]
fn arguments_travel_as_named_fields() {
    #[derive(Deserialize)]
    struct Seen {
        who: u64,
        score: i64,
    }
    let bytes = rank::Report::encode_args(&rank::ReportArgs { who: 7, score: -3 }).expect("small");
    let seen: Seen = codec::decode_named(&bytes, "test").expect("a map of named fields");
    assert_eq!((seen.who, seen.score), (7, -3));
}

/// An older caller does not send `score` yet, a newer one sends `season` too: both are understood.
#[test]
fn fields_may_be_added_in_a_rolling_upgrade() {
    #[derive(Serialize)]
    struct Older {
        who: u64,
    }
    #[derive(Serialize)]
    struct Newer {
        season: &'static str,
        score: i64,
        who: u64,
    }
    let older = codec::encode_named(&Older { who: 7 }, "test").expect("small");
    let args = rank::Report::decode_args(older).expect("a missing field takes its default");
    assert_eq!((args.who, args.score), (7, 0));
    let newer = codec::encode_named(&Newer { season: "3", score: 5, who: 8 }, "test").expect("small");
    let args = rank::Report::decode_args(newer).expect("an unknown field is passed over");
    assert_eq!((args.who, args.score), (8, 5));
}

#[test]
fn a_missing_field_without_a_default_is_an_error_that_names_it() {
    let error =
        match hidden_level(codec::encode_named(&BTreeMap::from([("note", "x")]), "test").expect("small")) {
            Ok(_) => panic!("level is missing"),
            Err(e) => e.to_string(),
        };
    assert!(error.contains("realm.Rank.level: field level is missing"), "{error}");
}
fn hidden_level(bytes: bytes::Bytes) -> Result<rank::LevelArgs, millet::rt::ErrorKind> {
    rank::Level::decode_args(bytes)
}

#[test]
fn a_field_of_the_wrong_type_is_an_error_that_names_it() {
    let bytes = codec::encode_named(&BTreeMap::from([("who", "seven")]), "test").expect("small");
    let error = rank::Report::decode_args(bytes).err().expect("a string is no number").to_string();
    assert!(error.contains("realm.Rank.report: field who"), "{error}");
}

/// 256 bytes of arguments would make every slot of the mailbox as large.
#[test]
fn large_arguments_are_boxed_in_the_message() {
    assert!(size_of::<rank::LevelArgs>() > millet::rt::SLOT_BYTES);
    assert!(size_of::<<RankService as Hosted>::Msg>() <= 64);
}
