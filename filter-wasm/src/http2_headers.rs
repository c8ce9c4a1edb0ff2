//! A counter of the header bytes of an HTTP/2 connection that have come before the end of their header block (RFC 9113,
//! sections 4.1 and 6.2).

/// The first bytes of every client (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's header.
const FRAME_HEADER_LENGTH: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A counter of header blocks. It reads the headers of frames and skips their payload.
#[derive(Debug, Default)]
pub(crate) struct Http2Headers {
    /// The part of the next frame's header that has come.
    header: Vec<u8>,
    /// The bytes of the current frame that have not come.
    rest: usize,
    /// The current frame is the last one of a header block.
    ends_block: bool,
    /// The bytes of the current header block. A connection has one at a time: other frames must not interrupt it.
    block: usize,
}

impl Http2Headers {
    /// Reads the next `length` bytes, of which `bytes` returns a part by start and length. Returns the number of bytes of
    /// a header block whose end has not come.
    pub(crate) fn read(&mut self, length: usize, bytes: impl Fn(usize, usize) -> Vec<u8>) -> usize {
        let mut at = 0_usize;
        while at < length {
            let left = length.saturating_sub(at);
            if self.rest > 0 {
                let passed = self.rest.min(left);
                self.rest = self.rest.saturating_sub(passed);
                at = at.saturating_add(passed);
                if self.block > 0 {
                    self.block = self.block.saturating_add(passed);
                }
            } else {
                let wanted = FRAME_HEADER_LENGTH.saturating_sub(self.header.len()).min(left);
                self.header.extend(bytes(at, wanted));
                at = at.saturating_add(wanted);
                self.begin();
            }
            if self.rest == 0 && self.ends_block {
                self.block = 0;
                self.ends_block = false;
            }
        }
        self.block
    }

    /// Starts a frame if its header is complete.
    fn begin(&mut self) {
        let &[a, b, c, kind, flags, ..] = self.header.as_slice() else { return };
        if self.header.len() < FRAME_HEADER_LENGTH {
            return;
        }
        self.header.clear();
        let length = u32::from_be_bytes([0, a, b, c]);
        self.rest = usize::try_from(length).unwrap_or(usize::MAX);
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block = self.block.saturating_add(FRAME_HEADER_LENGTH);
            self.ends_block = flags & END_HEADERS != 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
        let [a, b] = length.to_be_bytes();
        [vec![0, a, b, kind, flags, 0, 0, 0, 1], vec![0xff; length.into()]].concat()
    }

    #[test]
    fn a_header_block_counts_until_it_ends() {
        for (case, frames, expected) in [
            ("nothing", vec![], 0),
            ("no block", vec![frame(4, 0, 18), frame(PING, 0, 8), frame(DATA, 1, 1000)], 0),
            ("a block", vec![frame(HEADERS, END_HEADERS, 100)], 0),
            ("an empty block", vec![frame(HEADERS, END_HEADERS, 0)], 0),
            ("half a block", vec![frame(HEADERS, 1, 100)], 109),
            ("an empty beginning", vec![frame(HEADERS, 1, 0)], 9),
            ("in parts", vec![frame(HEADERS, 0, 100), frame(CONTINUATION, 0, 50)], 168),
            (
                "all parts, and another",
                vec![
                    frame(HEADERS, 0, 100),
                    frame(CONTINUATION, 0, 50),
                    frame(CONTINUATION, END_HEADERS, 50),
                    frame(DATA, 0, 300),
                    frame(HEADERS, 0, 7),
                ],
                16,
            ),
            ("a header alone", vec![frame(HEADERS, END_HEADERS, 90)[..9].to_vec()], 9),
            ("half a frame", vec![frame(HEADERS, END_HEADERS, 90)[..50].to_vec()], 50),
            ("part of a header", vec![frame(HEADERS, END_HEADERS, 90)[..8].to_vec()], 0),
        ] {
            let all = frames.concat();
            for step in [1, 2, 7, 9, 64, all.len().max(1)] {
                let mut reader = Http2Headers::default();
                let mut block = 0;
                for part in all.chunks(step) {
                    block = reader.read(part.len(), |start, length| part[start..start + length].to_vec());
                }
                assert_eq!(block, expected, "{case}, {step} bytes at a time");
            }
        }
    }
}
