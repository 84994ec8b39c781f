//! Every message between nodes and members: decoded with the bound of the codec, made into domain values,
//! and sent again.

use std::{fmt::Debug, time::Duration};

use millet_core::{
    AppError, BootTime, CallError, Chain, Envelope, Epoch, ErrorKind, GrainId, GrainType, Grant, Key,
    MethodId, NodeId, PlatformError, Refusal, RequestId, Revision, Sender, SessionId, ShardId,
    model::{
        Change, Keepalive, KeepaliveAnswer, NodeInfo, OpenSession, OpenedSession, SessionInfo, TypeDecl,
        TypeRow, Watched,
    },
    store::{Token, Version},
};
use millet_proto::{codec, common, meta, peer, state, status, wire};
use prost::{Message, Name};

/// What the first byte chooses from.
const FORMS: &[fn(&[u8])] = &[
    frame,
    call,
    reply,
    error,
    outcome_in_a_status,
    state_result,
    same::<wire::Hello, peer::Hello>,
    same::<wire::Key, Key>,
    same::<wire::GrainId, GrainId>,
    same::<wire::Epoch, Epoch>,
    same::<wire::TypeDecl, TypeDecl>,
    same::<wire::NodeInfo, NodeInfo>,
    same::<wire::SessionRow, SessionInfo>,
    same::<wire::TypeRow, TypeRow>,
    same::<wire::Change, Change>,
    same::<wire::WatchResponse, Watched>,
    same::<wire::MetaOp, meta::Op>,
    same::<wire::MetaOpResult, meta::OpResult>,
    same::<wire::OpenSessionRequest, OpenSession>,
    same::<wire::OpenSessionResponse, OpenedSession>,
    same::<wire::KeepaliveRequest, Keepalive>,
    same::<wire::KeepaliveResponse, KeepaliveAnswer>,
    same::<wire::StateOp, state::Op>,
    again::<wire::MetaBatchRequest>,
    again::<wire::MetaBatchResponse>,
    again::<wire::StateBatchRequest>,
    again::<wire::StateBatchResponse>,
    again::<wire::LookupRequest>,
    again::<wire::LookupResponse>,
    again::<wire::WatchRequest>,
    again::<wire::MetaStatusResponse>,
    again::<wire::RaftMessage>,
    again::<wire::SnapshotChunk>,
    again::<wire::InspectResponse>,
    again::<wire::AdoptRequest>,
    again::<wire::InitRequest>,
    again::<wire::MembersStatus>,
    again::<wire::GroupStepRequest>,
    again::<wire::BeginChangeRequest>,
    again::<wire::TransferLeadershipRequest>,
    again::<wire::TransferredLeadership>,
    again::<wire::MemberChanged>,
    again::<wire::BackupHeader>,
    again::<wire::BackupSection>,
];

pub(crate) fn run(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    FORMS[usize::from(*which) % FORMS.len()](bytes);
}

/// A message comes back as it was read.
fn again<W: Message + Name + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = codec::decode::<W>(bytes) {
        let again = codec::decode::<W>(&message.encode_to_vec()).expect("what was read is sent");
        assert!(again == message, "a {} is another one when it is read again", W::NAME);
    }
}

/// A message means something or is refused; what it means is the same when it is sent again.
fn same<W, D>(bytes: &[u8])
where
    W: Message + Name + Default + From<D>,
    D: TryFrom<W> + Clone + PartialEq + Debug,
{
    let Some(value) = codec::decode::<W>(bytes).ok().and_then(|w| D::try_from(w).ok()) else { return };
    let again = codec::decode::<W>(&W::from(value.clone()).encode_to_vec()).expect("what was read is sent");
    let again = D::try_from(again).unwrap_or_else(|_| panic!("what was read is refused: {value:?}"));
    assert_eq!(again, value);
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = codec::decode::<wire::PeerFrame>(bytes) else { return };
    let again = codec::decode::<wire::PeerFrame>(&frame.encode_to_vec());
    assert_eq!(again.as_ref().ok(), Some(&frame));
    frame.calls.into_iter().for_each(same_call);
    frame.replies.into_iter().for_each(same_reply);
    let _ = frame.farewell;
    if let Some(Ok(hello)) = frame.hello.map(peer::Hello::try_from) {
        assert_eq!(peer::Hello::try_from(wire::Hello::from(hello.clone())), Ok(hello));
    }
}

