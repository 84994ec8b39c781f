//! The bounded memory of routes: which session was last known to hold a leased grain.
//!
//! A route counts only while the view says that its session has not ended, so that a death invalidates
//! all of a node's routes at once, without touching them.

use std::collections::HashMap;

use millet_core::{GrainId, Grant, SessionId, hash};
use parking_lot::Mutex;

/// A remembered owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its session.
    pub session: SessionId,
    /// The grant it held.
    pub grant: Grant,
}

/// Locks the routes are spread over: calls on different threads rarely meet.
const PARTS: usize = 16;

/// At most `limit` routes; the ones not used for longest are forgotten first, half of a part at a time.
#[derive(Debug)]
pub struct RouteCache {
    parts: Vec<Mutex<Part>>,
    /// Routes per generation and part.
    half: usize,
}

/// Two generations: `old` is dropped when `young` is full, and what is used moves to `young`.
#[derive(Debug, Default)]
struct Part {
    young: HashMap<GrainId, Route>,
    old: HashMap<GrainId, Route>,
}

impl RouteCache {
    /// A cache of at most `limit` routes (at least 32).
    pub fn new(limit: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), half: (limit / PARTS / 2).max(1) }
    }

    /// The route of a grain, as remembered: the caller asks the view whether its session has ended.
    pub fn find(&self, grain: &GrainId) -> Option<Route> {
        let mut part = self.part(grain).lock();
        if let Some(route) = part.young.get(grain) {
            return Some(*route);
        }
        let (grain, route) = part.old.remove_entry(grain)?;
        part.put(grain, route, self.half);
        Some(route)
    }

    /// Remembers a route, unless a higher grant is already known.
    pub fn learn(&self, grain: &GrainId, route: Route) {
        let mut part = self.part(grain).lock();
        let known = part.young.get(grain).or_else(|| part.old.get(grain));
        if known.is_none_or(|k| k.grant <= route.grant) {
            part.old.remove(grain);
            part.put(grain.clone(), route, self.half);
        }
    }

    /// Forgets a route that turned out wrong, unless something newer has been learned since.
    pub fn forget(&self, grain: &GrainId, upto: Grant) {
        let mut part = self.part(grain).lock();
        let Part { young, old } = &mut *part;
        for map in [young, old] {
            if map.get(grain).is_some_and(|r| r.grant <= upto) {
                map.remove(grain);
            }
        }
    }

    /// Routes remembered.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.lock()).map(|p| p.young.len() + p.old.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn part(&self, grain: &GrainId) -> &Mutex<Part> {
        #[expect(clippy::cast_possible_truncation, reason = "reduced below PARTS")]
        let at = (hash::grain_hash(grain) % PARTS as u64) as usize;
        &self.parts[at]
    }
}

impl Part {
    fn put(&mut self, grain: GrainId, route: Route, half: usize) {
        if self.young.len() >= half && !self.young.contains_key(&grain) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(grain, route);
    }
}

#[cfg(test)]
mod tests {
    use millet_core::GrainType;

    use super::*;

    fn grain(n: u64) -> GrainId {
        GrainId::new(GrainType::new("t.G").expect("a name"), n)
    }
    fn route(index: u64) -> Route {
        Route { session: SessionId(1), grant: Grant { generation: 1, index } }
    }

    /// However many grains are called, memory stays bounded, and routes in use survive.
    #[test]
    fn the_cache_stays_within_its_limit_and_keeps_what_is_used() {
        let cache = RouteCache::new(1024);
        cache.learn(&grain(0), route(1));
        for n in 1..20_000 {
            cache.learn(&grain(n), route(n));
            assert_eq!(cache.find(&grain(0)), Some(route(1)), "in use all the time");
        }
        assert!(cache.len() <= 1024, "{}", cache.len());
    }

    /// An old hint never replaces or removes a newer route (R30).
    #[test]
    fn r30_a_route_is_replaced_only_by_a_higher_grant() {
        let cache = RouteCache::new(64);
        cache.learn(&grain(1), route(9));
        cache.learn(&grain(1), route(5));
        cache.forget(&grain(1), route(8).grant);
        assert_eq!(cache.find(&grain(1)), Some(route(9)));
        cache.forget(&grain(1), route(9).grant);
        assert_eq!(cache.find(&grain(1)), None);
    }
}
