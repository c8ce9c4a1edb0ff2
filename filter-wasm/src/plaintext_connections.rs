//! The plaintext connections, and the header bytes that each has sent without their end.
//!
//! Envoy holds such headers before any HTTP filter gets them, and limits only their time. The network filter gets the
//! bytes, and the HTTP filter gets complete headers; the address of the client identifies the connection of a request.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::http1_headers::Http1Headers;
use crate::http2_headers::{Http2Headers, PREFACE};
use crate::shared_sum::{Share, SharedSum};
use crate::table::{Guard, Table};

/// The most connections of a worker whose request headers have begun and not ended. The headers of an honest request come
/// in one piece, or in pieces that follow at once.
pub(crate) const MAX_PARTIAL: usize = 4096;

/// The most bytes of such headers in a worker. A single request may have as many as Envoy permits.
pub(crate) const MAX_PARTIAL_BYTES: usize = 16 << 20;

/// The weight of a header byte of HTTP/2: HPACK lets a byte stand for a header of 4 kB. This is a middle between that and
/// the size of an honest header block, which is at most some times the bytes that were sent.
const HPACK_FACTOR: usize = 64;

/// The plaintext connections of a scope.
#[derive(Debug, Default)]
pub(crate) struct PlaintextConnections {
    table: Table<PlaintextConnection>,
    by_source: SourceIndex,
    held_bytes: SharedSum,
    partial: SharedSum,
    next_number: Cell<u64>,
    visibility: Cell<SourceVisibility>,
}

/// The key and the id of the connection from each source.
type SourceIndex = Rc<RefCell<BTreeMap<SocketAddr, (usize, u32)>>>;

/// The visibility of the client's address in the HTTP filter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum SourceVisibility {
    #[default]
    Unknown,
    /// A request was matched with its connection. One whose connection has just ended is not.
    Visible,
    /// Envoy's configuration does not pass the client's address to the internal listener. Bodies would be counted as
    /// headers, so nothing is limited.
    Hidden,
}

/// A plaintext connection.
#[derive(Debug)]
pub(crate) struct PlaintextConnection {
    id: u32,
    source: SocketAddr,
    by_source: SourceIndex,
    framing: Framing,
    /// The header bytes that Envoy holds.
    held_bytes: Share,
    /// While it holds some.
    partial: Option<Partial>,
}

/// Headers that have begun and not ended.
#[derive(Debug)]
struct Partial {
    /// Their number among all: the smallest is the oldest.
    number: u64,
    _count: Share,
}

/// The framing of a connection.
#[derive(Debug)]
enum Framing {
    /// Not known: so many bytes were those of HTTP/2's preface.
    Unknown(usize),
    Http1(Http1Headers),
    Http2(Http2Headers),
    /// The connection is about to be closed.
    Closing,
}

/// A request whose headers are complete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompleteRequest {
    connection: u32,
    key: usize,
}

impl PlaintextConnections {
    /// Adds a connection.
    pub(crate) fn insert(&self, id: u32, source: SocketAddr) -> Guard<PlaintextConnection> {
        let guard = self.table.insert(PlaintextConnection {
            id,
            source,
            by_source: Rc::clone(&self.by_source),
            framing: Framing::Unknown(0),
            held_bytes: self.held_bytes.share(0),
            partial: None,
        });
        self.by_source.borrow_mut().insert(source, (guard.key(), id));
        guard
    }

    /// Counts the next `length` bytes of a connection, of which `bytes` returns a part by start and length.
    pub(crate) fn count(
        &self,
        connection: &Guard<PlaintextConnection>,
        length: usize,
        bytes: impl Fn(usize, usize) -> Vec<u8>,
    ) {
        connection.with(|connection| {
            let held = connection.read(length, bytes);
            self.hold(connection, held);
        });
    }

    /// Notes that the headers of a request are complete. Its body has `length` bytes, or ends by its own framing.
    pub(crate) fn complete(&self, source: SocketAddr, length: Option<usize>) -> Option<CompleteRequest> {
        let key = self.by_source.borrow().get(&source).map(|(key, _)| *key);
        let complete = |key| {
            self.table.with(key, |connection| {
                connection.complete(length);
                CompleteRequest { connection: connection.id, key }
            })
        };
        let request = key.and_then(complete);
        if request.is_some() {
            self.visibility.set(SourceVisibility::Visible);
        } else if self.visibility.get() == SourceVisibility::Unknown {
            self.visibility.set(SourceVisibility::Hidden);
        }
        request
    }

