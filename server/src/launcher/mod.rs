//! The launcher, `millet run -- command …`: starts a node as its child and closes the node's session at once
//! when the node is proven dead (rule R18), so that nobody waits for its expiry. A process of its own, which
//! knows nothing but what the child tells it; whatever it does not see for certain is left to the expiry.
//!
//! - `watch`: what may be concluded from what was seen; pure.
//! - `message`: what the child says. Its side is `adapters/launcher`.
//! - `closing`: asks the metadata members.
//! - `process`: the process work. The system's calls are in `world/launch`; Linux only.

#[cfg(target_os = "linux")]
mod closing;
mod message;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod watch;

pub use message::{Registration, Said};
#[cfg(target_os = "linux")]
pub use process::{LaunchError, run};
