//! Who may talk to whom: the first frame of every lane, checked by the listener. Pure.

use millet_core::{NodeId, SessionId};
use millet_proto::peer::{Hello, PROTOCOL};

/// What a listener knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Us<'a> {
    /// The cluster's id.
    pub cluster: &'a str,
    /// This node.
    pub node: NodeId,
    /// Its session; `None` before the first one is renewed.
    pub session: Option<SessionId>,
}

/// Call lanes are numbered up to here.
pub const LANES: u32 = 64;

/// Refuses a hello that is not for us, with the reason for the connector's log.
pub fn check(us: Us<'_>, hello: &Hello) -> Result<(), String> {
    if hello.cluster != us.cluster {
        return Err(format!("this is cluster {:?}, not {:?}; check the seeds", us.cluster, hello.cluster));
    }
    if hello.protocol.0 > PROTOCOL.1 || hello.protocol.1 < PROTOCOL.0 {
        let ((a, b), (c, d)) = (hello.protocol, PROTOCOL);
        return Err(format!("peer speaks protocol v{a}..{b}, need v{c}..{d}; upgrade the older one"));
    }
    if hello.target_node != us.node {
        return Err(format!(
            "expected {}, got {}; the address is somebody else's",
            hello.target_node, us.node
        ));
    }
    match us.session {
        Some(s) if s == hello.target_session => {}
        Some(s) => return Err(format!("session {} is not here any more, this is {s}", hello.target_session)),
        None => return Err("this node has no session yet; retry".into()),
    }
    if hello.lane > LANES {
        return Err(format!("lane {} is over the limit of {LANES}", hello.lane));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Us<'_> = Us { cluster: "c1", node: NodeId(2), session: Some(SessionId(20)) };

    fn hello() -> Hello {
        Hello {
            cluster: "c1".into(),
            protocol: PROTOCOL,
            node: NodeId(1),
            session: SessionId(10),
            target_node: NodeId(2),
            target_session: SessionId(20),
            lane: 1,
            features: vec![],
            credit: 1,
        }
    }

    #[test]
    fn only_a_hello_that_means_us_is_taken() {
        assert_eq!(check(US, &hello()), Ok(()));
        let refused = |h: Hello| check(US, &h).expect_err("refused");
        assert!(refused(Hello { cluster: "c2".into(), ..hello() }).contains("\"c1\", not \"c2\""));
        assert!(refused(Hello { protocol: (3, 4), ..hello() }).contains("v3..4, need v1..1"));
        assert!(refused(Hello { target_node: NodeId(5), ..hello() }).contains("expected n5, got n2"));
        assert!(refused(Hello { lane: 65, ..hello() }).contains("limit of 64"));
    }

    #[test]
    fn r12_another_incarnation_is_never_reached() {
        let h = Hello { target_session: SessionId(19), ..hello() };
        assert!(check(US, &h).expect_err("refused").contains("s19"));
        assert!(check(Us { session: None, ..US }, &hello()).is_err());
    }
}
