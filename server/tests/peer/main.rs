//! The transport between nodes, over real sockets on loopback.

mod node;

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use millet::{
    adapters::{
        listen,
        peer::{Transport, TransportConfig},
    },
    core::{CallError, ErrorKind, Key, NodeId, Outcome, Ran, Sender, SessionId, SessionLease, limits},
    world::{Dial, RealDisk, World},
};
use millet_directory::{PeerId, Peers, Residents};
use millet_testkit::until_async;
use node::{Echo, Who, node, node_in, node_of};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

fn kind(outcome: Outcome) -> ErrorKind {
    match outcome {
        Err(CallError::Platform(p)) => p.into_parts().0,
        other => panic!("expected an error of the platform, got {other:?}"),
    }
}

/// A relay that can be cut, as a network cable can.
async fn relay(to: String) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound").to_string();
    let task = tokio::spawn(async move {
        let mut open = tokio::task::JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let to = to.clone();
            open.spawn(async move {
                let Ok(mut onward) = tokio::net::TcpStream::connect(to).await else { return };
                drop(tokio::io::copy_bidirectional(&mut from, &mut onward).await);
            });
        }
    });
    (addr, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_sender_reach_one_target_in_order() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let calls =
        (0..2_000u64).map(|n| a.transport.call(&b.peer, a.envelope(n % 3, 0, n.to_be_bytes().to_vec())));
    for (n, outcome) in futures::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(outcome, Ok(Bytes::from((n as u64).to_be_bytes().to_vec())));
    }
    let seen = b.echo.seen.lock();
    for key in 0..3u64 {
        let of_key = seen.iter().filter(|(e, _)| e.target.key == Key::Int(key));
        let order: Vec<u64> =
            of_key.map(|(_, args)| u64::from_be_bytes(args.as_ref().try_into().expect("8 bytes"))).collect();
        assert_eq!(order.len(), 2_000usize.div_ceil(3) - usize::from(key == 2));
        assert!(order.is_sorted(), "messages of one sender to one target overtook each other");
    }
    assert_eq!(seen[0].0.sender, Some(Sender { session: SessionId(10), epoch: None }));
}

