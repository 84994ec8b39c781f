//! Is a history of one register linearizable? The search of Wing and Gong (1993) with Lowe's memo
//! (2017): operations are taken in an order that fits real time until all that must be are, and a pair
//! of "taken so far" and value that once led nowhere is not tried again.
//!
//! An operation that only looks is taken as soon as it fits, without trying to take it later: moved to
//! where it fits first it disturbs nothing. Practically linear as long as few operations overlap; bounded.

use std::collections::HashSet;

use crate::frontier;

/// Steps after which the search for one order is given up and all orders are followed at once
/// (`frontier`): a history without any would make it go back for ever.
const STEPS: u64 = 500_000;

/// What an operation does to a register, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Was answered this value.
    Read(u64),
    /// Writes this value.
    Write(u64),
    /// Compared, and saw this value: wrote `to` if it was `from`.
    Swap {
        /// What it must hold.
        from: u64,
        /// What is written then.
        to: u64,
        /// What it was told the register held; `None` if it heard nothing.
        seen: Option<u64>,
    },
}

impl Effect {
    /// Whether it never changes the register.
    pub(crate) fn only_looks(self) -> bool {
        match self {
            Self::Read(_) => true,
            Self::Write(_) => false,
            Self::Swap { from, seen, .. } => seen.is_some_and(|s| s != from),
        }
    }

    /// The value afterwards, or `None` if it cannot have been answered so.
    pub(crate) fn apply(self, value: u64) -> Option<u64> {
        match self {
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Write(new) => Some(new),
            Self::Swap { from, to, seen } => {
                let fits = seen.is_none_or(|s| s == value);
                fits.then_some(if value == from { to } else { value })
            }
        }
    }
}

/// One operation of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// It takes effect at or after this.
    pub from: u64,
    /// And at or before this. `None`: at any later time, or never.
    pub until: Option<u64>,
    /// What it does.
    pub effect: Effect,
}

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// An order exists.
    Linearizable,
    /// None does. Names the operations (by position) that were under way where the last order ended.
    Impossible(Vec<usize>),
    /// Too many operations overlap: not known.
    GivenUp,
}

/// Searches an order in which every operation fits; the register holds 0 at first.
pub fn linearizable(ops: &[Interval]) -> Answer {
    let mut search = Search::new(ops);
    for _ in 0..STEPS {
        if search.must == 0 {
            return Answer::Linearizable;
        }
        if !search.advance() && !search.go_back() {
            break;
        }
    }
    frontier::follow(ops, &search.events)
}

/// Calls and returns in the order of time, as a list from which taken operations are lifted.
struct Search<'a> {
    ops: &'a [Interval],
    /// The events: an operation, and whether this is its return.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where an operation's two events stand; the return may be missing.
    places: Vec<(usize, Option<usize>)>,
    /// Operations counted by their calls, so that what is taken is mostly a prefix (see `Done`).
    ranks: Vec<usize>,
    /// Operations that must take effect and are not taken.
    must: usize,
    value: u64,
    /// What is taken, each with the value and the set before it.
    taken: Vec<(usize, u64, Done)>,
    /// Whether the operation at hand is looked for among those that only look.
    looking: bool,
    done: Done,
    memo: HashSet<(Done, u64)>,
    at: usize,
}

/// Which operations are taken: all below `low`, and those whose bit is set above it. Few bits, since
/// operations are taken roughly in the order of time.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Done {
    low: usize,
    above: Vec<u64>,
}

impl Done {
    /// Adds an operation that is not in the set.
    fn with(&self, rank: usize) -> Self {
        let mut more = self.clone();
        let n = rank - self.low;
        if more.above.len() <= n / 64 {
            more.above.resize(n / 64 + 1, 0);
        }
        more.above[n / 64] |= 1 << (n % 64);
        more.normalize();
        more
    }

    /// One form for one set: bit 0 is clear, the last word is not empty.
    fn normalize(&mut self) {
        let full = self.above.iter().take_while(|w| **w == u64::MAX).count();
        self.above.drain(..full);
        self.low += full * 64;
        let ones = self.above.first().map_or(0, |w| w.trailing_ones());
        if ones > 0 {
            for n in 0..self.above.len() {
                let carry = self.above.get(n + 1).map_or(0, |w| w << (64 - ones));
                self.above[n] = self.above[n] >> ones | carry;
            }
            self.low += ones as usize;
        }
        while self.above.last() == Some(&0) {
            self.above.pop();
        }
    }
}

impl<'a> Search<'a> {
    fn new(ops: &'a [Interval]) -> Self {
        // At the same instant calls come first: then they overlap, which admits more.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (n, op) in ops.iter().enumerate() {
            events.push((op.from, false, n));
            events.extend(op.until.map(|until| (until, true, n)));
        }
        events.sort_unstable();
        let events: Vec<(usize, bool)> = events.into_iter().map(|(_, returns, n)| (n, returns)).collect();
        let (mut places, mut ranks, mut calls) = (vec![(0, None); ops.len()], vec![0; ops.len()], 0);
        for (place, (op, returns)) in (1..).zip(&events) {
            if *returns {
                places[*op].1 = Some(place);
            } else {
                (places[*op].0, ranks[*op]) = (place, calls);
                calls += 1;
            }
        }
        let count = events.len();
        Self {
            ops,
            next: (1..=count + 1).chain([0]).collect(),
            previous: (0..=count + 1).map(|n| n.saturating_sub(1)).collect(),
            must: ops.iter().filter(|op| op.until.is_some()).count(),
            events,
            places,
            ranks,
            value: 0,
            taken: Vec::new(),
            looking: true,
            done: Done::default(),
            memo: HashSet::new(),
            at: 1,
        }
    }

    fn event(&self, place: usize) -> Option<(usize, bool)> {
        self.events.get(place - 1).copied()
    }

    /// Tries the operation at hand; false at a return (it and what comes later can only follow something
    /// that was not taken), or at the end.
    fn advance(&mut self) -> bool {
        let Some((op, false)) = self.event(self.at) else {
            // Nothing more to look at: from the start again, now to change something.
            let again = std::mem::take(&mut self.looking);
            self.at = if again { self.next[0] } else { self.at };
            return again;
        };
        let effect = self.ops[op].effect;
        if effect.only_looks() == self.looking
            && let Some(value) = effect.apply(self.value)
        {
            let done = self.done.with(self.ranks[op]);
            if self.looking || self.memo.insert((done.clone(), value)) {
                self.taken.push((op, self.value, std::mem::replace(&mut self.done, done)));
                self.value = value;
                self.lift(op);
                (self.at, self.looking) = (self.next[0], true);
                return true;
            }
        }
        self.at = self.next[self.at];
        true
    }

    /// Back to before the last change.
    fn go_back(&mut self) -> bool {
        while let Some((op, value, done)) = self.taken.pop() {
            (self.value, self.done) = (value, done);
            self.unlift(op);
            if !self.ops[op].effect.only_looks() {
                (self.at, self.looking) = (self.next[self.places[op].0], false);
                return true;
            }
        }
        false
    }

    fn lift(&mut self, op: usize) {
        let (call, returns) = self.places[op];
        for place in [Some(call), returns].into_iter().flatten() {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = after;
            self.previous[after] = before;
        }
        self.must -= usize::from(returns.is_some());
    }

    fn unlift(&mut self, op: usize) {
        let (call, returns) = self.places[op];
        for place in [returns, Some(call)].into_iter().flatten() {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = place;
            self.previous[after] = place;
        }
        self.must += usize::from(returns.is_some());
    }
}
