//! Making a cluster, once: every founder is asked first, this member writes the cluster down before any
//! other hears of it, so that an interrupted `init` is finished by running it again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use millet_core::world::Entropy;
use millet_proto::wire::{self, bootstrap_client::BootstrapClient};
use tonic::{Status, transport::Channel};

use super::{MemberError, Shared};
use crate::{identity::Membership, machine::Secret};

/// One member is waited for so long.
const ANSWER: Duration = Duration::from_secs(5);
/// The new cluster elects its first leader within this.
const ELECT: Duration = Duration::from_secs(15);
/// Founders of one cluster: more voters only make commits slower.
const FOUNDERS: usize = 9;

impl Shared {
    /// See [`super::Member::init`].
    pub(crate) async fn init(self: &Arc<Self>, members: &[String]) -> Result<Membership, MemberError> {
        let _one = self.changing.lock().await;
        let list = founders(members, &self.options.addr)?;
        let place = match self.membership() {
            Some(have) => self.same_founders(have, &list)?,
            None => self.draw(&list).await?,
        };
        self.join(place.clone())?;
        let running = self.run(&place).await?;
        let own = running.is_initialized().await.map_err(unavailable)?;
        let started = own || self.others_started(&place).await?;
        for (id, addr) in place.founders.iter().filter(|(id, _)| *id != place.member) {
            self.found(&place, *id, addr, started).await?;
        }
        running.initialize(&place).await.map_err(unavailable)?;
        let late = |_| {
            MemberError::Unavailable(format!(
                "the cluster is made, but elected no leader within {} s",
                ELECT.as_secs()
            ))
        };
        tokio::select! {
            ready = tokio::time::timeout(ELECT, running.ready()) => ready.map_err(late)?,
            why = running.failed() => return Err(self.failed_with(why)),
        }
        Ok(place)
    }

    fn same_founders(&self, have: Membership, list: &[String]) -> Result<Membership, MemberError> {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) =
            (have.founders.iter().map(|(_, a)| a).collect(), list.iter().collect());
        if old == new {
            return Ok(have);
        }
        let text = format!(
            "{} is already member {} of cluster {}, made of {:?}; init is run once, members are added or replaced afterwards",
            self.options.addr, have.member, have.cluster, old
        );
        Err(MemberError::Refused(text))
    }

    /// Makes sure that every other founder is fresh, then draws a new cluster.
    async fn draw(&self, list: &[String]) -> Result<Membership, MemberError> {
        for addr in list.iter().filter(|a| **a != self.options.addr) {
            let found = self.inspect(addr).await?;
            if !found.cluster.is_empty() {
                let text = format!(
                    "{addr} is already member {} of cluster {}; nothing was changed",
                    found.member, found.cluster
                );
                return Err(MemberError::Refused(text));
            }
        }
        let entropy: &dyn Entropy = &*self.options.entropy;
        let founders: Vec<_> = (1..).zip(list.iter().cloned()).collect();
        let own = founders.iter().find(|(_, a)| *a == self.options.addr).map_or(1, |(id, _)| *id);
        let secret = Secret(entropy.next_u128().to_be_bytes());
        let drawn = format!("{:032x}", entropy.next_u128());
        let cluster = self.options.cluster.as_ref().map_or(drawn.clone(), |name| format!("{name}-{drawn}"));
        Ok(Membership { cluster, member: own, secret, founders })
    }

    /// Whether any group of another founder has started: then founders vote, also where this one, which was
    /// away, knows nothing of it.
    async fn others_started(&self, place: &Membership) -> Result<bool, MemberError> {
        for (_, addr) in place.founders.iter().filter(|(id, _)| *id != place.member) {
            let found = self.inspect(addr).await?;
            if found.cluster == place.cluster && found.initialized {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings one founder in. Once any group has started, an empty founder has lost its data: its id must
    /// never come back, so it is not given a second time.
    async fn found(&self, place: &Membership, id: u64, addr: &str, started: bool) -> Result<(), MemberError> {
        let found = self.inspect(addr).await?;
        if started {
            return match found.cluster == place.cluster && found.member == id {
                true => Ok(()),
                false if found.cluster.is_empty() => Err(MemberError::Refused(format!(
                    "{addr} was member {id} of this cluster and is empty now; replace it, it cannot come back as itself"
                ))),
                false => Err(MemberError::Refused(format!(
                    "{addr} is member {} of cluster {}",
                    found.member, found.cluster
                ))),
            };
        }
        let members = place
            .founders
            .iter()
            .map(|(id, addr)| wire::MemberAddress { id: *id, addr: addr.clone() })
            .collect();
        let secret = place.secret.0.to_vec().into();
        let request = wire::AdoptRequest {
            cluster: place.cluster.clone(),
            member: id,
            secret,
            members,
            addr: addr.to_owned(),
            node: found.node,
        };
        let mut client = self.client(addr);
        answered(addr, tokio::time::timeout(ANSWER, client.adopt(request)).await).map(|_| ())
    }

    async fn inspect(&self, addr: &str) -> Result<wire::InspectResponse, MemberError> {
        let mut client = self.client(addr);
        answered(addr, tokio::time::timeout(ANSWER, client.inspect(wire::InspectRequest {})).await)
    }

    fn client(&self, addr: &str) -> BootstrapClient<Channel> {
        BootstrapClient::new((self.options.dial)(addr))
    }
}

fn unavailable(e: std::io::Error) -> MemberError {
    MemberError::Unavailable(e.to_string())
}

fn answered<T>(
    addr: &str,
    answer: Result<Result<tonic::Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, MemberError> {
    match answer {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            Err(MemberError::Refused(format!("{addr} refuses: {}", status.message())))
        }
        Ok(Err(status)) => Err(MemberError::Unavailable(format!(
            "{addr} did not answer ({}); is it running? repeat",
            status.message()
        ))),
        Err(_) => Err(MemberError::Unavailable(format!(
            "{addr} did not answer within {} s; repeat",
            ANSWER.as_secs()
        ))),
    }
}

/// The list, checked: this member is on it, nobody twice.
fn founders(members: &[String], own: &str) -> Result<Vec<String>, MemberError> {
    let distinct: BTreeSet<_> = members.iter().collect();
    if distinct.len() != members.len() {
        return Err(MemberError::Refused(format!("an address stands twice in {members:?}")));
    }
    if members.is_empty() || members.len() > FOUNDERS {
        return Err(MemberError::Refused(format!(
            "{} members were named; name 1 to {FOUNDERS}, an odd number",
            members.len()
        )));
    }
    if !distinct.contains(&own.to_owned()) {
        return Err(MemberError::Refused(format!(
            "this member is {own}, which is not among {members:?}; name it as the others reach it"
        )));
    }
    Ok(members.to_vec())
}