    /// Notes that a request has ended.
    pub(crate) fn end(&self, request: CompleteRequest) {
        self.table.with(request.key, |connection| {
            if connection.id == request.connection
                && let Framing::Http1(headers) = &mut connection.framing
            {
                let held = headers.end();
                self.hold(connection, held);
            }
        });
    }

    fn hold(&self, connection: &mut PlaintextConnection, held: usize) {
        connection.held_bytes.set(held);
        if held == 0 {
            connection.partial = None;
        } else if connection.partial.is_none() {
            let number = self.next_number.get();
            self.next_number.set(number.saturating_add(1));
            connection.partial = Some(Partial { number, _count: self.partial.share(1) });
        }
    }

    /// Returns whether headers are too many.
    pub(crate) fn exceeds_limit(&self) -> bool {
        self.visibility.get() != SourceVisibility::Hidden
            && exceeds(self.partial.get(), self.held_bytes.get())
    }

    /// Ends the count of the connections that must be closed: the oldest of those whose headers have not ended. Returns
    /// the id and key of each.
    pub(crate) fn excess(&self, max: usize) -> Vec<(u32, usize)> {
        let mut excess = Vec::new();
        if !self.exceeds_limit() {
            return excess;
        }
        let mut partial = Vec::new();
        self.table.collect_from(0, usize::MAX, usize::MAX, &mut partial, |key, connection| {
            Some((connection.partial.as_ref()?.number, key))
        });
        partial.sort_unstable();
        for (_, key) in partial {
            if excess.len() >= max || !self.exceeds_limit() {
                break;
            }
            excess.extend(self.table.with(key, PlaintextConnection::close).map(|id| (id, key)));
        }
        excess
    }
}

/// Returns whether so many headers, or so many bytes of them, are too many. One alone may be as large as Envoy permits.
fn exceeds(partial: usize, bytes: usize) -> bool {
    partial > MAX_PARTIAL || (partial > 1 && bytes > MAX_PARTIAL_BYTES)
}

