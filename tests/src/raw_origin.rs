//! A TCP server that tests write themselves: what HTTP servers do that no library does for one.

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
    /// Starts one on every address of a namespace. `serve` gets each connection with its number, on a thread of its
    /// own; the connection is closed when it returns.
    ///
    /// # Errors
    /// When the port is taken.
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

    /// How many connections there were.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// The head of the next request on a connection, with its last empty line; `None` at its end. Bytes behind it are left.
pub fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0; 1];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.extend_from_slice(&byte);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
