//! An allowed websocket, frame by frame.

use std::io::{Read, Write};

use anyhow::{Result, anyhow};

use super::check::Check;
use super::observed_mesh::{ObservedMesh, at};
use super::send::joined;
use crate::access_log;
use crate::client;
use crate::network::{ELSEWHERE, HTTPBIN};
use crate::websocket::PORT;

/// A text frame `hi` from a client, with a zero mask (RFC 6455 §5.2).
const TEXT_FRAME: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// The same frame from a server.
const ECHO_FRAME: [u8; 4] = [0x81, 2, b'h', b'i'];

/// Creates a check that opens a websocket for the allowed host through a forbidden address.
pub(super) fn websocket() -> Check {
    let to = at(ELSEWHERE, PORT);
    let description = format!("`Upgrade: websocket` for `httpbin.org`, then a frame, to {to}");
    Check::question(description, "101, and an echo from 203.0.113.10", |observed| {
        let message = talk(observed)?;
        let line = access_log::wait_for_line(observed.mesh.envoy, "the websocket's line", |line| {
            line["status"] == 101
        })?;
        let decision = line["decision"].as_str().unwrap_or_default();
        let upstream = line["upstream"].as_str().unwrap_or_default();
        if decision.starts_with("allow rule ") && upstream == at(HTTPBIN, PORT).to_string() {
            Ok(format!("{message} from {HTTPBIN}"))
        } else {
            Ok(line.to_string())
        }
    })
}

fn talk(observed: &ObservedMesh<'_>) -> Result<String> {
    let request = joined(&[
        "GET /chat HTTP/1.1",
        "Host: httpbin.org",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]);
    observed.workload().run(|| {
        let mut stream = client::connect(at(ELSEWHERE, PORT)).map_err(|e| anyhow!("{e:?}"))?;
        stream.write_all(&request)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let status = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
        stream.write_all(&TEXT_FRAME)?;
        let mut answer = [0; ECHO_FRAME.len()];
        stream.read_exact(&mut answer)?;
        Ok(if answer == ECHO_FRAME {
            format!("{status}, and an echo")
        } else {
            format!("{status}, {answer:?}")
        })
    })?
}
