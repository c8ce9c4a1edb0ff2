//! The plaintext connections, and how much of a request's headers each has sent whose end has not come.
//!
//! Envoy holds such headers before any HTTP filter sees them, and bounds only their time. The network plugin sees
//! the bytes pass, and the HTTP plugin sees when headers are complete; the address of the client says which
//! connection a request is of.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::frames::{Frames, PREFACE};
use crate::messages::Messages;
use crate::pending::HeldBytes;
use crate::table::{Guard, Table};

/// The most connections of a worker whose request headers have begun and not ended. The headers of an honest
/// request come in one piece, or in pieces that follow at once.
pub(crate) const MAX_PARTIAL: usize = 4096;

/// The most bytes of such headers in a worker. A single request may have all that Envoy permits.
pub(crate) const MAX_PARTIAL_BYTES: usize = 16 << 20;

/// As how many bytes one of HTTP/2 counts: HPACK lets a byte stand for a header of 4 kB. This is a middle
/// between that and what an honest header block takes, which is at most what was sent some times over.
const HPACK_FACTOR: usize = 64;

/// The plaintext connections of a scope.
#[derive(Debug, Default)]
pub(crate) struct PlaintextConnections {
    table: Table<PlaintextConnection>,
    by_source: Rc<RefCell<BTreeMap<SocketAddr, usize>>>,
    sums: Sums,
    begun: Cell<u64>,
    sight: Cell<Sight>,
}

/// How much of headers the connections hold, and how many hold some.
#[derive(Debug, Default, Clone)]
struct Sums {
    bytes: Rc<Cell<usize>>,
    partial: Rc<Cell<usize>>,
}

/// Whether requests can be told to be of a connection.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sight {
    #[default]
    Unknown,
    /// They can. One whose connection has just ended cannot.
    Clear,
    /// Envoy's configuration does not tell the internal listener who the client is. Bodies would be taken for
    /// headers, so nothing is bounded.
    Blind,
}

/// One of them.
#[derive(Debug)]
struct PlaintextConnection {
    id: u32,
    framing: Framing,
    /// What has come of headers.
    held: HeldBytes,
    /// While that is something.
    partial: Option<Partial>,
}

/// Headers have begun.
#[derive(Debug)]
struct Partial {
    /// Its number among all: the smallest is the oldest.
    number: u64,
    count: Rc<Cell<usize>>,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes were those of HTTP/2's preface.
    Unknown(usize),
    Http1(Messages),
    Http2(Frames),
    /// It is about to be closed.
    Over,
}

/// A connection is listed for as long as this is there.
#[derive(Debug)]
pub(crate) struct Listed {
    guard: Guard<PlaintextConnection>,
    source: SocketAddr,
    by_source: Rc<RefCell<BTreeMap<SocketAddr, usize>>>,
}

/// A request whose headers are complete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompleteRequest {
    connection: u32,
    place: usize,
}

impl PlaintextConnections {
    /// Lists a connection.
    pub(crate) fn insert(&self, id: u32, source: SocketAddr) -> Listed {
        let guard = self.table.insert(PlaintextConnection {
            id,
            framing: Framing::Unknown(0),
            held: HeldBytes::none(&self.sums.bytes),
            partial: None,
        });
        self.by_source.borrow_mut().insert(source, guard.place());
        Listed { guard, source, by_source: Rc::clone(&self.by_source) }
    }

    /// Notes that `length` bytes have come, of which `bytes` shows a part: from where, how many.
    pub(crate) fn pass(&self, listed: &Listed, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) {
        listed.guard.with(|connection| {
            let held = connection.pass(length, bytes);
            self.hold(connection, held);
        });
    }

    /// Notes that the headers of a request are complete. Its body has `length` bytes, or says itself where it ends.
    pub(crate) fn complete(&self, source: SocketAddr, length: Option<usize>) -> Option<CompleteRequest> {
        let place = self.by_source.borrow().get(&source).copied();
        let complete = |place| {
            self.table.with(place, |connection| {
                connection.complete(length);
                CompleteRequest { connection: connection.id, place }
            })
        };
        let request = place.and_then(complete);
        if request.is_some() {
            self.sight.set(Sight::Clear);
        } else if self.sight.get() == Sight::Unknown {
            self.sight.set(Sight::Blind);
        }
        request
    }

