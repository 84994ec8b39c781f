//! Which node a leased grain is activated on when nobody holds it. The answer is a wish: the lease
//! decides.

use millet_core::NodeId;

use crate::Ring;

/// A node that may be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Activations on it, as last reported.
    pub load: u64,
}

/// One question to a policy.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `core::hash::grain_hash` of the grain.
    pub hash: u64,
    /// The node that asks, if it hosts the type.
    pub local: Option<NodeId>,
    /// Who may be chosen: fresh, eligible, not draining; in any order.
    pub candidates: &'a [Candidate],
    /// Orders nodes; may hold more than the candidates.
    pub ring: &'a Ring,
    /// Random bits, drawn by the caller.
    pub random: u64,
}

impl Ask<'_> {
    fn pick(&self, bits: u64) -> Option<&Candidate> {
        let n = self.candidates.len() as u128;
        let at = (u128::from(bits) * n) >> 64;
        self.candidates.get(usize::try_from(at).ok()?)
    }
}

/// Chooses a node for a grain; `None` only if there are no candidates.
pub trait Policy: Send + Sync + 'static {
    /// See the trait.
    fn choose(&self, ask: &Ask<'_>) -> Option<NodeId>;
}

/// The policies that ship.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum GrainPolicy {
    /// Where the caller is; elsewhere by hash. Chatty grains end up together.
    #[default]
    PreferLocal,
    /// By consistent hashing: the same node for everyone who knows the same members.
    Hash,
    /// Anywhere, evenly.
    Random,
    /// The less loaded of two drawn at random: close to the best, without a herd running to one node.
    LeastLoaded,
}

impl Policy for GrainPolicy {
    fn choose(&self, ask: &Ask<'_>) -> Option<NodeId> {
        let is_candidate = |node: &NodeId| ask.candidates.iter().any(|c| c.node == *node);
        let by_hash =
            || ask.ring.candidates(ask.hash).find(is_candidate).or(ask.pick(ask.hash).map(|c| c.node));
        match self {
            Self::PreferLocal => ask.local.filter(is_candidate).or_else(by_hash),
            Self::Hash => by_hash(),
            Self::Random => ask.pick(ask.random).map(|c| c.node),
            Self::LeastLoaded => {
                let first = ask.pick(ask.random)?;
                let second = ask.pick(ask.random.rotate_left(32))?;
                Some(if second.load < first.load { second.node } else { first.node })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(loads: &[u64]) -> Vec<Candidate> {
        loads.iter().zip(1..).map(|(load, n)| Candidate { node: NodeId(n), load: *load }).collect()
    }
    fn ask<'a>(candidates: &'a [Candidate], ring: &'a Ring, hash: u64, random: u64) -> Ask<'a> {
        Ask { hash, local: None, candidates, ring, random }
    }

    /// Prefer-local stays where it may, and falls back to the hash where it may not.
    #[test]
    fn prefer_local_is_local_only_if_local_is_a_candidate() {
        let (c, ring) = (candidates(&[0, 0, 0]), Ring::new(&[1, 2, 3].map(NodeId)));
        let local = |n| Ask { local: Some(NodeId(n)), ..ask(&c, &ring, 9, 0) };
        assert_eq!(GrainPolicy::PreferLocal.choose(&local(2)), Some(NodeId(2)));
        assert_eq!(GrainPolicy::PreferLocal.choose(&local(7)), GrainPolicy::Hash.choose(&local(7)));
        assert_eq!(GrainPolicy::PreferLocal.choose(&ask(&[], &ring, 9, 0)), None);
    }

    /// Hash passes over nodes of the ring that may not be chosen.
    #[test]
    fn hash_takes_the_first_candidate_in_ring_order() {
        let ring = Ring::new(&[1, 2, 3].map(NodeId));
        let order: Vec<_> = ring.candidates(9).collect();
        let left: Vec<_> = candidates(&[0, 0, 0]).into_iter().filter(|c| c.node != order[0]).collect();
        assert_eq!(GrainPolicy::Hash.choose(&ask(&left, &ring, 9, 0)), Some(order[1]));
    }

    /// Random reaches everyone about equally; least-loaded avoids the loaded one.
    #[test]
    fn random_is_even_and_least_loaded_avoids_load() {
        let (c, ring) = (candidates(&[0, 0, 1_000_000, 0]), Ring::default());
        let (mut random, mut least) = ([0u32; 5], [0u32; 5]);
        for n in 0..4_000u64 {
            let bits = xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
            let ask = ask(&c, &ring, 0, bits);
            random[usize::try_from(GrainPolicy::Random.choose(&ask).unwrap().0).unwrap()] += 1;
            least[usize::try_from(GrainPolicy::LeastLoaded.choose(&ask).unwrap().0).unwrap()] += 1;
        }
        assert!(random[1..].iter().all(|n| (850..1_150).contains(n)), "{random:?}");
        assert!(least[3] < 400, "the loaded node was chosen {} times of 4000", least[3]);
    }
}
