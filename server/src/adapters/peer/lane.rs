//! One lane's state: what waits to be written, what waits for an answer, and how much the other side
//! will still take. Pure: the caller brings the time, the drivers in `link` and `inbound` do the I/O.

use std::collections::VecDeque;

use hashbrown::HashMap;
use millet_core::BootTime;
use millet_proto::wire;
use prost::Message as _;

/// Messages in one frame: bounds the work between two yields.
pub const FRAME_MESSAGES: usize = 1024;
/// A frame is closed once it holds this many bytes; with one maximal message on top it stays within
/// [`FRAME_LIMIT`].
pub const FRAME_BYTES: usize = 1024 * 1024;
/// What a receiver takes as one frame.
pub const FRAME_LIMIT: usize = 8 * 1024 * 1024;
/// Pings and pongs that wait to be written; one a second is normal.
const CONTROL: usize = 16;

/// Whether a message had left this process's queue when its lane ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It did not leave: the turn has not started and will not.
    No,
    /// It may have arrived.
    Maybe,
}

/// A lane, with `T` for whoever waits for an answer.
#[derive(Debug)]
pub struct LaneState<T> {
    hello: Option<wire::Hello>,
    calls: VecDeque<(wire::Call, usize)>,
    queued_bytes: usize,
    next_id: u64,
    written_to: u64,
    credit: u64,
    pending: HashMap<u64, (BootTime, T)>,
    /// No call that waits has a deadline before this.
    earliest: BootTime,
    replies: VecDeque<(wire::CallReply, usize)>,
    reply_bytes: usize,
    pings: VecDeque<u64>,
    pongs: VecDeque<u64>,
    /// Our farewell, if one waits to be written.
    farewell: Option<wire::Farewell>,
    /// No more calls are taken: the peer is leaving.
    parting: bool,
    closed: bool,
}

impl<T> LaneState<T> {
    /// A lane that says `hello` first and may send nothing yet.
    pub fn new(hello: wire::Hello) -> Self {
        Self {
            hello: Some(hello),
            calls: VecDeque::new(),
            queued_bytes: 0,
            next_id: 0,
            written_to: 0,
            credit: 0,
            pending: HashMap::new(),
            earliest: BootTime::NEVER,
            replies: VecDeque::new(),
            reply_bytes: 0,
            pings: VecDeque::new(),
            pongs: VecDeque::new(),
            farewell: None,
            parting: false,
            closed: false,
        }
    }

    /// Queues a call; the answer goes to `waiter`. Gives the waiter back if the lane takes no
    /// more calls.
    pub fn submit(&mut self, mut call: wire::Call, deadline: BootTime, waiter: T) -> Result<u64, T> {
        if self.closed || self.parting {
            return Err(waiter);
        }
        self.next_id += 1;
        call.id = self.next_id;
        let bytes = call.encoded_len();
        self.queued_bytes += bytes;
        self.calls.push_back((call, bytes));
        self.pending.insert(self.next_id, (deadline, waiter));
        self.earliest = self.earliest.min(deadline);
        Ok(self.next_id)
    }

    /// Nobody waits for this call any more; if it has not been written, it never will be.
    pub fn abandon(&mut self, id: u64) -> Option<T> {
        let (_, waiter) = self.pending.remove(&id)?;
        // An unwritten call leaves the queue too: a peer without credit must not make it grow.
        if let Ok(at) = self.calls.binary_search_by_key(&id, |(call, _)| call.id)
            && let Some((_, bytes)) = self.calls.remove(at)
        {
            self.queued_bytes -= bytes;
        }
        Some(waiter)
    }

    /// The waiter of an answered call; `None` if nobody waits for it (any more).
    pub fn answered(&mut self, id: u64) -> Option<T> {
        if id > self.written_to { None } else { self.abandon(id) }
    }

    /// Takes out every call whose deadline has come.
    pub fn expire(&mut self, now: BootTime) -> Vec<(T, Written)> {
        if now < self.earliest {
            return Vec::new();
        }
        // Seldom: most calls are answered long before.
        let late = self.pending.iter().filter(|(_, (deadline, _))| *deadline <= now);
        let mut late: Vec<_> = late.map(|(id, (deadline, _))| (*deadline, *id)).collect();
        late.sort_unstable();
        let expire = |(_, id)| {
            let written = self.written(id);
            self.abandon(id).map(|waiter| (waiter, written))
        };
        let out = late.into_iter().filter_map(expire).collect();
        let left = self.pending.values().map(|(deadline, _)| *deadline);
        self.earliest = left.min().unwrap_or(BootTime::NEVER);
        out
    }

