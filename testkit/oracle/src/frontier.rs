//! All orders of a register's operations at once: from one return to the next, every pair of "taken of
//! those under way" and value that some order leads to. Slower than `wgl` where an order exists, but it
//! sees at once that none does, and where.

use std::collections::HashSet;

use crate::wgl::{Answer, Interval};

/// Operations under way at a time, those that never return included.
const OPEN: usize = 128;
/// Pairs followed at a time. Ten clients make some hundreds.
const PAIRS: usize = 200_000;

/// Which of the operations under way are taken, by place, and the register's value.
type Pair = (u128, u64);

struct Frontier<'a> {
    ops: &'a [Interval],
    /// The operations under way, by place.
    open: Vec<Option<usize>>,
    pairs: HashSet<Pair>,
}

/// Follows all orders along the events: an operation and whether it returns, in the order of time.
pub(crate) fn follow(ops: &[Interval], events: &[(usize, bool)]) -> Answer {
    let mut frontier = Frontier { ops, open: Vec::new(), pairs: HashSet::from([(0, 0)]) };
    for (op, returns) in events {
        if *returns {
            match frontier.returned(*op) {
                Some(true) => {}
                Some(false) => return Answer::Impossible(frontier.open.into_iter().flatten().collect()),
                None => return Answer::GivenUp,
            }
        } else if !frontier.called(*op) {
            return Answer::GivenUp;
        }
    }
    Answer::Linearizable
}

impl Frontier<'_> {
    fn called(&mut self, op: usize) -> bool {
        match self.open.iter().position(Option::is_none) {
            Some(place) => self.open[place] = Some(op),
            None => self.open.push(Some(op)),
        }
        self.open.len() <= OPEN
    }

    /// The operation must be taken by now: whether that is possible; `None` if there are too many ways.
    fn returned(&mut self, op: usize) -> Option<bool> {
        let place = self.open.iter().position(|o| *o == Some(op))?;
        let mut waiting: Vec<Pair> = self.pairs.iter().map(|pair| self.looked(*pair)).collect();
        let mut seen: HashSet<Pair> = waiting.iter().copied().collect();
        let mut after = HashSet::new();
        while let Some((taken, value)) = waiting.pop() {
            if taken >> place & 1 == 1 {
                after.insert((taken & !(1 << place), value));
                continue;
            }
            for (n, open) in self.open.iter().enumerate().filter(|(n, _)| taken >> n & 1 == 0) {
                let next = open.and_then(|o| self.ops[o].effect.apply(value));
                let pair = next.map(|value| self.looked((taken | 1 << n, value)));
                if let Some(pair) = pair.filter(|pair| seen.insert(*pair)) {
                    waiting.push(pair);
                }
            }
            if seen.len() > PAIRS {
                return None;
            }
        }
        if after.is_empty() {
            return Some(false);
        }
        self.open[place] = None;
        self.pairs = after;
        Some(true)
    }

    /// Takes what only looks and fits: later it would do nothing else.
    fn looked(&self, (mut taken, value): Pair) -> Pair {
        for (n, open) in self.open.iter().enumerate() {
            let fits =
                open.map(|o| self.ops[o].effect).is_some_and(|e| e.only_looks() && e.apply(value).is_some());
            taken |= u128::from(fits) << n;
        }
        (taken, value)
    }
}
