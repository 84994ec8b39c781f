//! The state machine, one replica without Raft, against the suite that every state store must pass.

use super::*;

/// A state store of one replica without Raft: every operation is an entry of its own.
struct OneReplica {
    group: Mutex<(StateGroup, u64)>,
    reader: StateReader,
}

impl OneReplica {
    fn new(group: StateGroup) -> Self {
        Self { reader: group.reader(), group: Mutex::new((group, 0)) }
    }

    fn carry_out(&self, op: Op) -> StateResult {
        let (group, index) = &mut *self.group.lock();
        *index += 1;
        let reply = group.apply(vec![entry(*index, &StateCommand::Batch(vec![op]))]).unwrap().remove(0);
        StateReply::decode(&reply).unwrap().0.remove(0)
    }

    fn write(&self, w: Write<'_>, value: Option<Bytes>) -> Result<Version, StoreError> {
        let op = Op::Write {
            grain: w.grain.clone(),
            slot: w.slot.into(),
            shard: w.shard,
            token: w.token,
            version: w.version,
            value,
        };
        match self.carry_out(op)? {
            Done::Written(version) => Ok(version),
            other => panic!("{other:?} does not answer a write"),
        }
    }
}

fn stored(result: StateResult) -> Result<Stored, StoreError> {
    match result? {
        Done::Stored(stored) => Ok(stored),
        other => panic!("{other:?} does not answer a read"),
    }
}

impl StateStore for OneReplica {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move {
            stored(self.carry_out(Op::Open { grain: grain.clone(), slot: slot.into(), token }))
        })
    }
    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(
            async move { self.carry_out(Op::OpenShard { ty: ty.clone(), shard, grant, session }).map(drop) },
        )
    }
    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move { stored(self.reader.load(grain, slot, shard, token).unwrap()) })
    }
    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.write(write, Some(value)) })
    }
    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.write(write, None) })
    }
}

#[tokio::test]
async fn the_state_machine_on_redb_conforms() {
    millet_testkit::store_suite::run(async || OneReplica::new(fresh())).await;
}

#[tokio::test]
async fn the_state_machine_on_sled_conforms() {
    let temp = tempfile::tempdir().unwrap();
    let made = Mutex::new(0);
    let make = async || {
        *made.lock() += 1;
        let dir = temp.path().join(format!("state-{}", made.lock()));
        OneReplica::new(
            StateGroup::open(engine::open(EngineKind::Sled, real(), &dir, CACHE).unwrap()).unwrap(),
        )
    };
    millet_testkit::store_suite::run(make).await;
}