    /// Notes that a request has ended.
    pub(crate) fn end(&self, request: CompleteRequest) {
        self.table.with(request.place, |connection| {
            if connection.id == request.connection
                && let Framing::Http1(messages) = &mut connection.framing
            {
                let held = messages.end();
                self.hold(connection, held);
            }
        });
    }

    fn hold(&self, connection: &mut PlaintextConnection, held: usize) {
        connection.held.set(held);
        if held == 0 {
            connection.partial = None;
        } else if connection.partial.is_none() {
            let number = self.begun.get();
            self.begun.set(number.saturating_add(1));
            connection.partial = Some(Partial::new(number, &self.sums.partial));
        }
    }

    /// Whether headers are too many.
    pub(crate) fn is_over(&self) -> bool {
        self.sight.get() != Sight::Blind && exceeds(self.sums.partial.get(), self.sums.bytes.get())
    }

    /// The connections that have to go: the oldest of those whose headers have not ended. Each with its place.
    pub(crate) fn excess(&self, most: usize) -> Vec<(u32, usize)> {
        let mut excess = Vec::new();
        if !self.is_over() {
            return excess;
        }
        let mut partial = Vec::new();
        self.table.collect_from(0, usize::MAX, usize::MAX, &mut partial, |place, connection| {
            Some((connection.partial.as_ref()?.number, place))
        });
        partial.sort_unstable();
        for (_, place) in partial {
            if excess.len() >= most || !self.is_over() {
                break;
            }
            excess.extend(self.table.with(place, PlaintextConnection::end).map(|id| (id, place)));
        }
        excess
    }
}

/// Whether so many, or so many bytes, are too many. A single one may be as large as Envoy permits.
fn exceeds(partial: usize, bytes: usize) -> bool {
    partial > MAX_PARTIAL || (partial > 1 && bytes > MAX_PARTIAL_BYTES)
}

impl PlaintextConnection {
    /// How many bytes of headers it holds now.
    fn pass(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> usize {
        let mut from = 0;
        if let Framing::Unknown(matched) = self.framing {
            let next = PREFACE.get(matched..).unwrap_or_default();
            let seen = bytes(0, next.len().min(length));
            if !next.starts_with(&seen) {
                let mut messages = Messages::default();
                messages.read(matched, |start, length| {
                    PREFACE.iter().take(matched).skip(start).take(length).copied().collect()
                });
                self.framing = Framing::Http1(messages);
            } else if seen.len() < next.len() {
                self.framing = Framing::Unknown(matched.saturating_add(seen.len()));
            } else {
                self.framing = Framing::Http2(Frames::default());
                from = seen.len();
            }
        }
        let rest = length.saturating_sub(from);
        let bytes = |start, length| bytes(from.saturating_add(start), length);
        match &mut self.framing {
            Framing::Unknown(matched) => *matched,
            Framing::Http1(messages) => messages.read(rest, bytes),
            Framing::Http2(frames) => frames.read(rest, bytes).saturating_mul(HPACK_FACTOR),
            Framing::Over => 0,
        }
    }

    fn complete(&mut self, length: Option<usize>) {
        if let Framing::Http1(messages) = &mut self.framing {
            messages.complete(length);
            self.forget();
        }
    }

    fn end(&mut self) -> u32 {
        self.framing = Framing::Over;
        self.forget();
        self.id
    }

    fn forget(&mut self) {
        self.held.set(0);
        self.partial = None;
    }
}

impl Partial {
    fn new(number: u64, count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get().saturating_add(1));
        Self { number, count: Rc::clone(count) }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.count.set(self.count.get().saturating_sub(1));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Another connection may have the address by now.
        let mut by_source = self.by_source.borrow_mut();
        if by_source.get(&self.source) == Some(&self.guard.place()) {
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
        let request = connections.complete(source(port), None).expect("listed");
        connections.end(request);
    }

    fn pass(connections: &PlaintextConnections, listed: &Listed, data: &[u8]) -> usize {
        connections.pass(listed, data.len(), |start, length| {
            data.iter().skip(start).take(length).copied().collect()
        });
        connections.sums.bytes.get()
    }

