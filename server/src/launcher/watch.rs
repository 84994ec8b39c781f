//! What a launcher may conclude from what it has seen (rule R18): a pure state machine. It closes a session
//! only when the process that registered it has been reaped *and* nobody has its socket any more.
//!
//! The first alone proves nothing: the process may have forked. Nor does the second: it may have closed the
//! socket, or replaced its program. Both together say that nothing is left that uses the session.

use std::{collections::VecDeque, time::Duration};

use super::message::{Registration, Said};
use crate::world::launch::Exit;

/// Sessions that are remembered. A node has one at a time and says when it is over; older ones expire.
const SESSIONS: usize = 8;

/// Signals that ask a process to end: SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const ENDING: [i32; 4] = [1, 2, 3, 15];

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// A process with the socket said something.
    Said {
        /// Which, as the kernel says.
        from: i32,
        /// What.
        said: Said,
    },
    /// The child has been reaped.
    Reaped(Exit),
    /// Nobody has the socket any more.
    EndOfFile,
    /// The launcher got a signal.
    Signal(i32),
    /// The wait for the end of the socket is over.
    WaitedEnough,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Pass the signal on.
    Forward(i32),
    /// For people: this process is not the child, its session is not taken over.
    Refused {
        /// Which.
        from: i32,
        /// Its session.
        session: u64,
    },
    /// The child is gone, but another process still has its socket: wait, for so long at most. After one
    /// time to live the sessions of a process that is gone have expired.
    AwaitEndOfFile(Duration),
    /// Close these sessions, then leave with this code.
    Close(Vec<Registration>, u8),
    /// Leave with this code.
    Leave(u8),
}

/// What a launcher knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    child: i32,
    /// Oldest first.
    sessions: VecDeque<Registration>,
    exit: Option<Exit>,
    end_of_file: bool,
}

impl Watch {
    /// For a child that has just been started.
    pub fn new(child: i32) -> Self {
        Self { child, sessions: VecDeque::new(), exit: None, end_of_file: false }
    }

    /// Takes what has happened, and says what follows.
    pub fn on(&mut self, seen: Seen) -> Option<Effect> {
        match (seen, self.exit) {
            // Not that process any more, whatever its number.
            (Seen::Said { from, said: Said::Session(new) }, exit) if from != self.child || exit.is_some() => {
                Some(Effect::Refused { from, session: new.session })
            }
            (Seen::Said { from, .. }, exit) if from != self.child || exit.is_some() => None,
            (Seen::Said { said: Said::Session(new), .. }, _) => {
                self.forget(new.session);
                if self.sessions.len() == SESSIONS {
                    self.sessions.pop_front();
                }
                self.sessions.push_back(new);
                None
            }
            (Seen::Said { said: Said::Ended { session }, .. }, _) => {
                self.forget(session);
                None
            }
            (Seen::Reaped(exit), _) => {
                self.exit = Some(exit);
                Some(self.after(exit))
            }
            (Seen::EndOfFile, exit) => {
                self.end_of_file = true;
                exit.map(|exit| self.after(exit))
            }
            (Seen::Signal(signal), None) => Some(Effect::Forward(signal)),
            (Seen::Signal(signal), Some(_)) if !ENDING.contains(&signal) => None,
            (Seen::Signal(_) | Seen::WaitedEnough, Some(exit)) => Some(Effect::Leave(exit.code())),
            (Seen::WaitedEnough, None) => None,
        }
    }

    /// Sessions that are not known to have ended, the newest last.
    pub fn sessions(&self) -> impl Iterator<Item = u64> {
        self.sessions.iter().map(|s| s.session)
    }

    fn after(&self, exit: Exit) -> Effect {
        if self.sessions.is_empty() {
            Effect::Leave(exit.code())
        } else if self.end_of_file {
            Effect::Close(self.sessions.iter().cloned().collect(), exit.code())
        } else {
            let longest = self.sessions.iter().map(Registration::ttl).max();
            Effect::AwaitEndOfFile(longest.unwrap_or_default())
        }
    }

