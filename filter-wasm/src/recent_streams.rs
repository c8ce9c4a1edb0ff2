//! The streams that were let through last, to find connections that Envoy opened itself and that were redirected back to
//! it.
//!
//! That happens where Envoy runs as another user than the one that interception exempts. Each such connection opens the
//! next one, until Envoy has no memory or no files left. It has the source and the destination of an upstream connection
//! of this Envoy. The source alone is not enough: a port may serve connections to several destinations at a time.

use std::cell::Cell;

use crate::host::ConnectionHost;

/// The number of streams that are remembered, and of new connections after which they are compared: a comparison costs
/// some 20 host calls, and so about one percent of eight connections.
const RING_LENGTH: usize = 8;

/// The streams of a worker that were let through last.
#[derive(Debug, Default)]
pub(crate) struct RecentStreams {
    connections: Ring,
    requests: Ring,
    /// The number of connections that were let through since the last comparison.
    unchecked: Cell<usize>,
}

/// The ids of the last streams.
#[derive(Debug, Default)]
struct Ring([Cell<Option<u32>>; RING_LENGTH], Cell<usize>);

impl Ring {
    fn add(&self, id: u32) {
        let Self(ids, next) = self;
        if let Some(slot) = ids.get(next.get()) {
            slot.set(Some(id));
        }
        next.set(next.get().saturating_add(1) % RING_LENGTH);
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

    /// Finds a connection that this Envoy opened itself, among the last ones and a new one. It compares them only once in
    /// several connections. Host calls concern the new one afterwards.
    pub(crate) fn find_own(&self, host: &impl ConnectionHost, new: u32) -> Option<u32> {
        if self.unchecked.get() < RING_LENGTH {
            return None;
        }
        self.unchecked.set(0);
        let mut downstream = Vec::with_capacity(RING_LENGTH.saturating_add(1));
        let mut upstream = Vec::with_capacity(RING_LENGTH.saturating_mul(2));
        for id in self.connections.ids().chain([new]) {
            // Most have ended.
            if host.select_stream(id) {
                downstream.extend(host.source().zip(host.original_destination()).map(|pair| (id, pair)));
                upstream.extend(host.upstream_addresses());
            }
        }
        for id in self.requests.ids() {
            if host.select_stream(id) {
                upstream.extend(host.upstream_addresses());
            }
        }
        host.select_stream(new);
        downstream.into_iter().find(|(_, pair)| upstream.contains(pair)).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;

    #[test]
    fn a_connection_of_an_upstream_connection_is_found() {
        let address = |port: u16| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        // Each stream comes from port 100 and its id, and has an upstream connection from port 101 and its id:
        // the next one is made by it.
        let host = |streams: std::ops::Range<u32>, own: bool| {
            let of = |id: u32| u16::try_from(id).expect("few") + 100;
            let addresses = |id: u32| (address(of(id)), address(of(id) + if own { 1 } else { 1000 }));
            FakeHost {
                original_destination: Some(address(1)),
                upstream: Some(address(1)),
                streams: streams.map(|id| (id, addresses(id))).collect(),
                ..FakeHost::default()
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
        assert_eq!(looked.selected.borrow().last(), Some(&8));
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
        let elsewhere = FakeHost { upstream: Some(address(2)), ..host(28..37, true) };
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
