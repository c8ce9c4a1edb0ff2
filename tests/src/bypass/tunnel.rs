//! A websocket that is permitted, frame by frame.

use std::io::{Read, Write};

use anyhow::{Result, anyhow};

use super::check::Check;
use super::send::joined;
use super::stage::{Stage, at};
use crate::mesh::{ELSEWHERE, HTTPBIN};
use crate::websocket::PORT;
use crate::{client, log};

/// Text `hi` from a client, masked with nothing (RFC 6455 §5.2).
const ASKED: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// The same from a server.
const ECHOED: [u8; 4] = [0x81, 2, b'h', b'i'];

/// A websocket to the host that was judged, dialled to somebody else.
pub(super) fn websocket() -> Check {
    let to = at(ELSEWHERE, PORT);
    let asks = format!("`Upgrade: websocket` for `httpbin.org`, then a frame, to {to}");
    Check::question(asks, "101, and an echo from 203.0.113.10", |stage| {
        let said = talk(stage)?;
        let line = log::line(stage.scene.envoy, "the websocket's line", |line| line["status"] == 101)?;
        let decision = line["decision"].as_str().unwrap_or_default();
        let upstream = line["upstream"].as_str().unwrap_or_default();
        if decision.starts_with("allow rule ") && upstream == at(HTTPBIN, PORT).to_string() {
            Ok(format!("{said} from {HTTPBIN}"))
        } else {
            Ok(line.to_string())
        }
    })
}

fn talk(stage: &Stage<'_>) -> Result<String> {
    let request = joined(&[
        "GET /chat HTTP/1.1",
        "Host: httpbin.org",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]);
    stage.workload().run(|| {
        let mut stream = client::connect(at(ELSEWHERE, PORT)).map_err(|e| anyhow!("{e:?}"))?;
        stream.write_all(&request)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let status = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
        stream.write_all(&ASKED)?;
        let mut answer = [0; ECHOED.len()];
        stream.read_exact(&mut answer)?;
        Ok(if answer == ECHOED { format!("{status}, and an echo") } else { format!("{status}, {answer:?}") })
    })?
}
