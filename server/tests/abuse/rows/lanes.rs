//! Frames between nodes, forged: whoever reaches the peer port can say that it is a node.

use std::time::Duration;

use futures::stream;
use millet_proto::wire::{self, PeerFrame, peer_client::PeerClient};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use super::{Row, row};
use crate::{call::LIMIT, child::Target};

pub fn rows() -> Vec<Row> {
    vec![
        row!("lane-no-hello", "INVALID_ARGUMENT", no_hello),
        row!("lane-silent", "DEADLINE_EXCEEDED within 7 s", patient silent),
        row!("lane-protocol", "refused with both ranges", protocol),
        row!("lane-cluster", "refused, shown in short", cluster),
        row!("lane-stranger", "refused: unknown session", stranger),
        row!("lane-no-control", "refused: control lane first", no_control),
        row!("lane-huge-hello", "INVALID_ARGUMENT", huge_hello),
        row!("lane-unknown-reply", "dropped, lane kept", replies),
        row!("lane-forged-call", "each refused, lane kept", forged),
        row!("lane-over-credit", "lane closed", over_credit),
        row!("lane-empty-calls", "lane closed, memory flat", empty_calls),
        row!("lane-empty-frames-in-call", "lane closed, memory flat", nested),
        row!("lane-frame-over-limit", "lane closed", over_limit),
        row!("lane-ping-flood", "answers bounded, lane kept", pings),
        row!("batch-empty-ops", "RESOURCE_EXHAUSTED or INVALID_ARGUMENT", batch),
    ]
}

async fn dial(target: &Target) -> Result<PeerClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.peer)).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    Ok(PeerClient::new(channel).max_encoding_message_size(64 << 20).max_decoding_message_size(64 << 20))
}

fn hello(target: &Target, lane: u32) -> wire::Hello {
    wire::Hello {
        cluster: target.cluster.clone(),
        protocol_min: 1,
        protocol_max: 1,
        node: target.node.0,
        // The only living session there is: its own.
        session: target.session.0,
        target_node: target.node.0,
        target_session: target.session.0,
        lane,
        features: Vec::new(),
        refused: None,
        credit: 1_000_000,
    }
}

fn greeting(hello: wire::Hello) -> PeerFrame {
    PeerFrame { hello: Some(hello), ..PeerFrame::default() }
}

/// A lane that is closed for what was said on it closes within this.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A lane in our hands.
struct Lane {
    send: futures::channel::mpsc::Sender<PeerFrame>,
    answers: Streaming<PeerFrame>,
}

impl Lane {
    async fn open(
        client: &mut PeerClient<Channel>,
        hello: wire::Hello,
    ) -> Result<(Self, wire::Hello), String> {
        let (mut send, frames) = futures::channel::mpsc::channel(16);
        send.try_send(greeting(hello)).map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(LIMIT, client.lane(frames)).await.map_err(|_| "no answer")?;
        let mut lane = Self { send, answers: answer.map_err(|s| s.to_string())?.into_inner() };
        let first = lane.next().await?.ok_or("the lane ended before its hello")?;
        Ok((lane, first.hello.ok_or("no hello")?))
    }

    /// The next frame; `None` when the lane has ended.
    async fn next(&mut self) -> Result<Option<PeerFrame>, String> {
        let next = tokio::time::timeout(LIMIT, self.answers.message()).await;
        next.map_err(|_| "the lane is silent")?.map_err(|s| s.to_string())
    }

    async fn say(&mut self, frame: PeerFrame) -> Result<(), String> {
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(|e| e.to_string())?;
        self.send.start_send(frame).map_err(|e| e.to_string())
    }

    /// Reads until the lane ends, well before it would for want of pongs.
    async fn ended(&mut self) -> Result<(), String> {
        let ending = async { while let Ok(Some(_)) = self.next().await {} };
        tokio::time::timeout(AT_ONCE, ending).await.map_err(|_| "the lane is kept".to_owned())
    }
}