    #[test]
    fn headers_count_until_they_end() {
        let connections = PlaintextConnections::default();
        let listed = connections.insert(1, source(1));
        assert_eq!(pass(&connections, &listed, b"P"), 1);
        assert_eq!(pass(&connections, &listed, b"RI * OF MINE\r\n"), 15);
        assert_eq!(connections.sums.partial.get(), 1);
        let request = connections.complete(source(1), None);
        assert!(request.is_some());
        assert_eq!((connections.sums.bytes.get(), connections.sums.partial.get()), (0, 0));
        assert_eq!(pass(&connections, &listed, b"0\r\n\r\n"), 0, "a body");
        connections.end(request.expect("complete"));
        assert_eq!(pass(&connections, &listed, b"GET /"), 5, "the next request");
        drop(listed);
        assert_eq!((connections.sums.bytes.get(), connections.sums.partial.get()), (0, 0));
        assert!(connections.by_source.borrow().is_empty());
    }

    #[test]
    fn http2_counts_header_blocks() {
        let connections = PlaintextConnections::default();
        let listed = connections.insert(1, source(1));
        assert_eq!(pass(&connections, &listed, &PREFACE[..10]), 10);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(pass(&connections, &listed, &[&PREFACE[10..], &settings[..]].concat()), 0);
        let headers = [&[0, 0, 90, 1, 4, 0, 0, 0, 1][..], &[0; 90]].concat();
        assert_eq!(pass(&connections, &listed, &headers[..50]), 50 * HPACK_FACTOR);
        let request = connections.complete(source(1), None);
        assert_eq!(connections.sums.bytes.get(), 50 * HPACK_FACTOR, "that was another stream");
        assert_eq!(pass(&connections, &listed, &headers[50..]), 0);
        assert_eq!(pass(&connections, &listed, &headers[..9]), 9 * HPACK_FACTOR, "beside a request");
        connections.end(request.expect("complete"));
        assert_eq!(connections.sums.bytes.get(), 9 * HPACK_FACTOR);
    }

    #[test]
    fn the_oldest_of_too_many_goes() {
        let connections = PlaintextConnections::default();
        let part = vec![b'x'; MAX_PARTIAL_BYTES / 8];
        let listed: Vec<_> = (0..8).map(|id| connections.insert(id, source(id as u16))).collect();
        for listed in &listed {
            pass(&connections, listed, &part);
        }
        assert!(excess(&connections, 64).is_empty());
        // A large body came with the headers of the oldest, and headers that have ended do not count.
        pass(&connections, &listed[0], b"\r\n\r\n");
        let late = connections.insert(8, source(8));
        pass(&connections, &late, &part);
        assert!(excess(&connections, 64).is_empty());
        pass(&connections, &late, &part);
        pass(&connections, &late, &part);
        assert!(connections.is_over());
        assert_eq!(excess(&connections, 1), [1]);
        assert_eq!(excess(&connections, 64), [2]);
        assert!(excess(&connections, 64).is_empty());
        assert_eq!(pass(&connections, &listed[1], &part), MAX_PARTIAL_BYTES, "it is about to be closed");
        drop(listed);
        pass(&connections, &late, &vec![b'x'; MAX_PARTIAL_BYTES]);
        assert!(excess(&connections, 64).is_empty(), "one may be large");
    }

    #[test]
    fn too_many_in_number() {
        let connections = PlaintextConnections::default();
        let most = u16::try_from(MAX_PARTIAL).expect("few");
        let begin = |id: u16| {
            let listed = connections.insert(id.into(), source(id));
            pass(&connections, &listed, b"G");
            listed
        };
        let listed: Vec<_> = (0..most + 2).map(begin).collect();
        assert_eq!(excess(&connections, 64), [0, 1]);
        drop(listed);
    }

    #[test]
    fn requests_of_nobody() {
        let connections = PlaintextConnections::default();
        assert!(connections.complete(source(1), None).is_none());
        let listed = connections.insert(1, source(1));
        let other = connections.insert(2, source(2));
        pass(&connections, &listed, b"G");
        pass(&connections, &other, &vec![b'x'; MAX_PARTIAL_BYTES]);
        assert!(!connections.is_over(), "bodies are taken for headers");
        answer(&connections, 1);
        let _ = connections.complete(source(3), None);
        pass(&connections, &listed, b"G");
        assert!(connections.is_over());
    }

    #[test]
    fn an_address_is_used_again() {
        let connections = PlaintextConnections::default();
        let old = connections.insert(1, source(1));
        let new = connections.insert(2, source(1));
        drop(old);
        assert!(connections.complete(source(1), None).is_some());
        drop(new);
        assert!(connections.complete(source(1), None).is_none());
    }
}
