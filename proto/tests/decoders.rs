//! Whatever bytes come from outside: decoding and converting them never panics, takes no memory that the
//! bytes do not pay for, and what is accepted comes back the same.

use millet_core::{
    BootTime, Epoch, GrainId, Key, PlatformError, SessionId,
    model::{NodeInfo, OpenSession, OpenedSession, SessionInfo, TypeDecl, Watched},
};
use millet_proto::{codec, common, meta, peer, state, status, wire};
use proptest::prelude::*;
use prost::Message;

/// Bytes that look like protobuf: fields with small numbers, messages in messages, some of it cut short.
fn protobuf() -> impl Strategy<Value = Vec<u8>> {
    let number = any::<u64>().prop_map(|n| varint(n >> (n % 64)));
    let text = prop_oneof!["[a-z.]{0,12}".prop_map(String::into_bytes), any::<Vec<u8>>()];
    let leaf = prop_oneof![
        (1..16u64, number).prop_map(|(f, n)| [varint(f << 3), n].concat()),
        (1..16u64, text).prop_map(|(f, t)| field(f, &t)),
        (1..16u64, any::<[u8; 4]>()).prop_map(|(f, n)| [varint(f << 3 | 5), n.to_vec()].concat()),
        (1..16u64, any::<[u8; 16]>()).prop_map(|(f, n)| field(f, &n)),
        any::<Vec<u8>>(),
    ];
    let message = leaf.prop_recursive(5, 64, 8, |inner| {
        (1..16u64, prop::collection::vec(inner, 0..8)).prop_map(|(f, parts)| field(f, &parts.concat()))
    });
    (prop::collection::vec(message, 0..10), any::<prop::sample::Index>(), 0..8u8).prop_map(
        |(parts, at, cut)| {
            let mut bytes = parts.concat();
            if cut == 0 && !bytes.is_empty() {
                bytes.truncate(at.index(bytes.len()));
            }
            bytes
        },
    )
}

fn field(number: u64, value: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// Decodes `W`, converts it to `D`; what is accepted is the same after another way out and in.
fn there_and_back<W, D>(bytes: &[u8])
where
    W: Message + Default + From<D>,
    D: TryFrom<W> + Clone + PartialEq + std::fmt::Debug,
{
    let Some(domain) = W::decode(bytes).ok().and_then(|w| D::try_from(w).ok()) else { return };
    let again = W::decode(W::from(domain.clone()).encode_to_vec().as_slice()).expect("what we sent");
    let again =
        D::try_from(again).unwrap_or_else(|_| panic!("what we accepted and sent is refused: {domain:?}"));
    assert_eq!(again, domain);
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 3_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn names_and_models(bytes in protobuf()) {
        there_and_back::<wire::Key, Key>(&bytes);
        there_and_back::<wire::GrainId, GrainId>(&bytes);
        there_and_back::<wire::Epoch, Epoch>(&bytes);
        there_and_back::<wire::TypeDecl, TypeDecl>(&bytes);
        there_and_back::<wire::NodeInfo, NodeInfo>(&bytes);
        there_and_back::<wire::SessionRow, SessionInfo>(&bytes);
    }

    #[test]
    fn errors(bytes in protobuf()) {
        // An error's text is made anew, so that only the panic and the kind are looked at.
        if let Some(e) = wire::Error::decode(&*bytes).ok().and_then(|e| PlatformError::try_from(e).ok()) {
            let back = PlatformError::try_from(wire::Error::from(e.clone())).expect("what we sent");
            prop_assert_eq!(back.kind(), e.kind());
        }
    }

    #[test]
    fn calls_and_replies(bytes in protobuf(), session: u64, deadline: u64) {
        if let Ok(call) = wire::Call::decode(&*bytes) {
            let id = call.id;
            if let Ok(e) = peer::call_from_wire(call, SessionId(session), BootTime(deadline)) {
                let again = peer::call_from_wire(peer::call_to_wire(id, &e), SessionId(session), BootTime(deadline));
                prop_assert_eq!(format!("{:?}", again.expect("what we sent")), format!("{:?}", e));
            }
        }
        if let Ok(reply) = wire::CallReply::decode(&*bytes)
            && let Ok((id, outcome)) = peer::reply_from_wire(reply)
        {
            prop_assert!(peer::reply_from_wire(peer::reply_to_wire(id, outcome)).is_ok());
        }
        if let Ok(outcome) = wire::Outcome::decode(&*bytes) {
            drop(common::outcome_from_wire(outcome));
        }
    }

    #[test]
    fn hellos_and_frames(bytes in protobuf()) {
        there_and_back::<wire::Hello, peer::Hello>(&bytes);
        drop(codec::decode::<wire::PeerFrame>(&bytes));
        drop(codec::decode::<wire::RaftMessage>(&bytes));
        drop(codec::decode::<wire::SnapshotChunk>(&bytes));
    }

    #[test]
    fn the_metadata_store(bytes in protobuf()) {
        there_and_back::<wire::MetaOp, meta::Op>(&bytes);
        there_and_back::<wire::MetaOpResult, meta::OpResult>(&bytes);
        there_and_back::<wire::OpenSessionRequest, WithCluster>(&bytes);
        there_and_back::<wire::OpenSessionResponse, OpenedSession>(&bytes);
        there_and_back::<wire::WatchResponse, Watched>(&bytes);
        drop(codec::decode::<wire::MetaBatchRequest>(&bytes));
        drop(codec::decode::<wire::KeepaliveRequest>(&bytes));
    }

    #[test]
    fn the_state_store(bytes in protobuf()) {
        there_and_back::<wire::StateOp, state::Op>(&bytes);
        if let Ok(result) = wire::StateOpResult::decode(&*bytes)
            && let Ok(result) = state::result_from_wire(result)
        {
            let back = state::result_to_wire(result.clone()).map(state::result_from_wire);
            prop_assert!(back.is_none_or(|b| b.is_ok_and(|b| b == result)));
        }
        drop(codec::decode::<wire::StateBatchRequest>(&bytes));
    }

    /// What any gRPC server may put into a status.
    #[test]
    fn statuses(code in 0..20i32, text in ".{0,40}", details: Vec<u8>, names in prop::collection::vec(("[a-z-]{1,12}", "[ -~]{0,20}"), 0..6)) {
        let mut metadata = tonic::metadata::MetadataMap::new();
        let known = ["millet-error-kind", "millet-error-text", "millet-error-grain", "millet-error-number"];
        for (n, (name, value)) in names.into_iter().enumerate() {
            let name = if n < known.len() { known[n].to_owned() } else { name };
            if let (Ok(key), Ok(value)) = (tonic::metadata::AsciiMetadataKey::from_bytes(name.as_bytes()), value.parse()) {
                metadata.insert(key, value);
            }
        }
        let status = tonic::Status::with_details_and_metadata(tonic::Code::from(code), text, details.into(), metadata);
        drop(status::from_status(&status));
    }
}

/// An `OpenSession` is sent with the cluster it is for.
#[derive(Clone, PartialEq, Debug)]
struct WithCluster(OpenSession);

impl TryFrom<wire::OpenSessionRequest> for WithCluster {
    type Error = millet_proto::WireError;
    fn try_from(w: wire::OpenSessionRequest) -> Result<Self, Self::Error> {
        OpenSession::try_from(w).map(Self)
    }
}

impl From<WithCluster> for wire::OpenSessionRequest {
    fn from(w: WithCluster) -> Self {
        w.0.into()
    }
}
