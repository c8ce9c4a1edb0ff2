//! A TCP server whose protocol a test writes itself, for behaviour that no HTTP library has.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A running server.
#[derive(Debug, Clone, Default)]
pub struct RawOrigin {
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl RawOrigin {
    /// Starts a server on every address of a namespace. `serve` gets each connection with its number on a
    /// thread of its own; the connection closes when it returns.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub fn start(
        netns: &Netns,
        port: u16,
        serve: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind(("::", port)))?.context("the port of the origin")?;
        let origin = Self::default();
        let (counts, serve) = (origin.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let number = counts.accepted.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                let (counts, serve) = (counts.clone(), Arc::clone(&serve));
                // Ten thousand may be open at a time.
                let thread = std::thread::Builder::new().stack_size(128 << 10);
                let _ = thread.spawn(move || {
                    serve(number, &mut stream);
                    drop(stream);
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(origin)
    }

    /// The number of connections accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Reads the head of the next request, including its last empty line; `None` at the end of the connection.
/// Bytes behind it stay in the socket.
pub fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0; 1];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.extend_from_slice(&byte);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
