//! Clients of an echo server.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

use crate::wait::wait_for;

/// Returns true if the server still echoes.
pub fn still_echoes(stream: &mut (impl Read + Write)) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.flush()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"ping"
}

/// Waits up to a second for the end of a connection without sending anything. Bytes that still arrive are
/// ignored.
///
/// # Errors
/// Fails if it does not end.
pub fn wait_for_end(mut stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    let ended = || match stream.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    wait_for("the connection to end", Duration::from_secs(1), ended).map(|_| ())
}
