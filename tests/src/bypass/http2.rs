//! A minimal HTTP/2 client: it sends any header fields in any order, and reads a status.

use std::io::{Read, Write};

use crate::client::{HttpResponse, Outcome};

/// The header fields of a request, in the order in which they are sent.
pub type Fields = Vec<(&'static str, &'static str)>;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The largest number of frames read for one answer; no answer here has more.
const MAX_FRAMES: usize = 100;

/// Opens an HTTP/2 connection and sends one request after the other, each on its own stream.
pub fn send_each(stream: &mut (impl Read + Write), requests: &[Fields]) -> Vec<Outcome> {
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    if stream.write_all(&begin).is_err() {
        return vec![Outcome::Closed];
    }
    (0_u32..).zip(requests).map(|(n, fields)| send_request(stream, 2 * n + 1, fields)).collect()
}

/// The fields of a `GET`.
#[must_use]
pub fn get(authority: &'static str, path: &'static str) -> Fields {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", path)]
}

fn send_request(stream: &mut (impl Read + Write), id: u32, fields: &Fields) -> Outcome {
    let request = frame(HEADERS, END_HEADERS | END_STREAM, id, &encode(fields));
    if stream.write_all(&request).and_then(|()| stream.flush()).is_err() {
        return Outcome::Closed;
    }
    let mut answer = HttpResponse { status: 0, headers: vec![], body: vec![] };
    for _ in 0..MAX_FRAMES {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Outcome::Closed;
        }
        let [a, b, c, kind, flags, id_bytes @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        if stream.read_exact(&mut payload).is_err() {
            return Outcome::Closed;
        }
        let ours = u32::from_be_bytes(id_bytes) == id;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                // The next read notices a closed connection.
                let _ = stream.write_all(&frame(SETTINGS, ACK, 0, &[]));
            }
            HEADERS if ours => answer.status = status(&payload).unwrap_or(0),
            DATA if ours => answer.body.extend_from_slice(&payload),
            RST_STREAM if ours => return Outcome::Closed,
            GOAWAY => return Outcome::Closed,
            _ => {}
        }
        if ours && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return Outcome::Http(answer);
        }
    }
    Outcome::Silence
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes header fields in HPACK's plainest form: literal fields without indexing (RFC 7541 §6.2.2).
fn encode(fields: &Fields) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(u8::MAX) & 0x7f], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// Decodes the status, which is the first field of every answer: from the static table, or its three digits
/// as a literal.
fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first (RFC 7541 §6.3).
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20)?;
    match *block.get(start..)? {
        [index @ 0x88..=0x8e, ..] => INDEXED.get(usize::from(index - 0x88)).copied(),
        // Digits are 5 or 6 bits of Huffman code.
        [0x08 | 0x48, length @ 0x82..=0x83, ref rest @ ..] => digits(rest.get(..usize::from(length & 0x7f))?),
        [0x08 | 0x48, 3, a, b, c, ..] => std::str::from_utf8(&[a, b, c]).ok()?.parse().ok(),
        _ => None,
    }
}

/// Decodes three digits in Huffman code (RFC 7541, appendix B): `0` to `2` are 00000 to 00010, `3` to `9` are
/// 011001 to 011111.
fn digits(bytes: &[u8]) -> Option<u16> {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | u16::from(*bit));
    let mut at = 0;
    let mut value = 0;
    for _ in 0..3 {
        let short = number(bits.get(at..at + 5)?);
        let digit = if short < 3 {
            at += 5;
            short
        } else {
            let long = number(bits.get(at..at + 6)?);
            at += 6;
            long.checked_sub(0b01_1001)? + 3
        };
        value = value * 10 + digit;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_decoded() {
        for (block, expected) in [
            (&[0x88][..], Some(200)),
            (&[0x20, 0x8c], Some(400)),
            (&[0x48, 3, b'4', b'2', b'1'], Some(421)),
            // 403: 011010 00000 011001, and ones to the end of the byte.
            (&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111], Some(403)),
            (&[0x00], None),
            (&[], None),
        ] {
            assert_eq!(status(block), expected, "{block:x?}");
        }
    }
}
