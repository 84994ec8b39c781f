//! The models, explored to their bounds; and each rule switched off, which must be seen.

mod grain;
mod shard;
mod store;
mod timed;
