//! What a node says to its launcher: one JSON object a message. Launcher and node may be of different
//! builds; keys may be added, unknown ones are passed over.

use std::time::Duration;

use millet_core::SessionId;
use serde::{Deserialize, Serialize};

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    /// The node begins to use a session.
    Session(Registration),
    /// The node has closed this session itself: nothing is left to be closed.
    Ended {
        /// Which.
        session: u64,
    },
}

/// A session, and where it can be closed.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub struct Registration {
    /// The session.
    pub session: u64,
    /// Its time to live.
    pub ttl_ms: u64,
    /// The cluster's id.
    pub cluster: String,
    /// The metadata members, `host:port`, in the order in which to ask them.
    pub members: Vec<String>,
}

impl Registration {
    /// The session.
    pub fn id(&self) -> SessionId {
        SessionId(self.session)
    }

    /// Its time to live.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

impl Said {
    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text are plain data")
    }

    /// Reads a message; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_form() {
        let members = vec!["a:1".to_owned(), "b:2".to_owned()];
        let session = Said::Session(Registration { session: 7, ttl_ms: 4000, cluster: "c".into(), members });
        let text = r#"{"said":"session","session":7,"ttl_ms":4000,"cluster":"c","members":["a:1","b:2"]}"#;
        assert_eq!(String::from_utf8(session.to_bytes()).unwrap(), text);
        assert_eq!(Said::read(text.as_bytes()), Some(session));
        let newer = br#"{"said":"ended","session":7,"why":"left"}"#;
        assert_eq!(Said::read(newer), Some(Said::Ended { session: 7 }));
        assert_eq!(Said::read(b"{}"), None);
    }
}