    /// Asks the other side for no more calls.
    pub fn ask_farewell(&mut self) {
        self.farewell = Some(wire::Farewell::Asked);
    }

    /// The other side asked for no more calls: hands back everybody whose call was not written. Once
    /// nobody waits for an answer any more, the lane says so.
    pub fn part(&mut self) -> Vec<T> {
        if !std::mem::replace(&mut self.parting, true) {
            self.farewell = Some(wire::Farewell::Done);
        }
        let unwritten: Vec<_> = self.calls.iter().map(|(call, _)| call.id).collect();
        unwritten.into_iter().filter_map(|id| self.abandon(id)).collect()
    }

    /// A farewell that may be said now: `Done` waits until nobody waits for an answer.
    fn may_part(&self) -> bool {
        match self.farewell {
            None => false,
            Some(wire::Farewell::Done) => self.pending.is_empty(),
            Some(wire::Farewell::Asked | wire::Farewell::Unspecified) => true,
        }
    }

    /// Ends the lane: nothing is taken or written any more; everybody who waits is handed back.
    pub fn close(&mut self) -> Vec<(T, Written)> {
        self.closed = true;
        let written_to = self.written_to;
        self.calls.clear();
        self.replies.clear();
        (self.queued_bytes, self.reply_bytes) = (0, 0);
        let mut out: Vec<_> = self.pending.drain().collect();
        out.sort_unstable_by_key(|(id, _)| *id);
        let written = |id| if id <= written_to { Written::Maybe } else { Written::No };
        out.into_iter().map(|(id, (_, w))| (w, written(id))).collect()
    }

    /// Whether [`LaneState::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The other side will take this many more calls.
    pub fn add_credit(&mut self, more: u32) {
        self.credit += u64::from(more);
    }

    /// Queues an answer; the credit of its call is given back with it.
    pub fn reply(&mut self, reply: wire::CallReply) {
        if !self.closed {
            let bytes = reply.encoded_len();
            self.replies.push_back((reply, bytes));
            self.reply_bytes += bytes;
        }
    }

    /// Queues a ping.
    pub fn ping(&mut self, nonce: u64) {
        if self.pings.len() < CONTROL {
            self.pings.push_back(nonce);
        }
    }

    /// Queues the answer to a ping; its time is read when it is written.
    pub fn pong(&mut self, nonce: u64) {
        if self.pongs.len() < CONTROL {
            self.pongs.push_back(nonce);
        }
    }

    /// Bytes of calls that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Bytes of answers that wait to be written.
    pub fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Answers that wait to be written: the other side has not got the credit of their calls back.
    pub fn unsaid(&self) -> usize {
        self.replies.len()
    }

    /// Whether there is something to write, if the session allows it.
    pub fn has_work(&self) -> bool {
        self.hello.is_some()
            || !self.pings.is_empty()
            || !self.pongs.is_empty()
            || !self.replies.is_empty()
            || self.may_part()
            || (!self.calls.is_empty() && self.credit > 0)
    }

    /// The next frame, if there is anything to say. `may_speak` is the exit check (R12): without a valid
    /// session no call and no reply leaves, they wait; hello and pings may.
    pub fn pack(&mut self, now_ms: u64, may_speak: bool) -> Option<wire::PeerFrame> {
        if self.closed {
            return None;
        }
        let mut frame = wire::PeerFrame {
            hello: self.hello.take(),
            pings: self.pings.drain(..).map(|nonce| wire::Ping { nonce }).collect(),
            pongs: self.pongs.drain(..).map(|nonce| wire::Pong { nonce, now_ms }).collect(),
            now_ms,
            ..Default::default()
        };
        if self.may_part() {
            frame.farewell = self.farewell.take().map_or(0, i32::from);
        }
        if may_speak {
            let mut bytes = 0;
            self.pack_replies(&mut frame, &mut bytes);
            self.pack_calls(&mut frame, &mut bytes);
        }
        let says = frame.hello.is_some()
            || frame.credit > 0
            || frame.farewell != 0
            || !(frame.pings.is_empty()
                && frame.pongs.is_empty()
                && frame.calls.is_empty()
                && frame.replies.is_empty());
        says.then_some(frame)
    }

