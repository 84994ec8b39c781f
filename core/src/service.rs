//! What code generation says about a grain interface, for callers: its name, its methods, and how
//! arguments and results are encoded. What hosting one needs beyond this is `runtime`'s.

use bytes::Bytes;

use crate::{CallError, ErrorKind, KeyKind, MethodId, Outcome};

/// A grain interface; implemented by one generated marker type per service.
pub trait Service: Sized + Send + Sync + 'static {
    /// The declared grain type name, such as `realm.Player`: never the Rust path.
    const NAME: &'static str;
    /// The kind of key its grains have.
    const KEYS: KeyKind;
    /// Every method, in order of declaration.
    const METHODS: &'static [MethodInfo];
    /// Contract-first interfaces: the protobuf `FileDescriptorSet` (with imports) that holds the service
    /// [`Service::NAME`]. `None`: Rust-first, arguments and results are named-field MessagePack.
    const DESCRIPTORS: Option<&'static [u8]> = None;
    /// Rust-first interfaces: the argument names of each method, as [`Service::METHODS`] has them, so that
    /// callers by name are told of a field that does not exist.
    const ARGUMENTS: &'static [&'static [&'static str]] = &[];
}

/// What is known of an interface without its types: for the gateway's registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceInfo {
    /// [`Service::NAME`].
    pub name: &'static str,
    /// [`Service::KEYS`].
    pub keys: KeyKind,
    /// [`Service::METHODS`].
    pub methods: &'static [MethodInfo],
    /// [`Service::DESCRIPTORS`].
    pub descriptors: Option<&'static [u8]>,
    /// [`Service::ARGUMENTS`].
    pub arguments: &'static [&'static [&'static str]],
}

impl ServiceInfo {
    /// The facts of `S`.
    pub const fn of<S: Service>() -> Self {
        Self {
            name: S::NAME,
            keys: S::KEYS,
            methods: S::METHODS,
            descriptors: S::DESCRIPTORS,
            arguments: S::ARGUMENTS,
        }
    }
}

/// What is known of a method without its types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MethodInfo {
    /// As declared: `AddGold` (contract-first), `add_gold` (Rust-first).
    pub name: &'static str,
    /// `MethodId::of(name)`.
    pub id: MethodId,
    /// A `&self` method: overlaps with other shared turns, changes nothing.
    pub shared: bool,
    /// May be repeated after an unknown outcome. Shared methods are.
    pub idempotent: bool,
}

/// One method; implemented by one generated zero-size type per method.
pub trait Method: Sized + Send + Sync + 'static {
    /// The interface it belongs to.
    type Service: Service;
    /// Its arguments.
    type Args: Send + 'static;
    /// What it returns when it succeeds.
    type Res: Send + 'static;
    /// The application's error: `Refusal` (contract-first), the method's own (Rust-first), or
    /// `std::convert::Infallible`.
    type Error: Send + 'static;
    /// Name, id and marks.
    const INFO: MethodInfo;

    /// Arguments to wire form; `TooLarge` over the limit.
    fn encode_args(args: &Self::Args) -> Result<Bytes, ErrorKind>;
    /// Arguments from wire form; `BadArgument` names the field.
    fn decode_args(args: Bytes) -> Result<Self::Args, ErrorKind>;
    /// Result to wire form.
    fn encode_result(result: Result<Self::Res, Self::Error>) -> Outcome;
    /// Result from wire form.
    fn decode_result(outcome: Outcome) -> Result<Self::Res, CallError<Self::Error>>;
}
