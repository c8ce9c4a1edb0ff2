//! Floods of connections that take a port's capacity and then stay silent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use rustls::{ClientConnection, StreamOwned};

use crate::client;
use crate::netns::Netns;

/// The write timeout. Some servers stop reading, and are right to.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// Connections that stay open until this is dropped.
#[derive(Debug, Default)]
pub struct Flood {
    plain: Vec<TcpStream>,
    encrypted: Vec<StreamOwned<ClientConnection, TcpStream>>,
}

impl Flood {
    /// Opens this many connections from a namespace and sends the bytes on each. A refused connection is left
    /// out.
    ///
    /// # Errors
    /// Fails if the namespace is gone.
    pub fn plain(from: &Netns, to: SocketAddr, count: usize, first: &[u8]) -> Result<Self> {
        from.run(|| {
            let open = |_| {
                let mut stream = client::connect(to).ok()?;
                stream.write_all(first).ok()?;
                Some(stream)
            };
            Self { plain: (0..count).filter_map(open).collect(), ..Self::default() }
        })
    }

    /// Opens the same connections over TLS, concurrently, and sends as much as the other end reads.
    ///
    /// # Errors
    /// Fails if the namespace is gone.
    pub fn encrypted(from: &Netns, to: SocketAddr, count: usize, first: &[u8]) -> Result<Self> {
        from.run(|| {
            std::thread::scope(|scope| {
                let clients: Vec<_> = (0..count).map(|_| scope.spawn(|| open_encrypted(to, first))).collect();
                let opened = clients.into_iter().filter_map(|client| client.join().ok().flatten());
                Self { encrypted: opened.collect(), ..Self::default() }
            })
        })
    }

    /// The number of connections that the other end has not closed.
    #[must_use]
    pub fn open(&self) -> usize {
        let encrypted = self.encrypted.iter().map(|stream| &stream.sock);
        self.plain.iter().chain(encrypted).filter(|stream| is_open(stream)).count()
    }
}

fn open_encrypted(to: SocketAddr, bytes: &[u8]) -> Option<StreamOwned<ClientConnection, TcpStream>> {
    let stream = client::connect(to).ok()?;
    let mut stream = client::tls(stream, None).ok()?;
    stream.sock.set_write_timeout(Some(WRITE_TIMEOUT)).ok()?;
    for part in bytes.chunks(16 << 10) {
        stream.write_all(part).ok()?;
        if stream.conn.wants_write() {
            // The server has stopped reading.
            break;
        }
    }
    Some(stream)
}

fn is_open(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
