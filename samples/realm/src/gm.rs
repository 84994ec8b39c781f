//! The game master: one in the whole cluster (one shard). Announces, and calls any grain by names and
//! JSON on an operator's behalf.

use std::{collections::VecDeque, sync::Arc};

use millet::prelude::*;
use serde::{Deserialize, Serialize};

use crate::pb::{
    AnnounceReply, AnnounceRequest, CommandReply, CommandRequest, Gm, GmGrain, HearReply, HearRequest,
};

/// The key of the only one.
pub const KEY: &str = "gm";
/// Announcements kept.
const KEPT: usize = 200;
/// Callers that may wait for the only one: after a failover all who called meanwhile arrive at once.
const WAITING: usize = 16_384;
/// Announcements in one answer.
const AT_ONCE: usize = 20;
/// An announcement's length.
const TEXT_BYTES: usize = 1000;

#[derive(Default, Serialize, Deserialize)]
struct State {
    last: u64,
    texts: VecDeque<(u64, String)>,
}

/// The grain.
pub struct GameMaster {
    state: Persistent<State>,
    json: Arc<JsonCaller>,
}

impl Grain for GameMaster {
    type Service = Gm;

    fn options() -> GrainOptions {
        GrainOptions::sharded(1).mailbox(WAITING)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { state: c.state("gm"), json: c.resource::<JsonCaller>() }
    }

    millet::states!(state);
}

impl GmGrain for GameMaster {
    async fn announce(&mut self, _: &Ctx<Self>, request: AnnounceRequest) -> Result<AnnounceReply, Refusal> {
        if request.text.is_empty() || request.text.len() > TEXT_BYTES {
            return Err(Refusal::invalid(format!("an announcement has 1 to {TEXT_BYTES} bytes")));
        }
        let state = &mut *self.state;
        state.last += 1;
        state.texts.push_back((state.last, request.text));
        if state.texts.len() > KEPT {
            state.texts.pop_front();
        }
        Ok(AnnounceReply { number: state.last })
    }

    async fn hear(&self, ctx: &Ctx<Self>, request: HearRequest) -> Result<HearReply, Refusal> {
        let new = self.state.texts.iter().filter(|(n, _)| *n > request.since).take(AT_ONCE);
        let (numbers, texts): (Vec<u64>, Vec<String>) = new.cloned().unzip();
        Ok(HearReply {
            texts,
            last: numbers.last().copied().unwrap_or(request.since),
            host_session: ctx.session().0,
        })
    }

    async fn command(&mut self, ctx: &Ctx<Self>, request: CommandRequest) -> Result<CommandReply, Refusal> {
        let CommandRequest { service, key, method, json } = request;
        let reply = self.json.call(&service, &key, &method, &json, ctx.deadline_left()).await;
        reply.map(|json| CommandReply { json }).map_err(|e| Refusal::failed_precondition(e.to_string()))
    }
}
