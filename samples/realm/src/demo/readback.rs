//! The reckoning: every ledger and every treasury is read back and compared with what the driver knows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::bots::{Bots, TREASURY, spread};

/// What the reading found.
#[derive(Default, Debug)]
pub struct Read {
    pub players: u64,
    pub unread: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Gold that appeared in (+) or vanished from (−) the guilds together.
    pub gold_off: i64,
    pub guilds: u64,
}

/// Looks at one ledger while the bots play: every deed that was acknowledged before must be in it once.
/// `None` if the hero cannot be asked right now.
pub async fn spot_check(bots: &Bots, player: u64) -> Option<bool> {
    let known = bots.accounts.lock().acknowledged(player);
    let ledger = bots.calls.ledger(player).await.ok()?.value.deeds;
    let mut times = HashMap::new();
    for deed in &ledger {
        *times.entry(deed).or_insert(0u32) += 1;
    }
    Some(times.values().all(|n| *n == 1) && known.iter().all(|deed| times.contains_key(deed)))
}

/// How often a grain is asked again before it counts as unreadable.
const TRIES: u32 = 40;

/// Reads everything.
pub async fn read_back(bots: &Arc<Bots>) -> Read {
    let read = Arc::new(Mutex::new(Read::default()));
    let players = Arc::new(bots.accounts.lock().players());
    let (me, into, all) = (bots.clone(), read.clone(), players.clone());
    spread(players.len() as u64, 64, move |n| {
        let (me, into, player) = (me.clone(), into.clone(), all[n as usize]);
        async move {
            let ledger = patiently(|| me.calls.ledger(player)).await;
            let mut r = into.lock();
            r.players += 1;
            match ledger {
                Some(l) => {
                    let (lost, doubled) = me.accounts.lock().audit(player, &l.value.deeds);
                    r.lost += lost;
                    // Every deed of a bot brings one gold.
                    r.doubled += doubled + u64::from(l.value.gold != l.value.deeds.len() as u64);
                }
                None => r.unread += 1,
            }
        }
    })
    .await;
    // First what is still under way, then what is there.
    for settle in [true, false] {
        let (me, into) = (bots.clone(), read.clone());
        spread(bots.guilds(), 16, move |guild| {
            let (me, into) = (me.clone(), into.clone());
            async move {
                if settle {
                    patiently(|| async {
                        let r = me.calls.settle(guild).await?;
                        if r.value.pending == 0 { Ok(r) } else { Err(super::calls::not_yet()) }
                    })
                    .await;
                    return;
                }
                let gold = patiently(|| me.calls.treasury(guild)).await;
                let mut r = into.lock();
                r.guilds += 1;
                match gold {
                    Some(g) => r.gold_off += g.value.gold as i64 - TREASURY as i64,
                    None => r.unread += 1,
                }
            }
        })
        .await;
    }
    std::mem::take(&mut *read.lock())
}

async fn patiently<T, R>(ask: impl Fn() -> R) -> Option<T>
where
    R: Future<Output = Result<T, super::accounts::Failure>>,
{
    for _ in 0..TRIES {
        match ask().await {
            Ok(v) => return Some(v),
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
    None
}
