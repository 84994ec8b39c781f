//! Calls any grain by name with JSON: what `gm` and the command line use.

use std::{sync::Arc, time::Duration};

use millet_core::{
    Call, CallError, Caller, Clock, ErrorKind, PlatformError, RequestId, limits, world::Entropy,
};

use crate::{interfaces::Interfaces, json, timeout};

/// A call by name.
#[derive(Clone, Debug)]
pub struct JsonCall<'a> {
    /// The interface, `realm.Player`.
    pub service: &'a str,
    /// The key in text form.
    pub key: &'a str,
    /// The method as declared: `AddGold`, `add_gold`.
    pub method: &'a str,
    /// A JSON object; empty for no arguments.
    pub args: &'a str,
    /// How long the caller waits, at most [`limits::MAX_DEADLINE`].
    pub timeout: Duration,
}

/// Makes calls by name. Cheap to clone.
#[derive(Clone)]
pub struct JsonCaller {
    interfaces: Arc<Interfaces>,
    caller: Arc<dyn Caller>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl JsonCaller {
    /// Calls `interfaces` through `caller`.
    pub fn new(
        interfaces: Arc<Interfaces>,
        caller: Arc<dyn Caller>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { interfaces, caller, clock, entropy }
    }

    /// Makes the call; the result and the grain's own error are JSON.
    ///
    /// # Errors
    /// What `core::error` says; for a grain's own error its JSON.
    ///
    /// Cancel safety: dropping the future abandons the reply; a turn that has started runs to its end.
    pub async fn call(&self, call: JsonCall<'_>) -> Result<String, CallError<serde_json::Value>> {
        let early = |e: ErrorKind| CallError::Platform(PlatformError::new(e));
        let (interface, method) = self.interfaces.by_name(call.service, call.method).map_err(early)?;
        let target = interface.grain(call.key).map_err(early)?;
        let args = method.args_from_json(call.args).map_err(early)?;
        if args.len() > limits::API_MESSAGE_BYTES {
            let what = format!("arguments of {} bytes", args.len());
            return Err(early(ErrorKind::TooLarge { what, limit: limits::API_MESSAGE_BYTES }));
        }
        let wait = timeout::for_call(call.timeout.min(limits::MAX_DEADLINE));
        let outcome = self
            .caller
            .call(Call {
                target,
                method: method.info.id,
                args,
                request: RequestId(self.entropy.next_u128()),
                deadline: self.clock.boottime().after(wait),
                context: Arc::new(Vec::new()),
            })
            .await;
        match outcome {
            Ok(result) => method.result_to_json(&result).map_err(early),
            Err(CallError::App(e)) => Err(CallError::App(json::error_to_json(&e))),
            Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
        }
    }
}