fn call(bytes: &[u8]) {
    if let Ok(call) = codec::decode::<wire::Call>(bytes) {
        same_call(call);
    }
}

fn same_call(call: wire::Call) {
    let (id, at) = (call.id, (SessionId(1), BootTime(2)));
    let Ok(envelope) = peer::call_from_wire(call, at.0, at.1) else { return };
    let again = peer::call_from_wire(peer::call_to_wire(id, &envelope), at.0, at.1);
    let again = again.expect("what was read is sent");
    assert_eq!(format!("{again:?}"), format!("{envelope:?}"));
}

fn reply(bytes: &[u8]) {
    if let Ok(reply) = codec::decode::<wire::CallReply>(bytes) {
        same_reply(reply);
    }
}

fn same_reply(reply: wire::CallReply) {
    let Ok((id, outcome)) = peer::reply_from_wire(reply) else { return };
    let (again, _) = peer::reply_from_wire(peer::reply_to_wire(id, outcome)).expect("what was read is sent");
    assert_eq!(again, id);
}

/// Its text is made anew; the kind stays.
fn error(bytes: &[u8]) {
    let Ok(read) = codec::decode::<wire::Error>(bytes) else { return };
    let Ok(error) = PlatformError::try_from(read) else { return };
    let again = PlatformError::try_from(wire::Error::from(error.clone())).expect("what was read is sent");
    assert_eq!(again.kind(), error.kind());
    in_a_status(CallError::Platform(error));
}

/// As a client finds it in the metadata of a status that any server may have made.
fn outcome_in_a_status(bytes: &[u8]) {
    let mut status = tonic::Status::unknown("somebody's");
    let value = tonic::metadata::MetadataValue::from_bytes(bytes);
    status.metadata_mut().insert_bin(status::OUTCOME, value);
    if let Some(error) = status::from_status(&status) {
        in_a_status(error);
    }
    if let Ok(outcome) = codec::decode::<wire::Outcome>(bytes) {
        drop(common::outcome_from_wire(outcome));
    }
}

/// Whatever the error is, its status can be sent, and the reader gets an error.
fn in_a_status(error: CallError<AppError>) {
    let status = status::to_status(error, false);
    status.add_header(&mut http::HeaderMap::new()).expect("a status fits into headers");
    assert!(status::from_status(&status).is_some(), "the error is lost in its status");
}

fn state_result(bytes: &[u8]) {
    let Ok(result) = codec::decode::<wire::StateOpResult>(bytes) else { return };
    let Ok(result) = state::result_from_wire(result) else { return };
    let again = state::result_to_wire(result.clone()).expect("every result on the wire has a form");
    assert_eq!(state::result_from_wire(again), Ok(result));
}

fn seed(form: usize, message: &impl Message) -> Vec<u8> {
    let form = u8::try_from(form).expect("few forms");
    [vec![form], message.encode_to_vec()].concat()
}

