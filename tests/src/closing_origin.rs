//! An HTTP/1.1 origin that closes idle keep-alive connections after a time of its own, as application servers
//! do (gunicorn 2 s, Node and uvicorn 5 s).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::raw_origin::{RawOrigin, head};

/// The time after which an idle connection is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time between the decision to close and the close of every other connection. A server needs some,
/// and a request that arrives in it gets no response.
const CLOSE_DELAY: Duration = Duration::from_millis(500);

/// A running origin.
#[derive(Debug)]
pub struct ClosingOrigin {
    connections: RawOrigin,
    expired: Arc<AtomicUsize>,
}

impl ClosingOrigin {
    /// Starts the origin on every address of a namespace.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let expired = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&expired);
        let connections = RawOrigin::start(netns, port, move |number, stream| {
            if serve(stream).is_none() {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
            if number % 2 == 1 {
                // Until the next request arrives, which is too late.
                let _ = stream.set_read_timeout(Some(CLOSE_DELAY));
                let _ = stream.peek(&mut [0]);
            }
        })?;
        Ok(Self { connections, expired })
    }

    /// The number of connections accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.connections.accepted()
    }

    /// The number of connections that were idle for too long: they are closed, or about to be.
    #[must_use]
    pub fn expired(&self) -> usize {
        self.expired.load(Ordering::SeqCst)
    }
}

/// Answers requests until the connection is idle for too long; `None` if the client ends it.
fn serve(stream: &mut TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT)).ok()?;
    loop {
        match stream.peek(&mut [0]) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Some(());
            }
            Err(_) => return None,
        }
        let length = content_length(&head(stream)?);
        stream.read_exact(&mut vec![0; length]).ok()?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok()?;
    }
}

fn content_length(head: &str) -> usize {
    let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).last();
    length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or_default()
}
