//! Waiting for something to become true, with a limit. The only place where tests sleep: a condition
//! is polled, and a test that waits in vain says for what.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks at a condition: short, since tests wait for each of them.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits on this thread until `cond` holds.
///
/// # Panics
/// If it does not within `limit`; the message names `what` and the caller's line.
#[track_caller]
pub fn until(what: &str, mut cond: impl FnMut() -> bool, limit: Duration) {
    let start = Instant::now();
    while !cond() {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until the async `cond` answers true. Uses tokio's timer, so it follows a paused clock.
///
/// # Panics
/// If it does not within `limit`; the message names `what`.
///
/// Cancel safety: nothing is lost but the waiting.
#[cfg(feature = "tokio")]
pub async fn until_async(what: &str, mut cond: impl AsyncFnMut() -> bool, limit: Duration) {
    until_some(what, async || cond().await.then_some(()), limit).await;
}

/// Waits until the async `probe` answers something, and returns it.
///
/// # Panics
/// If it does not within `limit`; the message names `what`.
///
/// Cancel safety: nothing is lost but the waiting.
#[cfg(feature = "tokio")]
pub async fn until_some<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>, limit: Duration) -> T {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(found) => found,
        Err(_) => panic!("waited {limit:?} in vain until {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        until(
            "three looks",
            || {
                looks += 1;
                looks == 3
            },
            Duration::from_secs(5),
        );
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "until pigs fly")]
    fn a_wait_in_vain_names_its_condition() {
        until("pigs fly", || false, Duration::from_millis(10));
    }
}
