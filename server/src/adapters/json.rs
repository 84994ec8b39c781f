//! Calls by name with JSON, as grains and tools make them: a resource that every node offers.

use std::time::Duration;

use millet_core::CallError;
use millet_gateway::JsonCall;

/// Calls any grain whose interface this node knows, by name and with JSON. Every grain can have it:
/// `c.resource::<JsonCaller>()`.
#[derive(Clone)]
pub struct JsonCaller(pub(crate) millet_gateway::JsonCaller);

impl JsonCaller {
    /// Calls `service`/`key`, `method` as declared, with a JSON object (empty: no arguments); the result
    /// and the grain's own error are JSON. Waits at most `timeout`.
    ///
    /// Cancel safety: dropping the future abandons the reply; a turn that has started runs to its end.
    pub async fn call(
        &self,
        service: &str,
        key: &str,
        method: &str,
        args: &str,
        timeout: Duration,
    ) -> Result<String, CallError<serde_json::Value>> {
        self.0.call(JsonCall { service, key, method, args, timeout }).await
    }
}
