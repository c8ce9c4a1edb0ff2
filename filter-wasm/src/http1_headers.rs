//! A counter of the header bytes of an HTTP/1 connection that have come before the end of the headers.
//!
//! It decides nothing: Envoy's parser finds the end of headers. A client may send the next request before the response
//! to the current one, and Envoy reads it after that.

/// The number of bytes that are read at a time.
const CHUNK_LENGTH: usize = 4096;

/// The divisor for bytes after headers that Envoy has not parsed yet. Mostly they are the beginning of a body, and count
/// only until Envoy parses the headers. But Envoy refuses some requests before it shows them to any filter.
const UNPARSED_DIVISOR: usize = 4;

/// A counter of the headers of an HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct Http1Headers {
    state: MessageState,
    /// A line that is not empty has come.
    has_begun: bool,
    /// The bytes of the current line, without its end.
    line: usize,
    /// The last byte ended an empty line, as headers, chunked bodies and trailers end.
    is_blank: bool,
}

/// The state of the current message.
#[derive(Debug)]
enum MessageState {
    /// The end of the headers has not come.
    Headers { held: usize },
    /// The end has come, and Envoy is about to parse the headers. `after` bytes follow them.
    Ended { after: usize },
    /// Envoy has parsed the headers, and the request has not ended.
    Request { length: Option<usize>, after: usize },
    /// These bytes came before the end of the request before. The end of their headers is not known.
    Pipelined { held: usize },
}

impl Default for Http1Headers {
    fn default() -> Self {
        Self { state: MessageState::Headers { held: 0 }, has_begun: false, line: 0, is_blank: false }
    }
}

