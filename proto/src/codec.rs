//! The codec of every Millet service: prost's, with a bound on what a request may unfold to. An element
//! of a repeated field takes two bytes on the wire and hundreds in memory, so that a limit in bytes alone
//! lets one frame of 8 MiB take a gigabyte.

use std::marker::PhantomData;

use prost::{
    Message, Name,
    bytes::Buf as _,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder as Decodes},
};
use tonic_prost::{ProstCodec, ProstEncoder};

/// Elements of repeated fields in one request, at any depth. A frame between nodes holds at most 1,024
/// calls with 32 frames of a chain and 16 entries of context each; a batch has 512 operations. An
/// element takes up to 300 bytes, so that a frame unfolds to 20 MB at most.
pub const ELEMENTS: usize = 65_536;
/// Shorter requests are not looked at: they unfold to less than that.
const UNSEEN_BYTES: usize = 32 * 1024;

/// What repeats in a message.
struct Shape {
    name: &'static str,
    /// Something that a caller sends. Answers come from whom we asked, and a resync is long.
    request: bool,
    fields: &'static [Field],
}

struct Field {
    number: u32,
    repeated: bool,
    /// Numbers: many in one value, one a byte.
    packs: bool,
    /// Which of [`SHAPES`] it holds.
    message: Option<usize>,
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

fn shape_of<M: Name>() -> Option<&'static Shape> {
    SHAPES.iter().find(|s| s.name.strip_prefix(M::PACKAGE).and_then(|n| n.strip_prefix('.')) == Some(M::NAME))
}

/// More than [`ELEMENTS`].
struct TooMany;

/// Counts the elements in `bytes` against `left`. What cannot be read is not counted: prost stops there.
fn count(shape: &Shape, mut bytes: &[u8], left: &mut usize) -> Result<(), TooMany> {
    let mut groups = 0usize;
    while let Ok((number, wire)) = decode_key(&mut bytes) {
        let skip = match wire {
            WireType::Varint => match decode_varint(&mut bytes) {
                Ok(_) => 0,
                Err(_) => return Ok(()),
            },
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup => {
                groups += 1;
                0
            }
            WireType::EndGroup => {
                groups = groups.saturating_sub(1);
                0
            }
            WireType::LengthDelimited => match decode_varint(&mut bytes) {
                Ok(n) => usize::try_from(n).unwrap_or(usize::MAX),
                Err(_) => return Ok(()),
            },
        };
        let Some((value, rest)) = bytes.split_at_checked(skip) else { return Ok(()) };
        bytes = rest;
        let field = shape.fields.iter().find(|f| f.number == number && groups == 0);
        let whole = wire == WireType::LengthDelimited;
        let Some(field) = field.filter(|f| whole || f.packs) else { continue };
        if field.repeated {
            let elements = if field.packs && whole { value.len() } else { 1 };
            *left = left.checked_sub(elements).ok_or(TooMany)?;
        }
        if let Some(inner) = field.message {
            count(&SHAPES[inner], value, left)?;
        }
    }
    Ok(())
}

/// A request of type `M` from its bytes.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is none, `RESOURCE_EXHAUSTED` for one of more than [`ELEMENTS`] elements.
pub fn decode<M: Message + Default + Name>(bytes: &[u8]) -> Result<M, Status> {
    check::<M>(bytes)?;
    M::decode(bytes).map_err(|e| malformed::<M>(&e))
}

fn check<M: Name>(bytes: &[u8]) -> Result<(), Status> {
    if bytes.len() <= UNSEEN_BYTES {
        return Ok(());
    }
    let Some(shape) = shape_of::<M>().filter(|s| s.request) else { return Ok(()) };
    count(shape, bytes, &mut ELEMENTS.clone()).map_err(|TooMany| {
        let text = format!("a {} of more than {ELEMENTS} elements; send less at a time", M::NAME);
        Status::resource_exhausted(text)
    })
}

/// The caller's fault in a request, the listener's in an answer.
fn malformed<M: Name>(e: &prost::DecodeError) -> Status {
    let request = shape_of::<M>().is_some_and(|s| s.request);
    if request { Status::invalid_argument(e.to_string()) } else { Status::internal(e.to_string()) }
}

