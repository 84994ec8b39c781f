//! A call between nodes, to bytes and back.

use std::{hint::black_box, sync::Arc};

use anyhow::{Result, ensure};
use bytes::Bytes;
use millet_core::{
    BootTime, Chain, Envelope, Epoch, Frame, GrainId, GrainType, Grant, MethodId, RequestId, Sender,
    SessionId,
};
use millet_proto::{
    peer::{call_from_wire, call_to_wire},
    wire,
};
use prost::Message as _;

use super::Count;

/// Both ways.
pub const ENVELOPE: Count = Count {
    name: "envelope",
    work: "one call to bytes and back, checks included: integer key, 8 bytes of arguments, sent by a grain that \
           waits for it, without context",
    run,
};

fn run(ops: u64) -> Result<()> {
    let mut envelope = envelope()?;
    for n in 0..ops {
        envelope.target.key = n.into();
        let bytes: Bytes = call_to_wire(n, black_box(&envelope)).encode_to_vec().into();
        let call = wire::Call::decode(black_box(bytes))?;
        let back = call_from_wire(call, SESSION, envelope.deadline)?;
        ensure!(back.target.key == envelope.target.key, "{} came back for {n}", back.target);
    }
    Ok(())
}

const SESSION: SessionId = SessionId(9);

fn envelope() -> Result<Envelope> {
    let ty = GrainType::new("bench.Counter").map_err(anyhow::Error::msg)?;
    let caller = Frame { grain: GrainId::new(ty.clone(), 1), shared: false };
    let grant = Grant { generation: 1, index: 88 };
    Ok(Envelope {
        target: GrainId::new(ty, 0),
        method: MethodId::of("add"),
        args: Bytes::from_static(&[7; 8]),
        request: RequestId(7 << 64),
        deadline: BootTime(5_000_000_000),
        chain: Chain::default().with(caller),
        sender: Some(Sender { session: SESSION, epoch: Some(Epoch { grant, activation: 3 }) }),
        grant: Some(grant),
        one_way: false,
        context: Arc::default(),
    })
}
