//! One direction of one connection: carries bytes under the conditions of its link.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::watch,
};

/// How a link treats bytes that go from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    /// Bytes wait until the cut is over, as behind a dropping router.
    pub cut: bool,
    /// Every piece is late by this.
    pub delay: Duration,
    /// 0: no limit.
    pub bytes_per_second: u64,
    /// So many of a thousand pieces are lost once, which on TCP is a stall.
    pub lost_per_mille: u64,
    /// Counts resets: when it rises, connections of the link end with RST.
    pub resets: u64,
}

/// What a lost segment costs: Linux's shortest retransmission timeout.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Read at once; a slow link's pieces.
const PIECE: usize = 16 * 1024;

/// Bytes that went one way over a link.
#[derive(Default)]
pub struct Flow {
    carried: AtomicU64,
    held: AtomicU64,
}

impl Flow {
    /// Bytes that arrived.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
    /// Bytes that a cut kept waiting.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// Carries bytes until the reader's end; an error says that the connection is to be reset.
pub async fn pipe(
    reader: &mut ReadHalf<'_>,
    writer: &mut WriteHalf<'_>,
    mut link: watch::Receiver<Condition>,
    flow: Arc<Flow>,
) -> io::Result<()> {
    let born = link.borrow().resets;
    let mut piece = vec![0; PIECE];
    let mut count: u64 = 0;
    loop {
        let n = unless_reset(&mut link, born, reader.read(&mut piece)).await?;
        if n == 0 {
            return writer.shutdown().await;
        }
        count += 1;
        until_open(&mut link, born, || _ = flow.held.fetch_add(n as u64, Ordering::Relaxed)).await?;
        let wait = lateness(&link.borrow(), n, count);
        if !wait.is_zero() {
            let late = async {
                tokio::time::sleep(wait).await;
                Ok(())
            };
            unless_reset(&mut link, born, late).await?;
            until_open(&mut link, born, || ()).await?;
        }
        unless_reset(&mut link, born, writer.write_all(&piece[..n])).await?;
        flow.carried.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// How late a piece of `n` bytes is; every so many-th is a lost one.
fn lateness(c: &Condition, n: usize, count: u64) -> Duration {
    let paced = (n as u64 * 1_000_000).checked_div(c.bytes_per_second).unwrap_or(0);
    // Multiplying by an odd number spreads the lost ones.
    let lost = count.wrapping_mul(7919) % 1000 < c.lost_per_mille;
    c.delay + Duration::from_micros(paced) + if lost { RETRANSMIT } else { Duration::ZERO }
}

/// Waits while the link is cut; says so once.
async fn until_open(link: &mut watch::Receiver<Condition>, born: u64, held: impl Fn()) -> io::Result<()> {
    let mut said = false;
    loop {
        let now = *link.borrow_and_update();
        if now.resets != born {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !now.cut {
            return Ok(());
        }
        if !said {
            held();
            said = true;
        }
        link.changed().await.map_err(io::Error::other)?;
    }
}

async fn unless_reset<T>(
    link: &mut watch::Receiver<Condition>,
    born: u64,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        done = work => done,
        _ = link.wait_for(|c| c.resets != born) => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_is_late_by_its_delay_its_rate_and_its_losses() {
        let c =
            Condition { delay: Duration::from_millis(20), bytes_per_second: 100_000, ..Condition::default() };
        assert_eq!(lateness(&c, 10_000, 1), Duration::from_millis(120));
        let lossy = Condition { lost_per_mille: 250, ..Condition::default() };
        let lost = (0..1000).filter(|n| !lateness(&lossy, 1, *n).is_zero()).count();
        assert_eq!(lost, 250);
        assert_eq!(lateness(&Condition::default(), PIECE, 0), Duration::ZERO);
    }
}
