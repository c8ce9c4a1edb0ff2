//! Connections that Envoy opened itself and that were redirected back to it.
//!
//! That happens where Envoy runs as another user than the one whose connections the rules leave alone. Each of them
//! opens the next one, until Envoy has no memory or no files left. Such a connection has the very source and destination
//! of an upstream connection of this Envoy. The source alone would not do: a port is used at the same time for connections
//! to several destinations.

use std::cell::Cell;

use crate::host::Connection;

/// How many streams are remembered, and after how many new connections they are looked at: a look costs some 20 host
/// calls, and so about one percent of eight connections.
const RECENT: usize = 8;

/// The streams of a worker that were let through last.
#[derive(Debug, Default)]
pub(crate) struct RecentStreams {
    connections: Ring,
    requests: Ring,
    /// How many connections were let through since the last look.
    unchecked: Cell<usize>,
}

/// The ids of the last streams.
#[derive(Debug, Default)]
struct Ring([Cell<Option<u32>>; RECENT], Cell<usize>);

impl Ring {
    fn add(&self, id: u32) {
        let Self(ids, next) = self;
        if let Some(place) = ids.get(next.get()) {
            place.set(Some(id));
        }
        next.set(next.get().saturating_add(1) % RECENT);
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(Cell::get)
    }
}

impl RecentStreams {
    /// Remembers a connection that was let through.
    pub(crate) fn add_connection(&self, id: u32) {
        self.connections.add(id);
        self.unchecked.set(self.unchecked.get().saturating_add(1));
    }

    /// Remembers a request that was let through: its upstream connection is not that of a downstream one.
    pub(crate) fn add_request(&self, id: u32) {
        self.requests.add(id);
    }

    /// Finds a connection that this Envoy opened itself, among the last ones and a new one. It looks at one in some
    /// connections only. Host calls concern the new one afterwards.
    pub(crate) fn find_own(&self, host: &impl Connection, new: u32) -> Option<u32> {
        if self.unchecked.get() < RECENT {
            return None;
        }
        self.unchecked.set(0);
        let mut downstream = Vec::with_capacity(RECENT.saturating_add(1));
        let mut upstream = Vec::with_capacity(RECENT.saturating_mul(2));
        for id in self.connections.ids().chain([new]) {
            // Most have ended.
            if host.concern(id) {
                downstream.extend(host.source().zip(host.destination()).map(|pair| (id, pair)));
                upstream.extend(host.upstream_pair());
            }
        }
        for id in self.requests.ids() {
            if host.concern(id) {
                upstream.extend(host.upstream_pair());
            }
        }
        host.concern(new);
        downstream.into_iter().find(|(_, pair)| upstream.contains(pair)).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_connection_that_comes_from_an_upstream_connection() {
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        // Each stream comes from port 100 and its id, and has an upstream connection from port 101 and its id:
        // the next one is made by it.
        let host = |streams: std::ops::Range<u32>, own: bool| {
            let of = |id: u32| u16::try_from(id).expect("few") + 100;
            let addresses = |id: u32| (address(of(id)), address(of(id) + if own { 1 } else { 1000 }));
            Fake {
                destination: Some(address(1)),
                upstream: Some(address(1)),
                streams: streams.map(|id| (id, addresses(id))).collect(),
                ..Fake::default()
            }
        };
        let recent = RecentStreams::default();
        for id in 0..7 {
            recent.add_connection(id);
        }
        assert_eq!(recent.find_own(&host(0..8, true), 7), None, "too early");
        recent.add_connection(7);
        let looked = host(0..9, true);
        assert_eq!(recent.find_own(&looked, 8), Some(1));
        assert_eq!(looked.concerned.borrow().last(), Some(&8));
        assert_eq!(recent.find_own(&host(0..9, true), 8), None, "again too early");
        for id in 8..20 {
            recent.add_connection(id);
        }
        assert_eq!(recent.find_own(&host(12..21, false), 20), None, "its clients are others");
        for id in 20..28 {
            recent.add_connection(id);
        }
        // The others have ended.
        assert_eq!(recent.find_own(&host(28..29, true), 28), None);
        // The same port of this machine, used for another destination.
        for id in 28..36 {
            recent.add_connection(id);
        }
        let elsewhere = Fake { upstream: Some(address(2)), ..host(28..37, true) };
        assert_eq!(recent.find_own(&elsewhere, 36), None, "another destination");
        // A request's upstream connection.
        for id in 28..36 {
            recent.add_connection(id);
            recent.add_request(id + 100);
        }
        let mut host = host(28..37, false);
        host.streams.insert(130, (address(1), address(136)));
        assert_eq!(recent.find_own(&host, 36), Some(36));
    }
}
