//! The conformance suite of state stores. Every store of Millet passes it, and so must yours:
//! call [`run`] from an async test with a function that makes an empty store.
//!
//! Each case states the rule it checks (R2, R3, R11) and the schedule that breaks a store without it.

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, Key, SessionId, ShardId, limits,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};

/// Runs every case, each on a fresh store.
///
/// # Panics
/// At the first thing the store does wrong.
pub async fn run<S: StateStore>(make: impl AsyncFn() -> S) {
    reads_what_was_written(&make().await).await;
    grains_slots_and_kinds_of_key_are_apart(&make().await).await;
    r2_open_raises_the_floor_where_no_row_exists(&make().await).await;
    r2_open_fences_a_delayed_save(&make().await).await;
    r2_floor_and_version_survive_clear(&make().await).await;
    r2_a_write_fences_lower_tokens_too(&make().await).await;
    r2_a_shard_is_opened_once_for_all_its_keys(&make().await).await;
    r3_tokens_compare_as_pairs(&make().await).await;
    r3_a_repeated_save_answers_as_the_first_time(&make().await).await;
    r11_a_higher_generation_ends_the_lower_one_for_the_whole_type(&make().await).await;
    versions_must_match(&make().await).await;
    values_up_to_the_limit_fit_and_larger_ones_are_refused(&make().await).await;
    concurrent_writers_of_one_version_have_one_winner(&make().await).await;
}

/// The token of activation `activation` under grant `index` of generation 1, session `index`.
fn token(index: u64, activation: u32) -> Token {
    token_of(1, index, activation)
}

fn token_of(generation: u32, index: u64, activation: u32) -> Token {
    Token { epoch: Epoch { grant: Grant { generation, index }, activation }, session: SessionId(index) }
}

fn ty() -> GrainType {
    GrainType::new("suite.Player").expect("a good name")
}

fn grain(n: u64) -> GrainId {
    GrainId::new(ty(), n)
}

fn write<'a>(grain: &'a GrainId, token: Token, version: u64) -> Write<'a> {
    Write { grain, slot: "profile", shard: None, token, version: Version(version) }
}

fn bytes(s: &'static str) -> Bytes {
    Bytes::from_static(s.as_bytes())
}

fn stored(version: u64, value: &'static str) -> Stored {
    Stored { version: Version(version), value: Some(bytes(value)) }
}

#[track_caller]
fn assert_fenced<T: std::fmt::Debug>(what: &str, result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced { .. })), "{what} must be fenced, got {result:?}");
}

async fn reads_what_was_written(s: &impl StateStore) {
    let (g, t) = (grain(1), token(5, 1));
    assert_eq!(
        s.open(&g, "profile", t).await,
        Ok(Stored::default()),
        "a grain never written has version 0 and no value"
    );
    assert_eq!(s.save(write(&g, t, 0), bytes("one")).await, Ok(Version(1)));
    assert_eq!(s.save(write(&g, t, 1), bytes("")).await, Ok(Version(2)), "an empty value is a value");
    assert_eq!(s.open(&g, "profile", token(5, 2)).await, Ok(stored(2, "")));
}

async fn grains_slots_and_kinds_of_key_are_apart(s: &impl StateStore) {
    let t = token(5, 1);
    let other = GrainType::new("suite.Other").expect("a good name");
    let text = |k: &str| GrainId::new(ty(), Key::text(k).expect("a good key"));
    let grains = [grain(42), text("42"), text("4"), text("42x"), GrainId::new(other, 42)];
    let slots = ["a", "ab", "b"];
    for (i, g) in grains.iter().enumerate() {
        for (j, slot) in slots.into_iter().enumerate() {
            assert_eq!(s.open(g, slot, t).await, Ok(Stored::default()), "{g:?} {slot} is new");
            let w = Write { grain: g, slot, shard: None, token: t, version: Version(0) };
            let value = Bytes::from(format!("{i}.{j}"));
            assert_eq!(s.save(w, value).await, Ok(Version(1)));
        }
    }
    for (i, g) in grains.iter().enumerate() {
        for (j, slot) in slots.into_iter().enumerate() {
            let found = s.open(g, slot, t).await.expect("the same token may open again");
            assert_eq!(found.value, Some(Bytes::from(format!("{i}.{j}"))), "{g:?} {slot}");
        }
    }
}

/// A@5 sends its first save, which is delayed; A@9 opens and finds nothing; the save arrives.
async fn r2_open_raises_the_floor_where_no_row_exists(s: &impl StateStore) {
    let g = grain(1);
    assert_eq!(s.open(&g, "profile", token(9, 1)).await, Ok(Stored::default()));
    assert_fenced(
        "a first save of an older activation",
        s.save(write(&g, token(5, 1), 0), bytes("late")).await,
    );
    assert_fenced("an open of an older activation", s.open(&g, "profile", token(5, 2)).await);
    assert_eq!(s.open(&g, "profile", token(9, 1)).await, Ok(Stored::default()), "nothing was written");
}