/// A good message of most forms, numbered as in [`FORMS`].
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ty = GrainType::new("realm.Player").expect("a good name");
    let (grain, session) = (GrainId::new(ty.clone(), 42), SessionId(7));
    let text = GrainId::new(ty.clone(), Key::text("anna").expect("a good key"));
    let grant = Grant { generation: 3, index: 300 };
    let epoch = Epoch { grant, activation: 2 };
    let token = Token { epoch, session };
    let envelope = Envelope {
        target: grain.clone(),
        method: MethodId(5),
        args: vec![1, 2].into(),
        request: RequestId(9),
        deadline: BootTime(10_000_000),
        chain: Chain(Some(vec![millet_core::Frame { grain: text.clone(), shared: true }].into())),
        sender: Some(Sender { session, epoch: Some(epoch) }),
        grant: Some(grant),
        one_way: false,
        context: std::sync::Arc::new(vec![("trace".into(), "1".into())]),
    };
    let call = peer::call_to_wire(1, &envelope);
    let failed =
        PlatformError::new(ErrorKind::Moved { holder: Some(session), node: Some(NodeId(2)), grant: None });
    let failed = CallError::Platform(failed.at(&grain));
    let refused = CallError::App(AppError::Refusal(Refusal::new(9, "closed")));
    let replies = [Ok(vec![7].into()), Err(failed.clone()), Err(refused)];
    let replies: Vec<_> = replies.into_iter().zip(1..).map(|(o, id)| peer::reply_to_wire(id, o)).collect();
    let hello = wire::Hello::from(peer::Hello {
        cluster: "c1".into(),
        protocol: peer::PROTOCOL,
        node: NodeId(1),
        session,
        target_node: NodeId(2),
        target_session: SessionId(8),
        lane: 1,
        features: vec!["one".into()],
        credit: 16,
    });
    let node = wire::NodeInfo {
        id: 1,
        name: "a".into(),
        peer_addr: "a:1".into(),
        api_addr: "a:2".into(),
        types: vec![wire::TypeDecl { r#type: ty.clone().into(), mode: 2, shards: 8, keys: 1 }],
    };
    let row = wire::SessionRow { id: 7, node: Some(node.clone()), state: 2 };
    let shard =
        wire::ShardRow { r#type: ty.clone().into(), shard: 1, session: 7, grant: Some(grant.into()), to: 8 };
    let changes = vec![
        wire::Change { kind: Some(wire::change::Kind::Session(row.clone())) },
        wire::Change { kind: Some(wire::change::Kind::Shard(shard.clone())) },
    ];
    let event = wire::watch_response::Event { revision: 9, changes };
    let resync = wire::watch_response::Resync {
        revision: 9,
        sessions: vec![row.clone()],
        types: vec![],
        shards: vec![shard],
    };
    let watched = |kind| wire::WatchResponse { kind: Some(kind) };
    let move_ = meta::Op::Move { grain: text.clone(), session, grant, to: SessionId(8) };
    let write = state::Op::Write {
        grain: text,
        slot: "profile".into(),
        shard: Some(ShardId(1)),
        token,
        version: Version(4),
        value: Some(vec![1].into()),
    };
    let open = OpenSession {
        incarnation: 5,
        attempt: 1,
        node: NodeInfo::try_from(node.clone()).expect("a good node"),
        ttl: Duration::from_secs(4),
    };
    let keepalive = wire::KeepaliveRequest { session: 7, number: 3, ..Default::default() };
    let step = wire::group_step_request::Transfer { to: 2, avoid: vec![1, 3] };
    let step = wire::GroupStepRequest {
        to: 1,
        step: Some(wire::group_step_request::Step::Transfer(step)),
        ..Default::default()
    };
    let ping = wire::Ping { nonce: 1 };
    let frame = wire::PeerFrame {
        hello: Some(hello.clone()),
        calls: vec![call.clone()],
        replies: replies.clone(),
        pings: vec![ping],
        pongs: vec![wire::Pong { nonce: 1, now_ms: 2 }],
        credit: 1,
        now_ms: 3,
        farewell: 1,
    };
    let mut all = vec![
        seed(0, &frame),
        seed(1, &call),
        seed(4, replies[1].outcome.as_ref().expect("it has one")),
        seed(4, replies[2].outcome.as_ref().expect("it has one")),
        seed(6, &hello),
        seed(8, &wire::GrainId::from(grain)),
        seed(11, &node),
        seed(12, &row),
        seed(15, &watched(wire::watch_response::Kind::Event(event))),
        seed(15, &watched(wire::watch_response::Kind::Resync(resync))),
        seed(15, &watched(wire::watch_response::Kind::Progress(Revision(4).0))),
        seed(16, &wire::MetaOp::from(move_.clone())),
        seed(18, &wire::OpenSessionRequest::from(open)),
        seed(20, &keepalive),
        seed(22, &wire::StateOp::from(write.clone())),
        seed(23, &wire::MetaBatchRequest { ops: vec![move_.into()], ..Default::default() }),
        seed(25, &wire::StateBatchRequest { ops: vec![write.into()], ..Default::default() }),
        seed(
            31,
            &wire::RaftMessage { cluster: "c1".into(), from: 1, to: 2, group: 1, payload: vec![1].into() },
        ),
        seed(37, &step),
    ];
    all.extend(replies.iter().map(|r| seed(2, r)));
    if let CallError::Platform(error) = failed {
        all.push(seed(3, &wire::Error::from(error)));
    }
    all
}
