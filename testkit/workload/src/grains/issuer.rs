//! Issues cluster-wide unique ids from the generator of the node it lives on. Leased and called through
//! every node, two or more of them share a node's generator.

use millet::prelude::*;
use millet_oracle::history::Served;
use serde::{Deserialize, Serialize};

use crate::host::{Host, served};

/// Ids in one answer.
pub const AT_ONCE: u32 = 256;

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// In the order they were issued.
    pub ids: Vec<u64>,
    /// Why there are fewer than were asked for.
    pub refused: Option<String>,
    /// By whom.
    pub by: Served,
}

/// The grain.
pub struct Issuer {
    host: std::sync::Arc<Host>,
    life: u64,
}

impl Grain for Issuer {
    type Service = IssuerService;

    fn create(c: &mut Create<'_, Self>) -> Self {
        let host = c.resource::<Host>();
        Self { life: host.new_life(), host }
    }
}

#[millet::grain(name = "proof.Issuer", key = int)]
impl Issuer {
    /// So many ids, at most 256.
    async fn issue(&mut self, ctx: &Ctx<Self>, count: u32) -> Issued {
        let mut issued = Issued { ids: Vec::new(), refused: None, by: served(ctx, self.life) };
        for _ in 0..count.min(AT_ONCE) {
            match self.host.new_id() {
                Ok(id) => issued.ids.push(id),
                Err(why) => {
                    issued.refused = Some(why);
                    break;
                }
            }
        }
        issued
    }
}
