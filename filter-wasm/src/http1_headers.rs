//! The requests of an HTTP/1 connection, as far as their bytes say how much of headers has come whose end has not.
//!
//! This counts and decides nothing: where messages end is for Envoy's parser to say. A client may send the next
//! request before the current one is answered, and Envoy reads it then.

/// How many bytes are looked at at a time.
const PIECE: usize = 4096;

/// What comes behind headers that Envoy has not seen counts as a part of this: mostly it is the beginning of a
/// body, and counts for a moment. But some requests Envoy refuses before it shows them to any filter.
const UNSEEN: usize = 4;

/// A counter of headers.
#[derive(Debug)]
pub(crate) struct Messages {
    stage: Stage,
    /// Whether a line has come that is not empty.
    begun: bool,
    /// The bytes of the current line, without its end.
    line: usize,
    /// Whether the last byte ended an empty line, as headers, chunked bodies and trailers end.
    blank: bool,
}

#[derive(Debug)]
enum Stage {
    /// The end of the headers has not come.
    Headers { held: usize },
    /// It has, and Envoy sees them in a moment. `after` came behind it.
    Ended { after: usize },
    /// Envoy has seen them, and the request has not ended.
    Request { length: Option<usize>, after: usize },
    /// This came ahead of the end of the request before. Where its headers end is not known.
    Ahead { held: usize },
}

impl Default for Messages {
    fn default() -> Self {
        Self { stage: Stage::Headers { held: 0 }, begun: false, line: 0, blank: false }
    }
}

impl Messages {
    /// Reads on over `length` bytes, of which `bytes` shows a part: from where, how many. Returns how many bytes
    /// of headers are held.
    pub(crate) fn read(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> usize {
        match &mut self.stage {
            Stage::Headers { held } => {
                let all = held.saturating_add(length);
                let Some(end) = self.scan(length, &bytes) else {
                    self.stage = Stage::Headers { held: all };
                    return all;
                };
                let after = length.saturating_sub(end);
                self.stage = Stage::Ended { after };
                self.look_at_end(after, length, bytes);
                after / UNSEEN
            }
            Stage::Ended { after } => {
                let all = after.saturating_add(length);
                *after = all;
                self.look_at_end(length, length, bytes);
                all / UNSEEN
            }
            Stage::Request { after, .. } => {
                *after = after.saturating_add(length);
                self.look_at_end(length, length, bytes);
                0
            }
            Stage::Ahead { held } => {
                let all = held.saturating_add(length);
                *held = all;
                self.look_at_end(length, length, bytes);
                all
            }
        }
    }

    /// Envoy has seen the headers of a request. Its body has `length` bytes, or says itself where it ends.
    pub(crate) fn complete(&mut self, length: Option<usize>) {
        let after = match self.stage {
            Stage::Headers { .. } => 0,
            Stage::Ended { after } | Stage::Request { after, .. } => after,
            Stage::Ahead { held } => held,
        };
        self.stage = Stage::Request { length, after };
    }

    /// The request has ended. Returns how many bytes of the next one's headers are held.
    pub(crate) fn end(&mut self) -> usize {
        let Stage::Request { length, after } = self.stage else { return 0 };
        let held = match length {
            Some(length) => after.saturating_sub(length),
            None if self.blank => 0,
            None => after,
        };
        self.begun = false;
        self.stage = if held > 0 { Stage::Ahead { held } } else { Stage::Headers { held } };
        held
    }

    /// Looks at the last of `rest` bytes that end where `length` bytes end.
    fn look_at_end(&mut self, rest: usize, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) {
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

    /// Looks for the end of headers. Returns how many bytes come before what follows it.
    fn scan(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> Option<usize> {
        let mut at = 0_usize;
        while at < length {
            let piece = bytes(at, length.saturating_sub(at).min(PIECE));
            if piece.is_empty() {
                return None;
            }
            for byte in piece {
                at = at.saturating_add(1);
                self.begun |= !matches!(byte, b'\r' | b'\n');
                self.step(byte);
                // Empty lines before a request are no end.
                if self.blank && self.begun {
                    return Some(at);
                }
            }
        }
        None
    }

    fn step(&mut self, byte: u8) {
        self.blank = byte == b'\n' && self.line == 0;
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

    /// What is held after each step of a story: bytes that come, `complete` and `end`.
    fn story(steps: &[Step], chunk: usize) -> Vec<usize> {
        let mut messages = Messages::default();
        let mut held = 0;
        let mut found = Vec::new();
        for step in steps {
            match step {
                Step::Bytes(text) => {
                    for part in text.as_bytes().chunks(chunk) {
                        held = messages.read(part.len(), |at, length| {
                            part.iter().skip(at).take(length).copied().collect()
                        });
                    }
                }
                Step::Complete(length) => {
                    messages.complete(*length);
                    held = 0;
                }
                Step::End => held = messages.end(),
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
            assert_eq!(story(&steps, 9999), expected, "{case}");
            assert_eq!(story(&steps, 1), expected, "{case}, byte by byte");
        }
    }
}
