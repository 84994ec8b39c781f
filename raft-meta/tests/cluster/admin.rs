//! Members that come and go, as an administrator asks for it.

use std::time::Duration;

use millet_proto::wire::{self, members_client::MembersClient};
use tonic::{Status, transport::Channel};

use super::{Cluster, LIMIT, Node, dial};
use millet_testkit::until_some;

impl Cluster {
    /// Starts a member that belongs to nobody; its position.
    pub async fn fresh(&mut self) -> usize {
        self.fresh_at("127.0.0.1:0").await
    }

    /// The same at an address.
    pub async fn fresh_at(&mut self, addr: &str) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(dir.path().to_owned(), addr, &self.settings).await;
        self.addrs.push(node.addr.clone());
        self.nodes.push(Some(node));
        self.dirs.push(dir);
        self.nodes.len() - 1
    }

    /// What administrators ask, through one member.
    pub fn admin(&self, n: usize) -> MembersClient<Channel> {
        MembersClient::new(dial()(&self.addrs[n]))
    }

    /// The id of a member, by position.
    pub fn id_of(&self, n: usize) -> u64 {
        self.member(n).membership().unwrap().member
    }

    pub async fn add(&self, through: usize, who: usize) -> Result<wire::MemberChanged, Status> {
        let ask = wire::AddMemberRequest {
            cluster: self.id.clone(),
            addr: self.addrs[who].clone(),
            limit_ms: 60_000,
        };
        self.admin(through).add(ask).await.map(tonic::Response::into_inner)
    }

    pub async fn replace(
        &self,
        through: usize,
        member: u64,
        by: usize,
    ) -> Result<wire::MemberChanged, Status> {
        let (cluster, addr) = (self.id.clone(), self.addrs[by].clone());
        let ask = wire::ReplaceMemberRequest { cluster, member, addr, limit_ms: 60_000 };
        self.admin(through).replace(ask).await.map(tonic::Response::into_inner)
    }

    pub async fn remove(
        &self,
        through: usize,
        member: u64,
        confirm: &str,
    ) -> Result<wire::MemberChanged, Status> {
        let (cluster, confirm) = (self.id.clone(), confirm.to_owned());
        let ask = wire::RemoveMemberRequest { cluster, member, confirm, limit_ms: 60_000 };
        self.admin(through).remove(ask).await.map(tonic::Response::into_inner)
    }

    /// How the groups stand, once both have leaders that answer.
    pub async fn groups(&self, through: usize) -> wire::MembersStatus {
        let led = async || {
            let ask = wire::MembersRequest { cluster: self.id.clone() };
            let mut admin = self.admin(through);
            let status = tokio::time::timeout(Duration::from_secs(2), admin.status(ask))
                .await
                .ok()?
                .ok()?
                .into_inner();
            status.groups.iter().all(|g| g.leader != 0).then_some(status)
        };
        until_some("both groups have leaders", led, LIMIT).await
    }

    /// The voters of each group, by id.
    pub async fn voters(&self, through: usize) -> Vec<Vec<u64>> {
        let status = self.groups(through).await;
        status.groups.iter().map(|g| g.nodes.iter().filter(|n| n.voter).map(|n| n.id).collect()).collect()
    }
}