/// A control lane whose pings are answered, so that deadlines are bounded.
async fn control(target: &Target, client: &mut PeerClient<Channel>) -> Result<Lane, String> {
    let (mut lane, theirs) = Lane::open(client, hello(target, 0)).await?;
    if let Some(refused) = theirs.refused {
        return Err(format!("refused: {}", refused.text));
    }
    let mut frame = lane.next().await?.ok_or("the control lane ended")?;
    while frame.pings.is_empty() {
        frame = lane.next().await?.ok_or("the control lane ended")?;
    }
    let pongs = frame.pings.iter().map(|p| wire::Pong { nonce: p.nonce, now_ms: 1_000_000 }).collect();
    // Ours is answered after the pongs before it were heard.
    let pings = vec![wire::Ping { nonce: 1 }];
    lane.say(PeerFrame { pongs, pings, ..PeerFrame::default() }).await?;
    while lane.next().await?.ok_or("the control lane ended")?.pongs.is_empty() {}
    Ok(lane)
}

/// A call lane beside a good control lane.
async fn calls(target: &Target) -> Result<(Lane, Lane), String> {
    let mut client = dial(target).await?;
    let control = control(target, &mut client).await?;
    let (lane, theirs) = Lane::open(&mut client, hello(target, 1)).await?;
    match theirs.refused {
        Some(refused) => Err(format!("refused: {}", refused.text)),
        None => Ok((control, lane)),
    }
}

/// A call that the grain would answer; its deadline is far.
fn good(id: u64) -> wire::Call {
    wire::Call {
        id,
        target: Some(wire::GrainId {
            r#type: "arena.Duel".into(),
            key: Some(wire::Key { kind: Some(wire::key::Kind::Int(7)) }),
        }),
        method: millet_core::MethodId::of("Watch").0,
        request: vec![7; 16].into(),
        deadline_ms: 1_005_000,
        ..wire::Call::default()
    }
}

/// The error of the lane's answer to one call.
async fn answer(lane: &mut Lane, id: u64) -> Result<wire::outcome::Kind, String> {
    loop {
        let frame = lane.next().await?.ok_or("the lane ended")?;
        let reply = frame.replies.into_iter().find(|r| r.id == id);
        if let Some(kind) = reply.and_then(|r| r.outcome).and_then(|o| o.kind) {
            return Ok(kind);
        }
    }
}

async fn first(target: &Target, frame: PeerFrame) -> Result<Code, String> {
    let answer = tokio::time::timeout(LIMIT, dial(target).await?.lane(stream::iter([frame]))).await;
    match answer.map_err(|_| "no answer")? {
        Ok(mut lane) => match lane.get_mut().message().await {
            Ok(_) => Err("taken".into()),
            Err(s) => Ok(s.code()),
        },
        Err(s) => Ok(s.code()),
    }
}

fn expect(code: Code, expected: &[Code]) -> Result<String, String> {
    if expected.contains(&code) {
        Ok(format!("{code:?}"))
    } else {
        Err(format!("{code:?}, expected {expected:?}"))
    }
}

async fn no_hello(target: &Target) -> Result<String, String> {
    let frame = PeerFrame { calls: vec![good(1)], ..PeerFrame::default() };
    expect(first(target, frame).await?, &[Code::InvalidArgument])
}

async fn silent(target: &Target) -> Result<String, String> {
    let mut client = dial(target).await?;
    let opening = client.lane(stream::pending());
    let answer = tokio::time::timeout(Duration::from_secs(7), opening).await.map_err(|_| "open after 7 s")?;
    expect(answer.err().map_or(Code::Ok, |s| s.code()), &[Code::DeadlineExceeded])
}

