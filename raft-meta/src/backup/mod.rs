//! Copies of everything a cluster holds, and clusters that begin from one (R16): a backup file, or the data
//! directory of a member that has lost its quorum for good. Files are read and written offline here; a
//! running member makes a backup in `service::backup`. The file's form is `millet_proto::backup`.

mod recover;
mod source;

use millet_proto::wire::BackupHeader;

pub use recover::{NewMember, Recovered, force_new_cluster, restore};
pub use source::{Counted, verify};

use crate::{machine::Machine, state::StateSurvey};

/// What a copy holds.
#[derive(Debug)]
pub struct Survey {
    /// Who made it; of a data directory, its member and the latest time that it is known to have seen.
    pub header: BackupHeader,
    /// Bytes read and found good.
    pub bytes: u64,
    /// The last entry of the `meta` group in it.
    pub meta_index: u64,
    /// Sessions, types, leases.
    pub meta: Machine,
    /// The last entry of the `state` group in it.
    pub state_index: u64,
    /// Grain state.
    pub state: StateSurvey,
}

impl Survey {
    /// The largest generation that anything in it names.
    pub fn generation(&self) -> u32 {
        let types = self.meta.types().map(|(_, ty)| ty.row().generation);
        types.chain([self.meta.generation(), self.state.generation]).max().unwrap_or(0)
    }
}
