//! Who this node is, for the transport: the directory's session and view.

use std::sync::{Arc, Weak};

use millet_core::{BoxFuture, SessionId, SessionLease};
use millet_directory::{Directory, Standing};

use super::peer::Identity;

/// [`Identity`] over a directory; does not keep it alive.
pub struct DirectoryIdentity(pub Weak<Directory>);

impl Identity for DirectoryIdentity {
    fn session(&self) -> Option<Arc<SessionLease>> {
        self.0.upgrade()?.session()
    }

    fn has_ended(&self, session: SessionId) -> bool {
        let Some(directory) = self.0.upgrade() else { return true };
        matches!(directory.view().session_state(session), Standing::Ended)
    }

    fn accepts_from(&self, session: SessionId) -> BoxFuture<'static, bool> {
        let directory = self.0.upgrade();
        Box::pin(async move {
            match directory {
                Some(directory) => directory.accepts_from(session).await,
                None => false,
            }
        })
    }
}
