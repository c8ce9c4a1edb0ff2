//! Reads the first ClientHello of a connection, however it is cut up.
//!
//! Accepts what RFC 8446 §4.1.2 and §5.1 and RFC 5246 allow, in any segmentation over TCP and over
//! TLS records, and nothing else: what is not understood is malformed, never "no name".

mod parse;

/// The longest ClientHello that is read, its handshake header included.
pub const MAX_HELLO_LENGTH: usize = 16 * 1024;
/// The longest fragment of a record (RFC 8446 §5.1).
const LONGEST_FRAGMENT: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_TYPE_HANDSHAKE: u8 = 22;
const HANDSHAKE_TYPE_CLIENT_HELLO: u8 = 1;

/// What a policy wants to know of a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name in lower case, without a trailing dot; `None` when the client names none. What is no host name
    /// is kept as text that no [`Host`](crate::Host) has: only rules that list names need to read it.
    pub server_name: Option<Box<str>>,
    /// The application protocols that the client offers (RFC 7301), in its order.
    pub alpn: Vec<Box<[u8]>>,
    /// The hello carries an encrypted one (RFC 9849, or the drafts before it), or pretends to.
    pub encrypted: bool,
}

/// Why bytes that begin like TLS are no usable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Against the standard, or against the limits of this reader.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// More than 16 KiB.
    #[error("ClientHello of more than 16 KiB")]
    Oversize,
}

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    More,
    /// A complete ClientHello.
    Hello(ClientHello),
    /// No TLS.
    NotTls,
    /// TLS, but not a ClientHello that can be trusted.
    Malformed(HelloError),
}

/// Takes bytes in any segmentation until it knows. Then it keeps giving the same answer.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    consumed: usize,
    /// The header of the current record, as far as it is there.
    record: Vec<u8>,
    /// What the current record still owes.
    fragment: usize,
    /// The handshake message so far, its records' headers removed.
    message: Vec<u8>,
    answer: Option<Progress>,
}

impl Reader {
    /// How many bytes were taken so far: the next call to [`Reader::feed`] gets what follows them.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        if let Some(answer) = &self.answer {
            return answer.clone();
        }
        // Not by what is kept: after the header of the first record alone, nothing is.
        let at_the_beginning = self.consumed == 0;
        self.consumed = self.consumed.saturating_add(bytes.len());
        let progress = if at_the_beginning {
            whole(bytes).unwrap_or_else(|| self.take(bytes))
        } else {
            self.take(bytes)
        };
        if progress != Progress::More {
            self.answer = Some(progress.clone());
            self.record = Vec::new();
            self.message = Vec::new();
        }
        progress
    }

    fn take(&mut self, mut bytes: &[u8]) -> Progress {
        while !bytes.is_empty() {
            if self.fragment == 0 {
                bytes = self.take_header(bytes);
                match record_length(&self.record) {
                    Header::More => {}
                    Header::Is(length) => {
                        self.fragment = length;
                        self.record.clear();
                    }
                    Header::NotTls if self.message.is_empty() => return Progress::NotTls,
                    Header::NotTls => return malformed("another record between the parts of the hello"),
                    Header::Bad(error) => return Progress::Malformed(error),
                }
                continue;
            }
            let (part, rest) = bytes.split_at(self.fragment.min(bytes.len()));
            self.message.extend_from_slice(part);
            self.fragment = self.fragment.saturating_sub(part.len());
            bytes = rest;
            match message_length(&self.message) {
                Header::Is(length) => {
                    if let Some(message) = self.message.get(..length) {
                        return parse::hello(message);
                    }
                }
                Header::More => {}
                Header::NotTls => return malformed("not a ClientHello"),
                Header::Bad(error) => return Progress::Malformed(error),
            }
        }
        Progress::More
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let missing = RECORD_HEADER.saturating_sub(self.record.len());
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        self.record.extend_from_slice(part);
        rest
    }
}

/// The answer where the bytes hold the complete message in one record: without copying it.
fn whole(bytes: &[u8]) -> Option<Progress> {
    let (header, rest) = bytes.split_at_checked(RECORD_HEADER)?;
    let Header::Is(length) = record_length(header) else { return None };
    let fragment = rest.get(..length.min(rest.len()))?;
    let Header::Is(length) = message_length(fragment) else { return None };
    fragment.get(..length).map(parse::hello)
}

enum Header {
    More,
    Is(usize),
    NotTls,
    Bad(HelloError),
}

/// The length of a record's fragment. As few bytes as possible say that it is no TLS.
fn record_length(header: &[u8]) -> Header {
    match *header {
        [] => Header::More,
        [content_type, ..] if content_type != CONTENT_TYPE_HANDSHAKE => Header::NotTls,
        [_, major, ..] if major != 3 => Header::NotTls,
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            0 => Header::Bad(HelloError::Malformed("an empty handshake record")),
            length if length > LONGEST_FRAGMENT => {
                Header::Bad(HelloError::Malformed("a record of more than 16 KiB"))
            }
            length => Header::Is(length),
        },
        [_, ..] => Header::More,
    }
}

/// The length of the handshake message, its header included.
fn message_length(message: &[u8]) -> Header {
    match *message {
        [] => Header::More,
        [kind, ..] if kind != HANDSHAKE_TYPE_CLIENT_HELLO => Header::NotTls,
        [_, a, b, c, ..] => {
            let body = u32::from_be_bytes([0, a, b, c]) as usize;
            match body.saturating_add(HANDSHAKE_HEADER) {
                length if length > MAX_HELLO_LENGTH => Header::Bad(HelloError::Oversize),
                length => Header::Is(length),
            }
        }
        [_, ..] => Header::More,
    }
}

fn malformed(why: &'static str) -> Progress {
    Progress::Malformed(HelloError::Malformed(why))
}

#[cfg(test)]
mod tests;
