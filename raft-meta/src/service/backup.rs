//! A backup of a cluster that runs: both groups as of an instant after the request came, written to files
//! first and sent from there, so that a slow receiver costs disk and no memory. The state first: `meta` then
//! knows every session that the state has met.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use millet_core::world::Threads;
use millet_proto::{
    backup::Writer,
    wire::{BackupHeader, BackupMember, BackupPiece, BackupSection},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    log::GroupId,
    member::{META, Running, STATE, Step, group_name},
    raft::SnapshotFile,
};

/// Pieces on their way to the receiver: a megabyte.
const PIECES: usize = 4;
/// How long this member may take to apply what its leaders had.
const CAUGHT_UP: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

type Piece = Result<BackupPiece, Status>;

/// Makes one, after both groups have confirmed what is committed.
pub(super) async fn backup(
    running: Arc<Running>,
    threads: &dyn Threads,
    taken_ms: u64,
) -> Result<BoxStream<'static, Piece>, Status> {
    let permit = Arc::clone(&running.backups).try_acquire_owned().map_err(|_| {
        Status::unavailable("this member is making a backup; wait for its end, or ask another member")
    })?;
    let failed = |e: io::Error| Status::internal(format!("no backup: {e}"));
    caught_up(&running, STATE).await?;
    let state = running.state.draft().await.map_err(failed)?;
    caught_up(&running, META).await?;
    let meta = running.meta.draft().await.map_err(failed)?;
    let members = running.look_here(META).nodes.into_iter();
    let header = BackupHeader {
        cluster: running.cluster.to_string(),
        member: running.member,
        taken_ms,
        members: members.map(|n| BackupMember { id: n.id, addr: n.addr }).collect(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let (to, pieces) = mpsc::channel(PIECES);
    let work = move || {
        let _one = permit;
        if let Err(e) = write(&header, &[(STATE, state), (META, meta)], &to) {
            // An error means that the receiver has gone.
            let _ = to.blocking_send(Err(Status::aborted(format!("the backup is not whole: {e}"))));
        }
    };
    threads.spawn("backup", Box::new(work)).map_err(failed)?;
    Ok(ReceiverStream::new(pieces).boxed())
}

/// Waits until this member has applied everything that was committed when it was asked.
async fn caught_up(running: &Running, group: GroupId) -> Result<(), Status> {
    let unavailable =
        |why: String| Status::unavailable(format!("group {}: {why}; repeat", group_name(group)));
    let upto = running.step(group, Step::Read).await.map_err(unavailable)?.applied;
    let caught_up = async {
        while running.look_here(group).applied < upto {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(CAUGHT_UP, caught_up)
        .await
        .map_err(|_| unavailable(format!("member {} is far behind; ask another", running.member)))
}

fn write(
    header: &BackupHeader,
    groups: &[(GroupId, SnapshotFile)],
    to: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let mut backup = Writer::new(Sender { to, piece: Vec::with_capacity(PIECE) }, header)?;
    for (group, file) in groups {
        let section =
            BackupSection { group: group.0, name: group_name(*group).into(), index: file.applied().index };
        backup.section(&section)?;
        io::copy(&mut file.content()?, &mut backup)?;
        backup.end_section()?;
    }
    backup.finish().map(|_| ())
}

/// Bytes in one message.
const PIECE: usize = 256 * 1024;

/// Sends what is written, piece by piece; waits for a slow receiver.
struct Sender<'a> {
    to: &'a mpsc::Sender<Piece>,
    piece: Vec<u8>,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let data = Bytes::from(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE)));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the receiver has gone");
        self.to.blocking_send(Ok(BackupPiece { data })).map_err(gone)
    }
}