impl PlaintextConnection {
    /// Reads the next bytes. Returns the number of header bytes that Envoy holds.
    fn read(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> usize {
        let mut from = 0;
        if let Framing::Unknown(matched) = self.framing {
            let next = PREFACE.get(matched..).unwrap_or_default();
            let seen = bytes(0, next.len().min(length));
            if !next.starts_with(&seen) {
                let mut headers = Http1Headers::default();
                headers.read(matched, |start, length| {
                    PREFACE.iter().take(matched).skip(start).take(length).copied().collect()
                });
                self.framing = Framing::Http1(headers);
            } else if seen.len() < next.len() {
                self.framing = Framing::Unknown(matched.saturating_add(seen.len()));
            } else {
                self.framing = Framing::Http2(Http2Headers::default());
                from = seen.len();
            }
        }
        let rest = length.saturating_sub(from);
        let bytes = |start, length| bytes(from.saturating_add(start), length);
        match &mut self.framing {
            Framing::Unknown(matched) => *matched,
            Framing::Http1(headers) => headers.read(rest, bytes),
            Framing::Http2(headers) => headers.read(rest, bytes).saturating_mul(HPACK_FACTOR),
            Framing::Closing => 0,
        }
    }

    fn complete(&mut self, length: Option<usize>) {
        if let Framing::Http1(headers) = &mut self.framing {
            headers.complete(length);
            self.release();
        }
    }

    fn close(&mut self) -> u32 {
        self.framing = Framing::Closing;
        self.release();
        self.id
    }

    fn release(&mut self) {
        self.held_bytes.set(0);
        self.partial = None;
    }
}

impl Drop for PlaintextConnection {
    fn drop(&mut self) {
        // Another connection may have the address by now.
        let mut by_source = self.by_source.borrow_mut();
        if by_source.get(&self.source).is_some_and(|(_, id)| *id == self.id) {
            by_source.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn excess(connections: &PlaintextConnections, most: usize) -> Vec<u32> {
        connections.excess(most).into_iter().map(|(id, _)| id).collect()
    }

    fn answer(connections: &PlaintextConnections, port: u16) {
        let request = connections.complete(source(port), None).expect("guard");
        connections.end(request);
    }

    fn count(connections: &PlaintextConnections, guard: &Guard<PlaintextConnection>, data: &[u8]) -> usize {
        connections.count(guard, data.len(), |start, length| {
            data.iter().skip(start).take(length).copied().collect()
        });
        connections.held_bytes.get()
    }

    #[test]
    fn headers_count_until_they_end() {
        let connections = PlaintextConnections::default();
        let guard = connections.insert(1, source(1));
        assert_eq!(count(&connections, &guard, b"P"), 1);
        assert_eq!(count(&connections, &guard, b"RI * OF MINE\r\n"), 15);
        assert_eq!(connections.partial.get(), 1);
        let request = connections.complete(source(1), None);
        assert!(request.is_some());
        assert_eq!((connections.held_bytes.get(), connections.partial.get()), (0, 0));
        assert_eq!(count(&connections, &guard, b"0\r\n\r\n"), 0, "a body");
        connections.end(request.expect("complete"));
        assert_eq!(count(&connections, &guard, b"GET /"), 5, "the next request");
        drop(guard);
        assert_eq!((connections.held_bytes.get(), connections.partial.get()), (0, 0));
        assert!(connections.by_source.borrow().is_empty());
    }

    #[test]
    fn http2_counts_header_blocks() {
        let connections = PlaintextConnections::default();
        let guard = connections.insert(1, source(1));
        assert_eq!(count(&connections, &guard, &PREFACE[..10]), 10);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(count(&connections, &guard, &[&PREFACE[10..], &settings[..]].concat()), 0);
        let headers = [&[0, 0, 90, 1, 4, 0, 0, 0, 1][..], &[0; 90]].concat();
        assert_eq!(count(&connections, &guard, &headers[..50]), 50 * HPACK_FACTOR);
        let request = connections.complete(source(1), None);
        assert_eq!(connections.held_bytes.get(), 50 * HPACK_FACTOR, "that was another stream");
        assert_eq!(count(&connections, &guard, &headers[50..]), 0);
        assert_eq!(count(&connections, &guard, &headers[..9]), 9 * HPACK_FACTOR, "beside a request");
        connections.end(request.expect("complete"));
        assert_eq!(connections.held_bytes.get(), 9 * HPACK_FACTOR);
    }

    #[test]
    fn the_oldest_of_too_many_headers_is_evicted() {
        let connections = PlaintextConnections::default();
        let part = vec![b'x'; MAX_PARTIAL_BYTES / 8];
        let guards: Vec<_> = (0..8).map(|id| connections.insert(id, source(id as u16))).collect();
        for guard in &guards {
            count(&connections, guard, &part);
        }
        assert!(excess(&connections, 64).is_empty());
        // A large body came with the headers of the oldest, and headers that have ended do not count.
        count(&connections, &guards[0], b"\r\n\r\n");
        let late = connections.insert(8, source(8));
        count(&connections, &late, &part);
        assert!(excess(&connections, 64).is_empty());
        count(&connections, &late, &part);
        count(&connections, &late, &part);
        assert!(connections.exceeds_limit());
        assert_eq!(excess(&connections, 1), [1]);
        assert_eq!(excess(&connections, 64), [2]);
        assert!(excess(&connections, 64).is_empty());
        assert_eq!(count(&connections, &guards[1], &part), MAX_PARTIAL_BYTES, "it is about to be closed");
        drop(guards);
        count(&connections, &late, &vec![b'x'; MAX_PARTIAL_BYTES]);
        assert!(excess(&connections, 64).is_empty(), "one may be large");
    }

    #[test]
    fn too_many_connections_with_headers_are_evicted() {
        let connections = PlaintextConnections::default();
        let most = u16::try_from(MAX_PARTIAL).expect("few");
        let begin = |id: u16| {
            let guard = connections.insert(id.into(), source(id));
            count(&connections, &guard, b"G");
            guard
        };
        let guards: Vec<_> = (0..most + 2).map(begin).collect();
        assert_eq!(excess(&connections, 64), [0, 1]);
        drop(guards);
    }

    #[test]
    fn without_client_addresses_nothing_is_limited() {
        let connections = PlaintextConnections::default();
        assert!(connections.complete(source(1), None).is_none());
        let guard = connections.insert(1, source(1));
        let other = connections.insert(2, source(2));
        count(&connections, &guard, b"G");
        count(&connections, &other, &vec![b'x'; MAX_PARTIAL_BYTES]);
        assert!(!connections.exceeds_limit(), "bodies are taken for headers");
        answer(&connections, 1);
        let _ = connections.complete(source(3), None);
        count(&connections, &guard, b"G");
        assert!(connections.exceeds_limit());
    }

    #[test]
    fn an_address_belongs_to_its_newest_connection() {
        let connections = PlaintextConnections::default();
        let old = connections.insert(1, source(1));
        let new = connections.insert(2, source(1));
        drop(old);
        assert!(connections.complete(source(1), None).is_some());
        drop(new);
        assert!(connections.complete(source(1), None).is_none());
    }
}
