//! A distribution of milliseconds that merges exactly: p50, p99, max over many runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How often each number of milliseconds was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(BTreeMap<u64, u64>);

impl Spread {
    /// Adds one.
    pub fn add(&mut self, ms: u64) {
        *self.0.entry(ms).or_default() += 1;
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        for (ms, times) in &other.0 {
            *self.0.entry(*ms).or_default() += times;
        }
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The value below or at which `percent` of all lie (the nearest rank); `None` if there is none.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(ms, times)| {
            seen += times;
            (seen >= rank).then_some(*ms)
        })
    }

    /// The largest.
    pub fn max(&self) -> Option<u64> {
        self.0.keys().next_back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank_also_after_a_merge() {
        let (mut low, mut high) = (Spread::default(), Spread::default());
        (1..=50).for_each(|ms| low.add(ms));
        (51..=100).for_each(|ms| high.add(ms));
        low.merge(&high);
        assert_eq!((low.percentile(50), low.percentile(99), low.max()), (Some(50), Some(99), Some(100)));
        assert_eq!(Spread::default().percentile(99), None);
    }
}