    fn pack_replies(&mut self, frame: &mut wire::PeerFrame, bytes: &mut usize) {
        while frame.replies.len() < FRAME_MESSAGES && *bytes < FRAME_BYTES {
            let Some((reply, len)) = self.replies.pop_front() else { break };
            self.reply_bytes -= len;
            *bytes += len;
            frame.replies.push(reply);
        }
        // Of what is said, and no more: a peer that reads nothing gets nothing to send more with (G6).
        frame.credit = u32::try_from(frame.replies.len()).unwrap_or(u32::MAX);
    }

    fn pack_calls(&mut self, frame: &mut wire::PeerFrame, bytes: &mut usize) {
        while self.credit > 0 && frame.calls.len() < FRAME_MESSAGES && *bytes < FRAME_BYTES {
            let Some((call, len)) = self.calls.pop_front() else { break };
            self.queued_bytes -= len;
            self.written_to = call.id;
            *bytes += len;
            self.credit -= 1;
            frame.calls.push(call);
        }
    }

    fn written(&self, id: u64) -> Written {
        if id <= self.written_to { Written::Maybe } else { Written::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(credit: u32) -> LaneState<&'static str> {
        let mut l = LaneState::new(wire::Hello::default());
        l.add_credit(credit);
        assert!(l.pack(0, false).expect("a hello").hello.is_some());
        l
    }
    fn call(args: usize) -> wire::Call {
        wire::Call { args: vec![7; args].into(), ..Default::default() }
    }
    fn ids(f: Option<wire::PeerFrame>) -> Vec<u64> {
        f.map(|f| f.calls.iter().map(|c| c.id).collect()).unwrap_or_default()
    }

    #[test]
    fn calls_leave_in_the_order_they_were_submitted_as_far_as_credit_goes() {
        let mut l = lane(2);
        for _ in 0..3 {
            l.submit(call(1), BootTime(9), "w").expect("open");
        }
        assert_eq!(ids(l.pack(0, true)), [1, 2]);
        assert_eq!(ids(l.pack(0, true)), [0; 0], "no credit is left");
        l.add_credit(1);
        assert_eq!(ids(l.pack(0, true)), [3]);
    }

    #[test]
    fn r12_without_a_valid_session_calls_and_replies_wait_and_pings_do_not() {
        let mut l = lane(9);
        l.submit(call(1), BootTime(9), "w").expect("open");
        l.reply(wire::CallReply::default());
        l.pong(4);
        let f = l.pack(0, false).expect("a pong");
        assert_eq!((f.calls.len(), f.replies.len(), f.pongs.len(), f.credit), (0, 0, 1, 0));
        let f = l.pack(0, true).expect("thawed");
        assert_eq!((f.calls.len(), f.replies.len(), f.credit), (1, 1, 1));
    }

    #[test]
    fn g3_a_parting_lane_takes_no_calls_and_says_done_behind_its_last_answer() {
        let mut l = lane(1);
        l.submit(call(1), BootTime(9), "written").expect("open");
        l.submit(call(1), BootTime(9), "no credit").expect("open");
        assert_eq!(ids(l.pack(0, true)), [1]);
        assert_eq!(l.part(), ["no credit"]);
        assert_eq!(l.submit(call(1), BootTime(9), "late"), Err("late"));
        assert!(!l.has_work(), "one answer is missing");
        assert_eq!(l.answered(1), Some("written"));
        assert!(l.has_work());
        assert_eq!(l.pack(0, true).expect("a farewell").farewell(), wire::Farewell::Done);
        assert_eq!(l.part(), [""; 0], "asked twice");
        assert!(!l.has_work(), "said once");
    }

    #[test]
    fn r26_closing_hands_back_everyone_and_tells_written_from_not_written() {
        let mut l = lane(1);
        for w in ["a", "b"] {
            l.submit(call(1), BootTime(9), w).expect("open");
        }
        assert_eq!(ids(l.pack(0, true)), [1]);
        assert_eq!(l.close(), [("a", Written::Maybe), ("b", Written::No)]);
        assert_eq!(l.submit(call(1), BootTime(9), "c"), Err("c"));
        assert!(l.pack(0, true).is_none());
    }

    #[test]
    fn a_call_past_its_deadline_ends_and_is_never_written() {
        let mut l = lane(9);
        l.submit(call(1), BootTime(5), "early").expect("open");
        l.submit(call(1), BootTime(9), "late").expect("open");
        assert_eq!(l.expire(BootTime(4)), []);
        assert_eq!(l.expire(BootTime(5)), [("early", Written::No)]);
        assert_eq!(ids(l.pack(0, true)), [2]);
        assert_eq!(l.expire(BootTime(9)), [("late", Written::Maybe)]);
    }

    /// The first deadline is looked for anew once it has come: none is passed over, whoever was answered.
    #[test]
    fn g5_every_deadline_is_found_in_its_turn() {
        let mut l = lane(9);
        let submit =
            |l: &mut LaneState<_>, at, waiter| l.submit(call(1), BootTime(at), waiter).expect("open");
        submit(&mut l, 7, "seven");
        let answered = submit(&mut l, 5, "five");
        submit(&mut l, 9, "nine");
        submit(&mut l, 6, "six");
        assert_eq!(l.abandon(answered), Some("five"));
        assert_eq!(l.expire(BootTime(5)), []);
        assert_eq!(l.expire(BootTime(7)), [("six", Written::No), ("seven", Written::No)]);
        submit(&mut l, 8, "eight");
        assert_eq!(l.expire(BootTime(9)), [("eight", Written::No), ("nine", Written::No)]);
        assert_eq!(l.expire(BootTime::NEVER), []);
    }

    #[test]
    fn abandoned_calls_do_not_pile_up_behind_a_peer_without_credit() {
        let mut l = lane(0);
        for _ in 0..100 {
            let id = l.submit(call(10), BootTime(9), "w").expect("open");
            assert_eq!(l.abandon(id), Some("w"));
        }
        assert_eq!((l.calls.len(), l.queued_bytes(), l.pending.len()), (0, 0, 0));
    }

    /// Otherwise a peer that reads one frame of many could send calls for all of them.
    #[test]
    fn g6_credit_comes_back_with_the_answers_that_a_frame_holds() {
        let mut l = lane(0);
        for id in 0..FRAME_MESSAGES as u64 + 5 {
            l.reply(wire::CallReply { id, ..Default::default() });
        }
        let credit = |l: &mut LaneState<_>| l.pack(0, true).expect("answers").credit as usize;
        assert_eq!((credit(&mut l), l.unsaid()), (FRAME_MESSAGES, 5));
        assert_eq!((credit(&mut l), l.unsaid()), (5, 0));
    }

    #[test]
    fn g6_answers_that_wait_are_counted_until_they_are_written() {
        let mut l = lane(9);
        for id in 0..3 {
            l.reply(wire::CallReply { id, ..Default::default() });
        }
        let waiting = l.reply_bytes();
        assert!(waiting >= 2, "two ids of one byte and their tags");
        assert_eq!(l.pack(0, false), None, "frozen: they wait");
        assert_eq!(l.reply_bytes(), waiting);
        assert_eq!(l.pack(0, true).expect("three answers").replies.len(), 3);
        assert_eq!(l.reply_bytes(), 0);
    }

    #[test]
    fn an_answer_nobody_waits_for_is_dropped() {
        let mut l = lane(9);
        l.submit(call(1), BootTime(9), "w").expect("open");
        assert_eq!(l.answered(1), None, "not even written");
        assert_eq!(ids(l.pack(0, true)), [1]);
        assert_eq!(l.answered(7), None);
        assert_eq!(l.answered(1), Some("w"));
        assert_eq!(l.answered(1), None);
    }

    #[test]
    fn a_frame_stays_within_what_a_receiver_takes() {
        let mut l = lane(u32::MAX);
        let big = millet_core::limits::MESSAGE_BYTES;
        for args in [FRAME_BYTES - 10_000, big, big, 10] {
            l.submit(call(args), BootTime(9), "w").expect("open");
        }
        let mut seen = 0;
        while let Some(f) = l.pack(0, true) {
            assert!(f.encoded_len() <= FRAME_LIMIT);
            seen += f.calls.len();
        }
        assert_eq!((seen, l.queued_bytes()), (4, 0));
        for _ in 0..2 * FRAME_MESSAGES {
            l.submit(call(0), BootTime(9), "w").expect("open");
        }
        assert_eq!(ids(l.pack(0, true)).len(), FRAME_MESSAGES);
    }
}