/// A refusal's text.
async fn refused(target: &Target, hello: wire::Hello, wanted: &str) -> Result<String, String> {
    let (mut lane, theirs) = Lane::open(&mut dial(target).await?, hello).await?;
    let text = theirs.refused.ok_or("taken")?.text;
    lane.ended().await?;
    if text.contains(wanted) && text.len() < 512 {
        Ok(format!("refused: {}", text.chars().take(60).collect::<String>()))
    } else {
        Err(format!("refused with {} bytes: {}", text.len(), text.chars().take(200).collect::<String>()))
    }
}

async fn protocol(target: &Target) -> Result<String, String> {
    let hello = wire::Hello { protocol_min: 3, protocol_max: 4, ..hello(target, 0) };
    refused(target, hello, "v3..4, need v1..1").await
}

async fn cluster(target: &Target) -> Result<String, String> {
    refused(target, wire::Hello { cluster: "elsewhere".into(), ..hello(target, 0) }, "elsewhere").await
}

async fn stranger(target: &Target) -> Result<String, String> {
    refused(target, wire::Hello { session: u64::MAX, ..hello(target, 0) }, "not known here").await
}

async fn no_control(target: &Target) -> Result<String, String> {
    let session = target.session.0;
    refused(target, wire::Hello { session, ..hello(target, 2) }, "control lane first").await
}

async fn huge_hello(target: &Target) -> Result<String, String> {
    let cluster = greeting(wire::Hello { cluster: "c".repeat(4 << 20), ..hello(target, 0) });
    let features = greeting(wire::Hello { features: vec![String::new(); 1 << 20], ..hello(target, 0) });
    for frame in [cluster, features] {
        expect(first(target, frame).await?, &[Code::InvalidArgument, Code::ResourceExhausted])?;
    }
    Ok("both refused".into())
}

async fn replies(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    let replies = (0..1000).map(|id| wire::CallReply { id, outcome: None }).collect();
    lane.say(PeerFrame { replies, credit: u32::MAX, ..PeerFrame::default() }).await?;
    lane.say(PeerFrame { calls: vec![good(1)], ..PeerFrame::default() }).await?;
    match answer(&mut lane, 1).await? {
        wire::outcome::Kind::Ok(_) => Ok("dropped, the next call answered".into()),
        other => Err(format!("{other:?}")),
    }
}