/// The codec; named by generated code.
#[derive(Clone, Debug)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Name + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }
    fn decoder(&mut self) -> Self::Decoder {
        Decoder(PhantomData)
    }
}

/// See [`Bounded`].
#[derive(Clone, Debug)]
pub struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default + Name> Decodes for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic gathers a whole message in one piece.
        debug_assert_eq!(buf.chunk().len(), buf.remaining());
        check::<U>(buf.chunk())?;
        U::decode(buf).map(Some).map_err(|e| malformed::<U>(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Call, ChainFrame, MetaBatchRequest, MetaOp, PeerFrame, WatchResponse};

    fn refused<M: Message + Default + Name>(message: &M) -> bool {
        let result = decode::<M>(&message.encode_to_vec());
        let status = result.err();
        assert!(status.as_ref().is_none_or(|s| s.code() == tonic::Code::ResourceExhausted), "{status:?}");
        status.is_some()
    }

    #[test]
    fn elements_are_counted_at_every_depth() {
        let calls = |n| PeerFrame { calls: vec![Call::default(); n], ..PeerFrame::default() };
        assert!(!refused(&calls(ELEMENTS)) && refused(&calls(ELEMENTS + 1)));
        let chain = |n| vec![ChainFrame::default(); n];
        let nested = |n| PeerFrame {
            calls: vec![Call { chain: chain(n), ..Call::default() }; 2],
            ..PeerFrame::default()
        };
        assert!(!refused(&nested(ELEMENTS / 2 - 1)) && refused(&nested(ELEMENTS / 2)));
        let ops = |n| MetaBatchRequest { ops: vec![MetaOp::default(); n], ..Default::default() };
        assert!(!refused(&ops(ELEMENTS)) && refused(&ops(ELEMENTS + 1)));
    }

    /// Groups hide nothing: what prost skips is skipped, what follows is counted.
    #[test]
    fn an_unknown_group_in_front_hides_nothing() {
        let calls = PeerFrame { calls: vec![Call::default(); ELEMENTS + 1], ..PeerFrame::default() };
        // Field 15, a group with a varint in it.
        let bytes = [&[0x7b, 0x08, 1, 0x7c][..], &calls.encode_to_vec()].concat();
        assert!(decode::<PeerFrame>(&bytes).is_err());
    }

    /// Found by reading for the fuzz targets: numbers were not counted, eight bytes of memory for one sent.
    #[test]
    fn packed_numbers_are_elements_too() {
        use crate::wire::{
            GroupStepRequest,
            group_step_request::{Step, Transfer},
        };
        let step = |n: usize| GroupStepRequest {
            step: Some(Step::Transfer(Transfer { to: 1, avoid: vec![1; n] })),
            ..Default::default()
        };
        assert!(!refused(&step(ELEMENTS)) && refused(&step(ELEMENTS + 1)));
        // The same, one by one: field 7 holds field 2, each a varint behind its tag.
        let one_by_one = |n: usize| {
            let inner = [0x10, 1].repeat(n);
            let mut bytes = vec![0x3a];
            prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
            [bytes, inner].concat()
        };
        assert!(decode::<GroupStepRequest>(&one_by_one(ELEMENTS)).is_ok());
        assert!(decode::<GroupStepRequest>(&one_by_one(ELEMENTS + 1)).is_err());
    }

    #[test]
    fn large_arguments_and_long_answers_are_no_elements() {
        let args = vec![7; 4 << 20].into();
        assert!(!refused(&PeerFrame {
            calls: vec![Call { args, ..Call::default() }],
            ..PeerFrame::default()
        }));
        assert!(shape_of::<WatchResponse>().is_some_and(|s| !s.request));
        assert!(["Hello", "Call"].iter().all(|n| SHAPES.iter().any(|s| s.name.ends_with(n))));
    }

    #[test]
    fn malformed_requests_are_the_callers_fault() {
        let status = decode::<PeerFrame>(&[0x0a, 9]).expect_err("cut short");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