impl Http1Headers {
    /// Reads the next `length` bytes, of which `bytes` returns a part by start and length. Returns the number of header
    /// bytes that Envoy holds.
    pub(crate) fn read(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> usize {
        match &mut self.state {
            MessageState::Headers { held } => {
                let all = held.saturating_add(length);
                let Some(end) = self.find_end(length, &bytes) else {
                    self.state = MessageState::Headers { held: all };
                    return all;
                };
                let after = length.saturating_sub(end);
                self.state = MessageState::Ended { after };
                self.read_end(after, length, bytes);
                after / UNPARSED_DIVISOR
            }
            MessageState::Ended { after } => {
                let all = after.saturating_add(length);
                *after = all;
                self.read_end(length, length, bytes);
                all / UNPARSED_DIVISOR
            }
            MessageState::Request { after, .. } => {
                *after = after.saturating_add(length);
                self.read_end(length, length, bytes);
                0
            }
            MessageState::Pipelined { held } => {
                let all = held.saturating_add(length);
                *held = all;
                self.read_end(length, length, bytes);
                all
            }
        }
    }

    /// Notes that Envoy has parsed the headers of a request. Its body has `length` bytes, or ends by its own framing.
    pub(crate) fn complete(&mut self, length: Option<usize>) {
        let after = match self.state {
            MessageState::Headers { .. } => 0,
            MessageState::Ended { after } | MessageState::Request { after, .. } => after,
            MessageState::Pipelined { held } => held,
        };
        self.state = MessageState::Request { length, after };
    }

    /// Notes that the request has ended. Returns the number of header bytes of the next one that Envoy holds.
    pub(crate) fn end(&mut self) -> usize {
        let MessageState::Request { length, after } = self.state else { return 0 };
        let held = match length {
            Some(length) => after.saturating_sub(length),
            None if self.is_blank => 0,
            None => after,
        };
        self.has_begun = false;
        self.state = if held > 0 { MessageState::Pipelined { held } } else { MessageState::Headers { held } };
        held
    }

    /// Reads the end of the last `rest` of `length` bytes.
    fn read_end(&mut self, rest: usize, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) {
        let seen = rest.min(3);
        if seen < rest {
            self.line = 1;
        }
        if seen > 0 {
            for byte in bytes(length.saturating_sub(seen), seen) {
                self.step(byte);
            }
        }
    }

    /// Finds the end of headers. Returns the number of bytes up to it.
    fn find_end(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> Option<usize> {
        let mut at = 0_usize;
        while at < length {
            let chunk = bytes(at, length.saturating_sub(at).min(CHUNK_LENGTH));
            if chunk.is_empty() {
                return None;
            }
            for byte in chunk {
                at = at.saturating_add(1);
                self.has_begun |= !matches!(byte, b'\r' | b'\n');
                self.step(byte);
                // Empty lines before a request do not end its headers.
                if self.is_blank && self.has_begun {
                    return Some(at);
                }
            }
        }
        None
    }

    fn step(&mut self, byte: u8) {
        self.is_blank = byte == b'\n' && self.line == 0;
        match byte {
            b'\n' => self.line = 0,
            b'\r' => {}
            _ => self.line = self.line.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the held bytes after each step: bytes that come, `complete` and `end`.
    fn held_after(steps: &[Step], chunk: usize) -> Vec<usize> {
        let mut headers = Http1Headers::default();
        let mut held = 0;
        let mut found = Vec::new();
        for step in steps {
            match step {
                Step::Bytes(text) => {
                    for part in text.as_bytes().chunks(chunk) {
                        held = headers.read(part.len(), |at, length| {
                            part.iter().skip(at).take(length).copied().collect()
                        });
                    }
                }
                Step::Complete(length) => {
                    headers.complete(*length);
                    held = 0;
                }
                Step::End => held = headers.end(),
            }
            found.push(held);
        }
        found
    }

    enum Step {
        Bytes(&'static str),
        Complete(Option<usize>),
        End,
    }
    use Step::{Bytes, Complete, End};

    const GET: &str = "GET / HTTP/1.1\r\nhost: a.org\r\n\r\n";
    const PART: &str = "GET / HTTP/1.1\r\nx: yyyyyyy";

    #[test]
    fn headers_count_until_they_end() {
        for (case, steps, expected) in [
            ("half", vec![Bytes(PART), Bytes("zz")], vec![26, 28]),
            ("one, and another", vec![Bytes(GET), Complete(None), End, Bytes(PART)], vec![0, 0, 0, 26]),
            (
                "sent at once with the first part of the next",
                vec![Bytes("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nx: y"), Complete(None), End],
                vec![5, 0, 20],
            ),
            (
                "sent while the first is answered",
                vec![Bytes(GET), Complete(None), Bytes(PART), End, Bytes("z")],
                vec![0, 0, 0, 26, 27],
            ),
            (
                "two at once",
                vec![
                    Bytes("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
                    Complete(None),
                    End,
                    Complete(None),
                    End,
                    Bytes("GET"),
                ],
                vec![4, 0, 0, 0, 0, 3],
            ),
            (
                "a body of known length",
                vec![Bytes("POST / HTTP/1.1\n\nabc"), Complete(Some(5)), Bytes("de"), End],
                vec![0, 0, 0, 0],
            ),
            (
                "and what follows it",
                vec![Bytes("POST / HTTP/1.1\n\nabc"), Complete(Some(5)), Bytes("dePOST"), End],
                vec![0, 0, 0, 4],
            ),
            (
                "chunks",
                vec![Bytes("POST / HTTP/1.1\n\n"), Complete(None), Bytes("1\r\na\r\n0\r\n\r\n"), End],
                vec![0, 0, 0, 0],
            ),
            (
                "chunks and what follows them",
                vec![Bytes("POST / HTTP/1.1\n\n"), Complete(None), Bytes("0\r\n\r\nGET / H"), End],
                vec![0, 0, 0, 12],
            ),
            (
                "empty lines first",
                vec![Bytes("\r\n\nGET / HTTP/1.1\n\n"), Complete(None), End],
                vec![0, 0, 0],
            ),
        ] {
            assert_eq!(held_after(&steps, 9999), expected, "{case}");
            assert_eq!(held_after(&steps, 1), expected, "{case}, byte by byte");
        }
    }
}