/// A@5 opened and saves; the save is delayed; A@9 opens and reads version 1; the save arrives.
async fn r2_open_fences_a_delayed_save(s: &impl StateStore) {
    let g = grain(1);
    s.open(&g, "profile", token(5, 1)).await.expect("free");
    assert_eq!(s.save(write(&g, token(5, 1), 0), bytes("one")).await, Ok(Version(1)));
    assert_eq!(s.open(&g, "profile", token(9, 1)).await, Ok(stored(1, "one")));
    assert_fenced("a delayed save", s.save(write(&g, token(5, 1), 1), bytes("late")).await);
    assert_fenced("a delayed clear", s.clear(write(&g, token(5, 1), 1)).await);
    assert_eq!(s.save(write(&g, token(9, 1), 1), bytes("two")).await, Ok(Version(2)));
}

/// A@9 clears; a save of A@5 re-creates the row, or a save of version 0 fits again (ABA).
async fn r2_floor_and_version_survive_clear(s: &impl StateStore) {
    let g = grain(1);
    s.open(&g, "profile", token(9, 1)).await.expect("free");
    assert_eq!(s.save(write(&g, token(9, 1), 0), bytes("one")).await, Ok(Version(1)));
    assert_eq!(s.clear(write(&g, token(9, 1), 1)).await, Ok(Version(2)));
    assert_eq!(
        s.clear(write(&g, token(9, 1), 1)).await,
        Ok(Version(2)),
        "a repeated clear answers as the first time"
    );
    assert_fenced(
        "a save below the floor of a cleared row",
        s.save(write(&g, token(5, 1), 0), bytes("late")).await,
    );
    let again = s.save(write(&g, token(9, 2), 0), bytes("aba")).await;
    assert_eq!(again, Err(StoreError::Version { given: Version(0), stored: Version(2) }));
    assert_eq!(s.open(&g, "profile", token(9, 3)).await, Ok(Stored { version: Version(2), value: None }));
    assert_eq!(s.save(write(&g, token(9, 3), 2), bytes("new")).await, Ok(Version(3)));
}

/// A sharded activation writes without opening: what it wrote is not for older ones to overwrite.
async fn r2_a_write_fences_lower_tokens_too(s: &impl StateStore) {
    let g = grain(1);
    let in_shard = |token, version| Write { shard: Some(ShardId(3)), ..write(&g, token, version) };
    s.open_shard(&ty(), ShardId(3), token(5, 0).epoch.grant, SessionId(5)).await.expect("free");
    assert_eq!(s.save(in_shard(token(5, 2), 0), bytes("one")).await, Ok(Version(1)));
    assert_fenced(
        "an older activation of the same grant",
        s.save(in_shard(token(5, 1), 1), bytes("late")).await,
    );
    assert_fenced("its open", s.open(&g, "profile", token(5, 1)).await);
    assert_fenced("its load", s.load(&g, "profile", ShardId(3), token(5, 1)).await);
}

/// A shard moves from grant 5 to grant 9; keys that were never written are fenced too.
async fn r2_a_shard_is_opened_once_for_all_its_keys(s: &impl StateStore) {
    let (g, shard) = (grain(1), ShardId(3));
    let in_shard = |token, version| Write { shard: Some(shard), ..write(&g, token, version) };
    s.open_shard(&ty(), shard, token(5, 0).epoch.grant, SessionId(5)).await.expect("free");
    assert_eq!(s.load(&g, "profile", shard, token(5, 1)).await, Ok(Stored::default()));
    assert_eq!(s.save(in_shard(token(5, 1), 0), bytes("one")).await, Ok(Version(1)));
    s.open_shard(&ty(), shard, token(9, 0).epoch.grant, SessionId(9)).await.expect("higher");
    s.open_shard(&ty(), shard, token(9, 0).epoch.grant, SessionId(9))
        .await
        .expect("a repeat answers as the first time");
    assert_fenced("a lower owner", s.open_shard(&ty(), shard, token(5, 0).epoch.grant, SessionId(5)).await);
    assert_fenced("its save", s.save(in_shard(token(5, 1), 1), bytes("late")).await);
    assert_fenced("its load", s.load(&g, "profile", shard, token(5, 1)).await);
    let new = grain(2);
    let w = Write { shard: Some(shard), ..write(&new, token(5, 1), 0) };
    assert_fenced("its first save of another key", s.save(w, bytes("late")).await);
    let elsewhere = Write { shard: Some(ShardId(4)), ..write(&new, token(5, 1), 0) };
    assert_eq!(s.save(elsewhere, bytes("mine")).await, Ok(Version(1)), "other shards go on");
    assert_eq!(s.load(&g, "profile", shard, token(9, 7)).await, Ok(stored(1, "one")));
    assert_eq!(s.save(in_shard(token(9, 7), 1), bytes("two")).await, Ok(Version(2)));
}