    fn forget(&mut self, session: u64) {
        self.sessions.retain(|s| s.session != session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: i32 = 42;
    const OTHER: i32 = 43;
    const KILLED: Seen = Seen::Reaped(Exit::Signal(9));
    const CODE: u8 = 137;
    const TERM: i32 = 15;

    fn registration(session: u64) -> Registration {
        Registration { session, ttl_ms: 4000, cluster: "c".into(), members: vec!["a:1".into()] }
    }

    fn session(from: i32, session: u64) -> Seen {
        Seen::Said { from, said: Said::Session(registration(session)) }
    }

    fn ended(session: u64) -> Seen {
        Seen::Said { from: CHILD, said: Said::Ended { session } }
    }

    /// The effects of these events.
    fn after(seen: &[Seen]) -> Vec<Effect> {
        let mut watch = Watch::new(CHILD);
        seen.iter().filter_map(|s| watch.on(s.clone())).collect()
    }

    fn close(sessions: &[u64]) -> Effect {
        Effect::Close(sessions.iter().map(|s| registration(*s)).collect(), CODE)
    }

    #[test]
    fn r18_exit_and_end_of_file_close_in_either_order() {
        let wait = Effect::AwaitEndOfFile(Duration::from_secs(4));
        assert_eq!(after(&[session(CHILD, 1), KILLED, Seen::EndOfFile]), [wait, close(&[1])]);
        assert_eq!(after(&[session(CHILD, 1), Seen::EndOfFile, KILLED]), [close(&[1])]);
    }

    #[test]
    fn r18_a_child_whose_socket_lives_on_keeps_its_session() {
        let effects = after(&[session(CHILD, 1), KILLED, Seen::WaitedEnough]);
        assert_eq!(effects, [Effect::AwaitEndOfFile(Duration::from_secs(4)), Effect::Leave(CODE)]);
    }

    #[test]
    fn r18_a_child_that_replaces_its_program_keeps_its_session() {
        assert_eq!(after(&[session(CHILD, 1), Seen::EndOfFile]), []);
    }

    #[test]
    fn r18_another_process_registers_nothing() {
        let refused = Effect::Refused { from: OTHER, session: 1 };
        assert_eq!(after(&[session(OTHER, 1), Seen::EndOfFile, KILLED]), [refused, Effect::Leave(CODE)]);
    }

    #[test]
    fn r18_a_process_with_the_number_of_the_reaped_child_registers_nothing() {
        let effects = after(&[session(CHILD, 1), KILLED, session(CHILD, 2), Seen::EndOfFile]);
        let refused = Effect::Refused { from: CHILD, session: 2 };
        assert_eq!(effects[1..], [refused, close(&[1])]);
    }

    #[test]
    fn every_session_that_is_not_over_is_closed_once() {
        let seen = [session(CHILD, 1), ended(1), session(CHILD, 2), session(CHILD, 2), session(CHILD, 3)];
        assert_eq!(after(&[&seen[..], &[Seen::EndOfFile, KILLED]].concat()), [close(&[2, 3])]);
    }

    #[test]
    fn sessions_are_bounded_and_the_newest_stay() {
        let many: Vec<_> = (1..=20).map(|n| session(CHILD, n)).chain([Seen::EndOfFile, KILLED]).collect();
        assert_eq!(after(&many), [close(&[13, 14, 15, 16, 17, 18, 19, 20])]);
    }

    #[test]
    fn a_child_that_left_in_good_order_is_not_waited_for() {
        let left = Seen::Reaped(Exit::Code(0));
        assert_eq!(after(&[session(CHILD, 1), ended(1), left]), [Effect::Leave(0)]);
    }

    #[test]
    fn signals_reach_a_living_child_and_end_the_wait_for_a_dead_ones_socket() {
        let effects = after(&[session(CHILD, 1), Seen::Signal(TERM), KILLED, Seen::Signal(TERM)]);
        assert_eq!(effects[0], Effect::Forward(TERM));
        assert_eq!(effects[2], Effect::Leave(CODE));
    }

    /// All orders of what can happen: nothing is closed before both proofs were seen, and only what the
    /// child said while it lived.
    #[test]
    fn r18_no_order_of_events_closes_a_session_whose_child_may_run() {
        let all =
            [session(CHILD, 1), session(OTHER, 2), KILLED, Seen::EndOfFile, Seen::Signal(TERM), ended(1)];
        let mut orders = vec![Vec::new()];
        for _ in 0..all.len() {
            let longer = |o: &Vec<Seen>| {
                let left = all.iter().filter(|s| !o.contains(s));
                left.map(|s| [&o[..], std::slice::from_ref(s)].concat()).collect::<Vec<_>>()
            };
            orders = orders.iter().flat_map(longer).collect();
        }
        assert_eq!(orders.len(), 720);
        let mut closed = 0;
        for order in orders {
            let mut watch = Watch::new(CHILD);
            for (n, seen) in order.iter().enumerate() {
                let effect = watch.on(seen.clone());
                let Some(Effect::Close(sessions, _)) = effect else { continue };
                closed += 1;
                let at = |what: &Seen| order.iter().position(|s| s == what).expect("in every order");
                assert!(at(&KILLED) <= n && at(&Seen::EndOfFile) <= n, "{order:?}");
                assert!(at(&all[0]) < at(&KILLED), "{order:?}");
                assert_eq!(sessions, [registration(1)], "{order:?}");
            }
        }
        assert!(closed > 0);
    }
}
