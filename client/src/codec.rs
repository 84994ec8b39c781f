//! How arguments and results become bytes and back: protobuf for contract-first interfaces, MessagePack
//! with named fields for Rust-first ones. Generated code calls these functions, hosts and callers alike.
//!
//! An error that a receiver finds in arguments is `BadArgument` (nothing ran); one found in a result is
//! `Unknown` (the turn may have run).

use std::{convert::Infallible, marker::PhantomData};

use bytes::Bytes;
use millet_core::{
    AppError, CallError, ErrorKind, MethodId, MethodInfo, Outcome, PlatformError, Refusal, limits,
};
use serde::{Serialize, de::DeserializeOwned};

/// What may travel as an argument, result or error of a Rust-first method.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between nodes",
    note = "add #[derive(serde::Serialize, serde::Deserialize)] to it"
)]
pub trait Wire: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Wire for T {}

/// Protobuf arguments to bytes.
///
/// # Errors
/// `TooLarge` over [`limits::MESSAGE_BYTES`].
pub fn encode_message<T: prost::Message>(args: &T, place: &str) -> Result<Bytes, ErrorKind> {
    let bytes = args.encoded_len();
    if bytes > limits::MESSAGE_BYTES {
        return Err(too_large("arguments", bytes, place));
    }
    Ok(args.encode_to_vec().into())
}

/// Protobuf arguments from bytes.
///
/// # Errors
/// `BadArgument` with the message and field that prost names.
pub fn decode_message<T: prost::Message + Default>(args: Bytes, place: &str) -> Result<T, ErrorKind> {
    T::decode(args).map_err(|e| ErrorKind::BadArgument { why: format!("{place}: {e}") })
}

/// The outcome of a contract-first method.
pub fn encode_message_result<T: prost::Message>(result: Result<T, Refusal>, place: &str) -> Outcome {
    match result {
        Ok(v) if v.encoded_len() > limits::MESSAGE_BYTES => {
            Err(unsent(too_large("result", v.encoded_len(), place)))
        }
        Ok(v) => Ok(v.encode_to_vec().into()),
        Err(refusal) => Err(CallError::App(AppError::Refusal(refusal))),
    }
}

/// The result of a contract-first method.
///
/// # Errors
/// The refusal, the platform's error, or `Unknown` where the bytes cannot be read.
pub fn decode_message_result<T: prost::Message + Default>(
    outcome: Outcome,
    place: &str,
) -> Result<T, CallError<Refusal>> {
    match outcome {
        Ok(bytes) => T::decode(bytes).map_err(|e| unreadable(place, &e)),
        Err(CallError::App(AppError::Refusal(r))) => Err(CallError::App(r)),
        Err(CallError::App(AppError::Encoded(_))) => {
            Err(unreadable(place, &"a Rust-first error; the grain is of another version"))
        }
        Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
    }
}

/// A value as MessagePack with named fields.
///
/// # Errors
/// `TooLarge` over [`limits::MESSAGE_BYTES`]; `BadArgument` if the type's `Serialize` fails.
pub fn encode_named<T: Serialize>(value: &T, place: &str) -> Result<Bytes, ErrorKind> {
    let bytes = rmp_serde::to_vec_named(value)
        .map_err(|e| ErrorKind::BadArgument { why: format!("{place}: cannot be encoded: {e}") })?;
    if bytes.len() > limits::MESSAGE_BYTES {
        return Err(too_large("arguments", bytes.len(), place));
    }
    Ok(bytes.into())
}

/// A value from MessagePack with named fields.
///
/// # Errors
/// `BadArgument` with the path of the field.
pub fn decode_named<T: DeserializeOwned>(bytes: &[u8], place: &str) -> Result<T, ErrorKind> {
    rmp_serde::from_slice(bytes)
        .map_err(|e| ErrorKind::BadArgument { why: format!("{place}: {}", locate::<T>(bytes, &e)) })
}

/// The error with its path: only failures pay for finding it.
fn locate<T: DeserializeOwned>(bytes: &[u8], plain: &rmp_serde::decode::Error) -> String {
    let mut de = rmp_serde::Deserializer::from_read_ref(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut de) {
        Err(e) if e.path().iter().len() > 0 => format!("field {}: {}", e.path(), e.inner()),
        Err(_) | Ok(_) => plain.to_string(),
    }
}

/// The outcome of a Rust-first method that may fail.
pub fn encode_named_result<T: Wire, E: Wire>(result: Result<T, E>, place: &str) -> Outcome {
    match result {
        Ok(v) => encode_named(&v, place).map_err(unsent),
        Err(e) => match encode_named(&e, place) {
            Ok(bytes) => Err(CallError::App(AppError::Encoded(bytes))),
            Err(kind) => Err(unsent(kind)),
        },
    }
}

/// The result of a Rust-first method that may fail.
///
/// # Errors
/// The method's, the platform's, or `Unknown` where the bytes cannot be read.
pub fn decode_named_result<T: Wire, E: Wire>(outcome: Outcome, place: &str) -> Result<T, CallError<E>> {
    match outcome {
        Ok(bytes) => rmp_serde::from_slice(&bytes).map_err(|e| unreadable(place, &e)),
        Err(CallError::App(AppError::Encoded(bytes))) => {
            Err(rmp_serde::from_slice(&bytes).map_or_else(|e| unreadable(place, &e), CallError::App))
        }
        Err(CallError::App(AppError::Refusal(r))) => Err(unreadable(place, &r)),
        Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
    }
}