/// A@5.1 saves and times out; the same node re-activates as A@5.2 and loads; the first save lands.
async fn r3_tokens_compare_as_pairs(s: &impl StateStore) {
    let g = grain(1);
    s.open(&g, "profile", token(5, 1)).await.expect("free");
    assert_eq!(s.open(&g, "profile", token(5, 2)).await, Ok(Stored::default()));
    assert_fenced(
        "the earlier activation of one grant",
        s.save(write(&g, token(5, 1), 0), bytes("late")).await,
    );
    assert_eq!(
        s.open(&g, "profile", token(6, 1)).await,
        Ok(Stored::default()),
        "a higher grant outranks any activation"
    );
    assert_fenced("the lower grant", s.open(&g, "profile", token(5, u32::MAX)).await);
    assert_eq!(
        s.open(&g, "profile", token_of(2, 1, 0)).await,
        Ok(Stored::default()),
        "a generation outranks any grant"
    );
    assert_fenced("the lower generation", s.open(&g, "profile", token(u64::MAX, 1)).await);
}

/// The answer to a save is lost; the sender repeats it.
async fn r3_a_repeated_save_answers_as_the_first_time(s: &impl StateStore) {
    let (g, t) = (grain(1), token(5, 1));
    s.open(&g, "profile", t).await.expect("free");
    assert_eq!(s.save(write(&g, t, 0), bytes("one")).await, Ok(Version(1)));
    assert_eq!(s.save(write(&g, t, 0), bytes("one")).await, Ok(Version(1)), "a repeat");
    assert_eq!(s.save(write(&g, t, 1), bytes("two")).await, Ok(Version(2)));
    let stale = s.save(write(&g, t, 0), bytes("one")).await;
    assert_eq!(
        stale,
        Err(StoreError::Version { given: Version(0), stored: Version(2) }),
        "a repeat of what is no longer stored"
    );
    let other = s.save(write(&g, token(5, 2), 1), bytes("mine")).await;
    assert_eq!(
        other,
        Err(StoreError::Version { given: Version(1), stored: Version(2) }),
        "another writer's repeat is no repeat"
    );
    assert_eq!(s.open(&g, "profile", token(5, 3)).await, Ok(stored(2, "two")));
}

/// A type changes from 64 to 128 shards: an old owner's delayed write names shard 17 of 64, which the
/// new owner, of shard 34 of 128, never opened.
async fn r11_a_higher_generation_ends_the_lower_one_for_the_whole_type(s: &impl StateStore) {
    let g = grain(1);
    let in_shard = |shard, token, version| Write { shard: Some(ShardId(shard)), ..write(&g, token, version) };
    s.open_shard(&ty(), ShardId(17), token_of(1, 5, 0).epoch.grant, SessionId(5)).await.expect("free");
    assert_eq!(s.save(in_shard(17, token_of(1, 5, 1), 0), bytes("one")).await, Ok(Version(1)));
    s.open_shard(&ty(), ShardId(34), token_of(2, 9, 0).epoch.grant, SessionId(9)).await.expect("higher");
    assert_eq!(s.load(&g, "profile", ShardId(34), token_of(2, 9, 1)).await, Ok(stored(1, "one")));
    assert_fenced(
        "a save of the old generation",
        s.save(in_shard(17, token_of(1, 5, 1), 1), bytes("late")).await,
    );
    assert_fenced("an open of the old generation", s.open(&grain(2), "profile", token_of(1, 6, 1)).await);
    let other = GrainId::new(GrainType::new("suite.Other").expect("a good name"), 1);
    assert_eq!(
        s.open(&other, "profile", token_of(1, 5, 1)).await,
        Ok(Stored::default()),
        "other types go on"
    );
}

async fn versions_must_match(s: &impl StateStore) {
    let (g, t) = (grain(1), token(5, 1));
    s.open(&g, "profile", t).await.expect("free");
    let ahead = s.save(write(&g, t, 7), bytes("x")).await;
    assert_eq!(ahead, Err(StoreError::Version { given: Version(7), stored: Version(0) }));
    let ahead = s.clear(write(&g, t, 7)).await;
    assert_eq!(ahead, Err(StoreError::Version { given: Version(7), stored: Version(0) }));
    assert_eq!(s.open(&g, "profile", t).await, Ok(Stored::default()));
}