async fn forged(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    let grain = |ty: &str, kind| Some(wire::GrainId { r#type: ty.into(), key: Some(wire::Key { kind }) });
    let text = |t: &str| Some(wire::key::Kind::Text(t.into()));
    let frames = vec![wire::ChainFrame::default(); 33];
    let entries = vec![wire::ContextEntry::default(); 17];
    let ahead = wire::Grant { generation: u32::MAX, index: u64::MAX };
    let bad = [
        wire::Call { target: None, ..good(0) },
        wire::Call { target: grain("", text("k")), ..good(0) },
        wire::Call { target: grain("arena.Duel", text(&"k".repeat(1025))), ..good(0) },
        wire::Call { target: grain("arena.Duel", text("a\0b")), ..good(0) },
        wire::Call { target: grain("arena.Duel", None), ..good(0) },
        wire::Call { target: grain("arena.Nobody", text("k")), ..good(0) },
        wire::Call { request: vec![7; 15].into(), ..good(0) },
        wire::Call { method: 1, ..good(0) },
        wire::Call { chain: frames, ..good(0) },
        wire::Call { context: entries, ..good(0) },
        wire::Call { deadline_ms: 0, ..good(0) },
        wire::Call { grant: Some(ahead), ..good(0) },
        wire::Call { sender_epoch: Some(wire::Epoch::default()), ..good(0) },
        wire::Call { args: vec![0; (4 << 20) + 1].into(), ..good(0) },
    ];
    let mut taken = Vec::new();
    for (id, call) in (1..).zip(bad) {
        lane.say(PeerFrame { calls: vec![wire::Call { id, ..call }], ..PeerFrame::default() }).await?;
        if let wire::outcome::Kind::Ok(_) = answer(&mut lane, id).await? {
            taken.push(id);
        }
    }
    lane.say(PeerFrame { calls: vec![good(99)], ..PeerFrame::default() }).await?;
    match answer(&mut lane, 99).await? {
        wire::outcome::Kind::Ok(_) if taken.is_empty() => Ok("14 refused, the next call answered".into()),
        other => Err(format!("taken: {taken:?}, then {other:?}")),
    }
}

/// More calls than the credit that the listener gave.
async fn over_credit(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    // Exclusive and slow, and no mailbox gets full: a call that is refused is answered and not in flight.
    let call = |id| wire::Call {
        method: millet_core::MethodId::of("Strike").0,
        args: vec![0x08, 3, 0x12, 1, 100].into(),
        ..good(id)
    };
    let keys = |id: u64| {
        Some(wire::GrainId {
            r#type: "arena.Duel".into(),
            key: Some(wire::Key { kind: Some(wire::key::Kind::Int(1_000 + id % 40)) }),
        })
    };
    for frame in 0..40u64 {
        let calls = (0..1000).map(|n| frame * 1000 + n).map(|id| wire::Call { target: keys(id), ..call(id) });
        if lane.say(PeerFrame { calls: calls.collect(), ..PeerFrame::default() }).await.is_err() {
            break;
        }
    }
    lane.ended().await?;
    Ok("lane closed".into())
}

/// Two bytes a call on the wire, hundreds in memory.
async fn empty_calls(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    drop(lane.say(PeerFrame { calls: vec![wire::Call::default(); 400_000], ..PeerFrame::default() }).await);
    lane.ended().await?;
    Ok("lane closed".into())
}

async fn nested(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    let chain = vec![wire::ChainFrame::default(); 1_500_000];
    drop(lane.say(PeerFrame { calls: vec![wire::Call { chain, ..good(1) }], ..PeerFrame::default() }).await);
    lane.ended().await?;
    Ok("lane closed".into())
}

async fn over_limit(target: &Target) -> Result<String, String> {
    let (_control, mut lane) = calls(target).await?;
    let args = vec![0; 9 << 20].into();
    drop(lane.say(PeerFrame { calls: vec![wire::Call { args, ..good(1) }], ..PeerFrame::default() }).await);
    lane.ended().await?;
    Ok("lane closed".into())
}

async fn pings(target: &Target) -> Result<String, String> {
    let mut client = dial(target).await?;
    let mut lane = control(target, &mut client).await?;
    let mut answered = 0;
    for _ in 0..200 {
        let pings = (0..500).map(|nonce| wire::Ping { nonce }).collect();
        lane.say(PeerFrame { pings, ..PeerFrame::default() }).await?;
    }
    // Surplus pings are dropped, so that the last one is sent until it is answered.
    let asking = async {
        loop {
            lane.say(PeerFrame { pings: vec![wire::Ping { nonce: 9_999_999 }], ..PeerFrame::default() })
                .await?;
            let heard = lane.next().await?.ok_or("the lane ended")?;
            answered += heard.pongs.len();
            if heard.pongs.iter().any(|p| p.nonce == 9_999_999) {
                return Ok::<_, String>(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), asking)
        .await
        .map_err(|_| "pings are not answered any more")??;
    Ok(format!("{answered} of 100,000 answered, lane kept"))
}

/// As empty calls, at the metadata store.
async fn batch(target: &Target) -> Result<String, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.peer)).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let mut meta = wire::meta_client::MetaClient::new(channel);
    let ops = vec![wire::MetaOp::default(); 1_500_000];
    let request = wire::MetaBatchRequest { cluster: target.cluster.clone(), ops, ..Default::default() };
    let answer = meta.batch(request).await;
    expect(answer.err().map_or(Code::Ok, |s| s.code()), &[Code::ResourceExhausted, Code::InvalidArgument])
}
