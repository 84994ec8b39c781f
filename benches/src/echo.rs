//! A grain that gives back what it is given, contract first: its bytes travel as one field, not as numbers.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use millet::prelude::*;

use crate::drive::Target;
use pb::{Blob, Echo, EchoGrain};

mod pb {
    //! What is generated from `proto/echo.proto`.
    #![allow(missing_docs, reason = "generated")]
    millet::include_grains!("bench");
}

/// How many shards it has: one node hosts it all.
const SHARDS: u32 = 16;

/// The grain.
pub struct Echoing;

impl Grain for Echoing {
    type Service = Echo;

    fn options() -> GrainOptions {
        GrainOptions::sharded(SHARDS)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self
    }
}

impl EchoGrain for Echoing {
    async fn back(&mut self, _: &Ctx<Self>, blob: Blob) -> Result<Blob, Refusal> {
        Ok(blob)
    }
}

/// Echoes by key, each ask with the same bytes; answers how many came back.
#[derive(Clone)]
pub struct Echoes {
    node: Arc<Node>,
    data: Bytes,
}

impl Echoes {
    /// So many bytes an ask, no two neighbours alike.
    pub fn of(node: Arc<Node>, bytes: u64) -> Self {
        Self { node, data: (0..bytes).map(|n| (n % 251) as u8).collect() }
    }

    /// Asks once and looks at every byte that comes back.
    pub async fn checked(&self, key: u64) -> Result<()> {
        let blob = Blob { data: self.data.clone() };
        let back = self.node.get::<Echo>(Key::Int(key)).back(blob).await?;
        ensure!(back.data == self.data, "echo {key} gave back other bytes");
        Ok(())
    }
}

impl Target for Echoes {
    async fn ask(&self, key: u64, _: u64) -> Result<u64> {
        let blob = Blob { data: self.data.clone() };
        let back = self.node.get::<Echo>(Key::Int(key)).back(blob).await?;
        ensure!(back.data.len() == self.data.len(), "echo {key} gave back {} bytes", back.data.len());
        Ok(u64::try_from(back.data.len())?)
    }
}
