//! Callers outside the cluster: typed and by name, over gRPC; and the codecs that generated code calls.

pub mod codec;
