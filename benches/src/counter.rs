//! The smallest grain worth measuring: integer key, one 8-byte value, one method. Written out by hand
//! what code generation would emit, so that the figure holds no convenience of the generator's.

use std::convert::Infallible;

use bytes::Bytes;
use millet_core::{
    CallError, ErrorKind, KeyKind, Method, MethodId, MethodInfo, Outcome, PlatformError, Service,
};
use millet_runtime::{
    Create, Ctx, Dispatch, Grain, GrainOptions, GrainRef, Hosted, HostedMethod, Reply, WireReply,
};

/// The grain.
pub struct Count(u64);

impl Grain for Count {
    type Service = Counter;

    fn options() -> GrainOptions {
        GrainOptions::sharded(1)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self(0)
    }
}

/// The service.
pub struct Counter;

impl Service for Counter {
    const NAME: &'static str = "bench.Counter";
    const KEYS: KeyKind = KeyKind::Int;
    const METHODS: &'static [MethodInfo] = &[Add::INFO];
}

/// Its method: adds and returns the sum.
pub struct Add;

impl Method for Add {
    type Service = Counter;
    type Args = u64;
    type Res = u64;
    type Error = Infallible;
    const INFO: MethodInfo =
        MethodInfo { name: "add", id: MethodId::of("add"), shared: false, idempotent: false };

    fn encode_args(args: &u64) -> Result<Bytes, ErrorKind> {
        Ok(Bytes::copy_from_slice(&args.to_le_bytes()))
    }

    fn decode_args(args: Bytes) -> Result<u64, ErrorKind> {
        number(&args)
    }

    fn encode_result(result: Result<u64, Infallible>) -> Outcome {
        let Ok(sum) = result;
        Ok(Bytes::copy_from_slice(&sum.to_le_bytes()))
    }

    fn decode_result(outcome: Outcome) -> Result<u64, CallError<Infallible>> {
        match outcome {
            Ok(bytes) => number(&bytes).map_err(|kind| PlatformError::new(kind).into()),
            Err(CallError::Platform(error)) => Err(error.into()),
            Err(CallError::App(error)) => {
                let why = format!("a method without errors answered with {error}");
                Err(PlatformError::new(ErrorKind::BadArgument { why }).into())
            }
        }
    }
}

fn number(bytes: &[u8]) -> Result<u64, ErrorKind> {
    let why = || ErrorKind::BadArgument { why: format!("{} bytes where 8 were expected", bytes.len()) };
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| why())
}

/// The mailbox's message.
pub enum Message {
    /// Calls [`Add`].
    Add(u64, Reply<Add>),
}

impl Hosted for Counter {
    type Msg = Message;
    type Ref = GrainRef<Self>;

    fn decode(method: MethodId, args: Bytes, reply: WireReply) -> Result<Message, (ErrorKind, WireReply)> {
        if method != Add::INFO.id {
            return Err((ErrorKind::NoSuchMethod { method: format!("{}.{method:?}", Self::NAME) }, reply));
        }
        match Add::decode_args(args) {
            Ok(by) => Ok(Message::Add(by, Reply::wire(reply))),
            Err(kind) => Err((kind, reply)),
        }
    }

    fn info(msg: &Message) -> &'static MethodInfo {
        match msg {
            Message::Add(..) => &Counter::METHODS[0],
        }
    }

    fn reject(msg: Message, error: PlatformError) {
        match msg {
            Message::Add(_, reply) => reply.send(Err(error.into())),
        }
    }
}

impl HostedMethod for Add {
    fn into_msg(args: u64, reply: Reply<Self>) -> Message {
        Message::Add(args, reply)
    }

    fn from_msg(msg: Message) -> Result<(u64, Reply<Self>), Message> {
        let Message::Add(by, reply) = msg;
        Ok((by, reply))
    }
}

impl Dispatch<Count> for Counter {
    async fn write(g: &mut Count, ctx: &Ctx<Count>, msg: Message) {
        let Message::Add(by, reply) = msg;
        g.0 += by;
        let sum = g.0;
        ctx.complete(g, reply, Ok(sum)).await;
    }

    async fn read(_: &Count, _: &Ctx<Count>, msg: Message) {
        Self::reject(
            msg,
            ErrorKind::NoSuchMethod { method: "bench.Counter has no shared method".into() }.into(),
        );
    }
}