async fn values_up_to_the_limit_fit_and_larger_ones_are_refused(s: &impl StateStore) {
    let (g, t) = (grain(1), token(5, 1));
    s.open(&g, "profile", t).await.expect("free");
    let largest = Bytes::from(vec![7; limits::STATE_BYTES]);
    assert_eq!(s.save(write(&g, t, 0), largest.clone()).await, Ok(Version(1)));
    let over = s.save(write(&g, t, 1), Bytes::from(vec![7; limits::STATE_BYTES + 1])).await;
    assert_eq!(
        over,
        Err(StoreError::TooLarge { bytes: limits::STATE_BYTES + 1, limit: limits::STATE_BYTES })
    );
    let found = s.open(&g, "profile", t).await.expect("open");
    assert_eq!(found.version, Version(1));
    assert!(found.value == Some(largest), "the largest value comes back whole");
}

async fn concurrent_writers_of_one_version_have_one_winner(s: &impl StateStore) {
    let g = grain(1);
    s.open(&g, "profile", token(5, 1)).await.expect("free");
    let (a, b) =
        (s.save(write(&g, token(5, 1), 0), bytes("a")), s.save(write(&g, token(5, 2), 0), bytes("b")));
    let (b, a) = join(b, a).await;
    let winners = [&a, &b].into_iter().filter(|r| r.is_ok()).count();
    assert_eq!(winners, 1, "one of {a:?} and {b:?}");
}

/// Polls both to the end; without a runtime, so that the suite needs none.
async fn join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    use std::{pin::pin, task::Poll};
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut done_a, mut done_b) = (None, None);
    std::future::poll_fn(move |cx| {
        if done_a.is_none()
            && let Poll::Ready(x) = a.as_mut().poll(cx)
        {
            done_a = Some(x);
        }
        if done_b.is_none()
            && let Poll::Ready(x) = b.as_mut().poll(cx)
        {
            done_b = Some(x);
        }
        match (done_a.take(), done_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (done_a, done_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn the_memory_store_conforms() {
        run(async || MemoryStore::new()).await;
    }

    /// The suite can fail: a store that forgets to raise the floor at open does not pass.
    #[tokio::test]
    #[should_panic(expected = "must be fenced")]
    async fn r2_a_store_without_floors_fails_the_suite() {
        run(async || Forgetful(MemoryStore::new())).await;
    }

    /// Its `open` only reads, so it raises no floor.
    struct Forgetful(MemoryStore);

    impl StateStore for Forgetful {
        fn open<'a>(
            &'a self,
            grain: &'a GrainId,
            slot: &'a str,
            token: Token,
        ) -> millet_core::BoxFuture<'a, Result<Stored, StoreError>> {
            self.0.load(grain, slot, ShardId(u32::MAX), token)
        }
        fn open_shard<'a>(
            &'a self,
            ty: &'a GrainType,
            shard: ShardId,
            grant: Grant,
            session: SessionId,
        ) -> millet_core::BoxFuture<'a, Result<(), StoreError>> {
            self.0.open_shard(ty, shard, grant, session)
        }
        fn load<'a>(
            &'a self,
            grain: &'a GrainId,
            slot: &'a str,
            shard: ShardId,
            token: Token,
        ) -> millet_core::BoxFuture<'a, Result<Stored, StoreError>> {
            self.0.load(grain, slot, shard, token)
        }
        fn save<'a>(
            &'a self,
            write: Write<'a>,
            value: Bytes,
        ) -> millet_core::BoxFuture<'a, Result<Version, StoreError>> {
            self.0.save(write, value)
        }
        fn clear<'a>(&'a self, write: Write<'a>) -> millet_core::BoxFuture<'a, Result<Version, StoreError>> {
            self.0.clear(write)
        }
    }

    #[tokio::test]
    async fn floors_without_value_of_ended_sessions_are_swept_and_the_sessions_refused() {
        let s = MemoryStore::new();
        s.open(&grain(1), "profile", token(5, 1)).await.expect("free");
        s.open(&grain(2), "profile", token(6, 1)).await.expect("free");
        s.save(write(&grain(2), token(6, 1), 0), bytes("kept")).await.expect("saved");
        s.oldest_living(SessionId(8));
        assert_eq!(s.row_count(), 1, "only the row with a value is left");
        let late = s.save(write(&grain(1), token(5, 1), 0), bytes("late")).await;
        assert_eq!(late, Err(StoreError::SessionEnded(SessionId(5))));
    }

    /// A grain went from a younger session to an older one that has ended: the younger lives.
    #[tokio::test]
    async fn r2_a_floor_outlives_its_session_while_a_lower_token_may_live() {
        let (s, of) = (MemoryStore::new(), |session, t| Token { session: SessionId(session), ..t });
        let (low, high) = (of(9, token(12, 1)), of(7, token(20, 1)));
        s.open(&grain(1), "profile", low).await.expect("free");
        s.open(&grain(1), "profile", high).await.expect("higher");
        s.oldest_living(SessionId(9));
        let late = s.save(write(&grain(1), low, 0), bytes("late")).await;
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    }
}