/// A missed `tcp_nodelay` costs 44 ms a call.
#[tokio::test(flavor = "multi_thread")]
async fn sequential_calls_do_not_wait_for_delayed_acknowledgements() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let mut times = Vec::new();
    for n in 0..200 {
        let start = Instant::now();
        a.transport.call(&b.peer, a.envelope(n, 0, "x")).await.expect("answered");
        times.push(start.elapsed());
    }
    times.sort_unstable();
    assert!(times[100] < Duration::from_millis(5), "p50 is {:?}", times[100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_a_cut_link_ends_every_call_as_unknown_and_the_next_call_dials_again() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let (addr, cable) = relay(b.peer.addr.clone()).await;
    let through = PeerId { addr, ..b.peer.clone() };
    let parked = a.transport.call(&through, a.envelope(1, 1, "parked"));
    let cut = async {
        until_async("the turn has started", async || b.echo.started.load(Ordering::SeqCst) == 1, LIMIT).await;
        cable.abort();
    };
    let (outcome, ()) = tokio::join!(parked, cut);
    assert!(matches!(kind(outcome), ErrorKind::Unknown { .. }));
    // Now nobody listens there: not sent, and it says so.
    let refused = kind(a.transport.call(&through, a.envelope(1, 0, "x")).await);
    assert!(matches!(refused, ErrorKind::Unavailable { .. }), "{refused:?}");
    let again = async || a.transport.call(&b.peer, a.envelope(1, 0, "x")).await.is_ok();
    until_async("the peer is reached again", again, LIMIT).await;
}

/// Grains' threads that are gone take the tasks of call lanes with them, on the listener's side or on the
/// dialler's, and the network's go on: who waits hears it at once, not at the deadline.
#[tokio::test(flavor = "multi_thread")]
async fn r26_call_lanes_whose_threads_are_gone_end_the_link() {
    for listeners in [true, false] {
        let grains = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let grains = grains.expect("a thread");
        let here = tokio::runtime::Handle::current();
        let apart = World::real(grains.handle().clone(), here, Arc::new(RealDisk));
        let (one, two) = if listeners { (World::here(), apart) } else { (apart, World::here()) };
        let (a, b) = (node_in(one, "test", 1, |_| {}).await, node_in(two, "test", 2, |_| {}).await);
        let parked = a.transport.call(&b.peer, a.call_in(1, 1, "parked", 3 * LIMIT));
        let end = async {
            let started = async || b.echo.started.load(Ordering::SeqCst) == 1;
            until_async("the turn has started", started, LIMIT).await;
            grains.shutdown_background();
        };
        let (outcome, ()) = tokio::join!(tokio::time::timeout(LIMIT, parked), end);
        let outcome = outcome.unwrap_or_else(|_| panic!("nobody was told; the listener's: {listeners}"));
        assert!(matches!(kind(outcome), ErrorKind::Unknown { .. }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_the_end_of_a_session_ends_what_is_parked_on_it() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let parked = a.transport.call(&b.peer, a.envelope(1, 1, "parked"));
    let end = async {
        until_async("the turn has started", async || b.echo.started.load(Ordering::SeqCst) == 1, LIMIT).await;
        a.who.ended.lock().push(b.peer.session);
        a.transport.session_ended(b.peer.session);
    };
    let (outcome, ()) = tokio::join!(parked, end);
    assert!(matches!(kind(outcome), ErrorKind::Unknown { .. }));
    let refused = kind(a.transport.call(&b.peer, a.envelope(1, 0, "x")).await);
    assert!(matches!(&refused, ErrorKind::Unavailable { what } if what.contains("s20")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g1c_nothing_is_accepted_from_an_ended_session() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    a.transport.call(&b.peer, a.envelope(1, 0, "x")).await.expect("answered");
    // B learns it from the directory, but its open lanes were not told: the next frame is refused.
    b.who.ended.lock().push(a.peer.session);
    let outcome = kind(a.transport.call(&b.peer, a.envelope(1, 0, "late")).await);
    assert!(matches!(outcome, ErrorKind::Unknown { .. }), "{outcome:?}");
    assert_eq!(b.echo.started.load(Ordering::SeqCst), 1, "the late call ran");
    assert_eq!(b.transport.counters().frames_from_ended.load(Ordering::SeqCst), 1);
    let refused = kind(a.transport.call(&b.peer, a.envelope(1, 0, "later")).await);
    assert!(matches!(refused, ErrorKind::Unavailable { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_nothing_leaves_a_frozen_session_and_everything_does_once_it_thaws() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    a.transport.call(&b.peer, a.envelope(1, 0, "x")).await.expect("answered");
    // A second node with the same session object, never renewed: frozen from the start.
    let frozen = Arc::new(SessionLease::opened(SessionId(30), Duration::from_secs(3600)));
    let who = Arc::new(Who { lease: frozen.clone(), ended: Mutex::default() });
    let c = Transport::new(a.world.clone(), TransportConfig::new(NodeId(3), 2));
    let residents: Weak<dyn Residents> = Weak::<Echo>::new();
    c.attach("test".into(), who, residents);
    let mut envelope = a.envelope(2, 0, "waits");
    envelope.sender = Some(Sender { session: SessionId(30), epoch: None });
    let call = c.call(&b.peer, envelope);
    let thaw = async {
        // The link is up and pings flow, so the call had every chance to leave.
        let mut early = a.call_in(2, 0, "expires", Duration::from_millis(300));
        early.sender = Some(Sender { session: SessionId(30), epoch: None });
        let early = kind(c.call(&b.peer, early).await);
        assert!(matches!(early, ErrorKind::DeadlineExceeded { .. }), "{early:?}");
        assert_eq!(b.echo.started.load(Ordering::SeqCst), 1, "a call left without a valid session");
        frozen.renewed(a.world.clock.boottime());
    };
    let (outcome, ()) = tokio::join!(call, thaw);
    assert_eq!(outcome, Ok(Bytes::from_static(b"waits")));
    c.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_cluster_is_refused_and_told_why() {
    let (a, b) = (node_of("other", 1, |_| {}).await, node(2, |_| {}).await);
    let refused = kind(a.transport.call(&b.peer, a.envelope(1, 0, "x")).await);
    assert!(
        matches!(&refused, ErrorKind::Unavailable { what } if what.contains("\"test\", not \"other\"")),
        "{refused:?}"
    );
    assert_eq!(b.echo.started.load(Ordering::SeqCst), 0);
    assert_eq!(b.transport.counters().hellos_refused.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_protocol_version_or_no_hello_is_refused() {
    use millet_proto::wire::{Hello, PeerFrame, peer_client::PeerClient};
    let b = node(2, |_| {}).await;
    let channel = Dial::new(b.world.net.clone()).connect(&b.peer.addr).await.expect("connects");
    let mut client = PeerClient::new(channel);
    let hello = Hello { cluster: "test".into(), protocol_min: 3, protocol_max: 4, ..Hello::default() };
    let frame = PeerFrame { hello: Some(hello), ..PeerFrame::default() };
    let mut answer = client.lane(futures::stream::iter([frame])).await.expect("answers").into_inner();
    let first = answer.message().await.expect("reads").expect("a frame").hello.expect("a hello");
    let refused = first.refused.expect("refused");
    assert!(refused.text.contains("v3..4, need v1..1"), "{}", refused.text);
    assert!(answer.message().await.expect("reads").is_none(), "the lane stays open");
    let none = client.lane(futures::stream::iter([PeerFrame::default()])).await.expect_err("refused");
    assert_eq!(none.code(), tonic::Code::InvalidArgument);
}

/// However often a peer opens a lane anew, it has one of that number.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_opened_anew_ends_the_one_before() {
    use millet_proto::{
        peer::{Hello, PROTOCOL},
        wire::{PeerFrame, peer_client::PeerClient},
    };
    let b = node(2, |_| {}).await;
    let channel = Dial::new(b.world.net.clone()).connect(&b.peer.addr).await.expect("connects");
    let open = async |lane| {
        let hello = Hello {
            cluster: "test".into(),
            protocol: PROTOCOL,
            node: NodeId(1),
            session: SessionId(10),
            target_node: b.peer.node,
            target_session: b.peer.session,
            lane,
            features: Vec::new(),
            credit: 1,
        };
        let frame = PeerFrame { hello: Some(hello.into()), ..PeerFrame::default() };
        let frames = futures::stream::iter([frame]).chain(futures::stream::pending());
        let answer = PeerClient::new(channel.clone()).lane(frames).await.expect("answers");
        let mut lane = answer.into_inner();
        let hello = lane.message().await.expect("reads").expect("a frame").hello.expect("a hello");
        assert_eq!(hello.refused, None);
        lane
    };
    let ends = async |lane: &mut tonic::Streaming<PeerFrame>| while let Ok(Some(_)) = lane.message().await {};
    let (_control, mut first, mut other) = (open(0).await, open(1).await, open(2).await);
    let mut second = open(1).await;
    tokio::time::timeout(LIMIT, ends(&mut first)).await.expect("the first one ends");
    for lane in [&mut second, &mut other] {
        assert!(futures::poll!(std::pin::pin!(ends(lane))).is_pending(), "it goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_another_incarnation_behind_the_same_address_is_not_reached() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let old = PeerId { session: SessionId(19), ..b.peer.clone() };
    let refused = kind(a.transport.call(&old, a.envelope(1, 0, "x")).await);
    assert!(
        matches!(&refused, ErrorKind::Unavailable { what } if what.contains("s19 is not here")),
        "{refused:?}"
    );
    let stranger = PeerId { node: NodeId(5), ..b.peer.clone() };
    let refused = kind(a.transport.call(&stranger, a.envelope(1, 0, "x")).await);
    assert!(
        matches!(&refused, ErrorKind::Unavailable { what } if what.contains("expected n5, got n2")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_pending_limit_are_overloaded() {
    let (a, b) = (node(1, |c| c.pending_per_peer = 3).await, node(2, |_| {}).await);
    let parked: Vec<_> = (0..3).map(|n| a.transport.call(&b.peer, a.envelope(n, 1, "parked"))).collect();
    let more = async {
        until_async("three turns have started", async || b.echo.started.load(Ordering::SeqCst) == 3, LIMIT)
            .await;
        let refused = kind(a.transport.call(&b.peer, a.envelope(9, 0, "x")).await);
        assert!(matches!(refused, ErrorKind::Overloaded { .. }), "{refused:?}");
        assert_eq!(refused.ran(), Ran::No);
        b.echo.gate.notify_waiters();
    };
    let (outcomes, ()) = tokio::join!(futures::future::join_all(parked), more);
    assert!(outcomes.iter().all(Result::is_ok));
    a.transport.call(&b.peer, a.envelope(9, 0, "x")).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_too_large_and_one_at_the_limit_goes_through() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let refused = kind(a.transport.call(&b.peer, a.envelope(1, 0, vec![0; limits::MESSAGE_BYTES + 1])).await);
    assert!(matches!(refused, ErrorKind::TooLarge { limit: limits::MESSAGE_BYTES, .. }), "{refused:?}");
    let full = vec![7; limits::MESSAGE_BYTES];
    assert_eq!(a.transport.call(&b.peer, a.envelope(1, 0, full.clone())).await, Ok(Bytes::from(full)));
}

#[tokio::test(flavor = "multi_thread")]
async fn r15_a_deadline_already_past_is_not_sent_and_one_that_comes_ends_the_call() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let past = kind(a.transport.call(&b.peer, a.call_in(1, 0, "x", Duration::ZERO)).await);
    assert!(matches!(past, ErrorKind::DeadlineExceeded { .. }), "{past:?}");
    a.transport.call(&b.peer, a.envelope(1, 0, "x")).await.expect("answered");
    let start = Instant::now();
    let late = kind(a.transport.call(&b.peer, a.call_in(1, 1, "parked", Duration::from_millis(200))).await);
    assert!(matches!(late, ErrorKind::Unknown { .. }), "{late:?}");
    assert!(start.elapsed() < Duration::from_secs(2));
    // The receiver's deadline, on its own clock, was not later than the sender's.
    let seen = b.echo.seen.lock();
    let (parked, _) = seen.last().expect("it arrived");
    assert!(parked.deadline <= b.world.clock.boottime());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_taken_port_names_the_setting() {
    let b = node(2, |_| {}).await;
    let Err(e) = listen::bind(&*b.world.net, "node.peer_listen", &b.peer.addr).await else {
        panic!("the port is taken")
    };
    let text = e.to_string();
    assert!(text.contains("node.peer_listen") && text.contains(&b.peer.addr), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_a_farewell_waits_for_every_answer_and_turns_new_calls_away_unsent() {
    let (a, b) = (node(1, |_| {}).await, node(2, |_| {}).await);
    let (sender, to, call) = (a.transport.clone(), b.peer.clone(), a.envelope(1, 1, "slow"));
    let slow = tokio::spawn(async move { sender.call(&to, call).await });
    until_async("the slow call runs", async || b.echo.started.load(Ordering::SeqCst) == 1, LIMIT).await;
    let leaver = b.transport.clone();
    let parting = tokio::spawn(async move { leaver.farewell().await });
    // Until the farewell has arrived, calls go through.
    let limit = Instant::now() + LIMIT;
    let refused = loop {
        match a.transport.call(&b.peer, a.envelope(1, 0, "new")).await {
            Ok(_) => assert!(Instant::now() < limit, "calls still go through"),
            Err(CallError::Platform(e)) => break e,
            Err(other) => panic!("{other:?}"),
        }
    };
    let elsewhere = ErrorKind::Moved { holder: None, node: None, grant: None };
    assert_eq!(*refused.kind(), elsewhere, "not sent; the directory asks who holds it now");
    assert!(!parting.is_finished(), "one answer is missing");
    b.echo.gate.notify_one();
    assert_eq!(slow.await.expect("runs"), Ok(Bytes::from("slow")));
    tokio::time::timeout(LIMIT, parting).await.expect("then the peer lets go").expect("runs");
}

/// A listener that answers every call twice, and one that nobody made; its credit has no end.
struct Liar;

type Frames = std::pin::Pin<
    Box<dyn futures::Stream<Item = Result<millet_proto::wire::PeerFrame, tonic::Status>> + Send>,
>;

#[tonic::async_trait]
impl millet_proto::wire::peer_server::Peer for Liar {
    type LaneStream = Frames;

    async fn lane(
        &self,
        request: tonic::Request<tonic::Streaming<millet_proto::wire::PeerFrame>>,
    ) -> Result<tonic::Response<Frames>, tonic::Status> {
        use millet_proto::wire::{CallReply, Outcome, PeerFrame, Ping, Pong, outcome::Kind};
        let mut incoming = request.into_inner();
        let mut hello = incoming.message().await?.and_then(|f| f.hello).expect("a hello");
        (hello.credit, hello.target_session, hello.session) = (u32::MAX, hello.session, hello.target_session);
        let pings = if hello.lane == 0 { vec![Ping { nonce: 1 }] } else { Vec::new() };
        let greeting = PeerFrame { hello: Some(hello), pings, ..PeerFrame::default() };
        let answers = futures::stream::unfold((incoming, Some(greeting)), |(mut incoming, first)| async {
            if let Some(first) = first {
                return Some((Ok(first), (incoming, None)));
            }
            let frame = incoming.message().await.ok()??;
            let reply = |id| CallReply { id, outcome: Some(Outcome { kind: Some(Kind::Ok(Bytes::new())) }) };
            let replies =
                frame.calls.iter().flat_map(|c| [reply(c.id + 1000), reply(c.id), reply(c.id)]).collect();
            let pongs = frame.pings.iter().map(|p| Pong { nonce: p.nonce, now_ms: 1 }).collect();
            let answer = PeerFrame { replies, pongs, credit: u32::MAX, ..PeerFrame::default() };
            Some((Ok(answer), (incoming, None)))
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_waits_for_are_dropped_and_counted() {
    let a = node(1, |_| {}).await;
    let (listener, addr) = listen::bind(&*a.world.net, "test", "127.0.0.1:0").await.expect("a free port");
    let service = millet_proto::wire::peer_server::PeerServer::new(Liar);
    let stop = CancellationToken::new();
    let router = listen::inner_server().add_service(service);
    let serving = listen::serve("peer", router, listener, stop.clone().cancelled_owned(), Duration::ZERO);
    tokio::spawn(serving);
    let liar = PeerId { node: NodeId(2), session: SessionId(20), addr: addr.to_string() };
    for n in 1..=3 {
        assert_eq!(a.transport.call(&liar, a.envelope(1, 0, "x")).await, Ok(Bytes::new()));
        let dropped = async || a.transport.counters().late_replies.load(Ordering::SeqCst) == 2 * n;
        until_async("the surplus is counted", dropped, LIMIT).await;
    }
    stop.cancel();
}
