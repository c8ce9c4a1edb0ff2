//! Whether a connection to an echo server lives.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Result;

use crate::wait::wait_for;

/// Whether the other end still echoes.
pub fn lives(stream: &mut (impl Read + Write)) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").and_then(|()| stream.flush()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"ping"
}

/// Waits a second for the end of a connection, without sending anything. What still comes is not looked at.
///
/// # Errors
/// When it does not end.
pub fn ends(mut stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    let ended = || match stream.read(&mut [0; 4096]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    wait_for("the connection to end", Duration::from_secs(1), ended).map(|_| ())
}