/// The outcome of a Rust-first method that cannot fail.
pub fn encode_named_value<T: Wire>(result: Result<T, Infallible>, place: &str) -> Outcome {
    match result {
        Ok(v) => encode_named(&v, place).map_err(unsent),
        Err(never) => match never {},
    }
}

/// The result of a Rust-first method that cannot fail.
///
/// # Errors
/// The platform's, or `Unknown` where the bytes cannot be read.
pub fn decode_named_value<T: Wire>(outcome: Outcome, place: &str) -> Result<T, CallError<Infallible>> {
    match outcome {
        Ok(bytes) => rmp_serde::from_slice(&bytes).map_err(|e| unreadable(place, &e)),
        Err(CallError::App(e)) => Err(unreadable(place, &e)),
        Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
    }
}

/// The error for a method id that an interface does not have.
pub fn no_such_method(interface: &str, method: MethodId, known: &[MethodInfo]) -> ErrorKind {
    let known: Vec<&str> = known.iter().map(|m| m.name).collect();
    ErrorKind::NoSuchMethod {
        method: format!("{:#010x} on {interface}; known: {}", method.0, known.join(", ")),
    }
}

fn too_large(what: &str, bytes: usize, place: &str) -> ErrorKind {
    ErrorKind::TooLarge { what: format!("{what} of {bytes} bytes ({place})"), limit: limits::MESSAGE_BYTES }
}

/// The turn ran, but its result cannot be sent: the caller must not take this for "did not run".
fn unsent<E>(kind: ErrorKind) -> CallError<E> {
    CallError::Platform(PlatformError::new(ErrorKind::Unknown {
        why: format!("the turn ran, but its result cannot be sent: {kind}"),
    }))
}

fn unreadable<E>(place: &str, why: &dyn std::fmt::Display) -> CallError<E> {
    CallError::Platform(PlatformError::new(ErrorKind::Unknown {
        why: format!("{place}: the answer cannot be read: {why}"),
    }))
}

/// A field that was not sent. With both traits in scope, `(&Missing::<T>::new(place)).missing(field)` is the
/// default of a type that has one, and an error for one that has not (method resolution tries the first
/// before the second).
pub struct Missing<'a, T>(&'a str, PhantomData<T>);

impl<'a, T> Missing<'a, T> {
    /// A missing field of the method `place`.
    pub fn new(place: &'a str) -> Self {
        Self(place, PhantomData)
    }
}

/// See [`Missing`].
pub trait MissingDefault<T> {
    /// The default.
    ///
    /// # Errors
    /// None.
    fn missing(&self, field: &str) -> Result<T, ErrorKind>;
}
impl<T: Default> MissingDefault<T> for Missing<'_, T> {
    fn missing(&self, _: &str) -> Result<T, ErrorKind> {
        Ok(T::default())
    }
}

/// See [`Missing`].
pub trait MissingRequired<T> {
    /// An error that names the field.
    ///
    /// # Errors
    /// Always.
    fn missing(&self, field: &str) -> Result<T, ErrorKind>;
}
impl<T> MissingRequired<T> for &Missing<'_, T> {
    fn missing(&self, field: &str) -> Result<T, ErrorKind> {
        Err(ErrorKind::BadArgument {
            why: format!("{}: field {field} is missing, and its type has no default", self.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[expect(clippy::needless_borrow, reason = "the borrow is what chooses between the two traits")]
    #[test]
    fn a_missing_field_is_its_default_or_an_error_that_names_it() {
        assert_eq!((&Missing::<u64>::new("T.m")).missing("gold"), Ok(0));
        let error = (&Missing::<NonZeroU32>::new("T.m")).missing("level").expect_err("no default");
        assert_eq!(
            error.to_string(),
            "bad argument: T.m: field level is missing, and its type has no default"
        );
    }

    #[derive(serde::Serialize, serde::Deserialize, Debug)]
    struct Outer {
        inner: Inner,
    }
    #[derive(serde::Serialize, serde::Deserialize, Debug)]
    struct Inner {
        gold: u64,
    }

    #[test]
    fn a_bad_field_is_named_by_its_path() {
        #[derive(serde::Serialize)]
        struct Other {
            inner: std::collections::BTreeMap<&'static str, &'static str>,
        }
        let bytes = encode_named(&Other { inner: [("gold", "lots")].into() }, "T.m").expect("small");
        let error = decode_named::<Outer>(&bytes, "T.m").expect_err("a string is no number").to_string();
        assert!(error.contains("T.m: field inner.gold"), "{error}");
    }

    #[test]
    fn a_result_that_cannot_be_sent_is_unknown_never_not_run() {
        let outcome = encode_named_value(Ok(vec![7u32; limits::MESSAGE_BYTES]), "T.m");
        let Err(CallError::Platform(p)) = outcome else { panic!("too large") };
        assert_eq!(p.ran(), millet_core::Ran::Unknown);
    }
}
