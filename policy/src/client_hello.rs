//! A reader of the first ClientHello of a connection.
//!
//! It accepts what RFC 8446 §4.1.2 and §5.1 and RFC 5246 allow, in any segmentation over TCP and over TLS records, and
//! nothing else: bytes that it does not understand are malformed, never a hello without a name.

mod parse;

/// The longest ClientHello that the reader accepts, its handshake header included. Honest ones have 0.3 to 2 kB.
pub const MAX_HELLO_LENGTH: usize = 16 * 1024;
/// The longest fragment of a record (RFC 8446 §5.1).
const MAX_FRAGMENT_LENGTH: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_TYPE_HANDSHAKE: u8 = 22;
const HANDSHAKE_TYPE_CLIENT_HELLO: u8 = 1;

/// The parts of a ClientHello that a policy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name in lower case, without a trailing dot; `None` when the client names none. A name that is not a
    /// host name is kept as text that no [`Host`](crate::Host) has: only rules that list names refuse it.
    pub server_name: Option<Box<str>>,
    /// The application protocols that the client offers (RFC 7301), in its order.
    pub alpn: Vec<Box<[u8]>>,
    /// The hello carries an encrypted one (RFC 9849, or its drafts), or pretends to.
    pub encrypted: bool,
}

/// A reason why bytes that begin like TLS are no usable ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes violate the standard, or a limit of this reader.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
    /// The hello is longer than 16 KiB.
    #[error("ClientHello of more than 16 KiB")]
    Oversize,
}

/// The result of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// A complete ClientHello.
    Hello(ClientHello),
    /// The bytes are not TLS.
    NotTls,
    /// The bytes begin like TLS, and are not a ClientHello that can be trusted.
    Malformed(HelloError),
}

/// A reader of one ClientHello in any segmentation. Once it has a result, it keeps it.
///
/// ```
/// use egress_policy::client_hello::{Progress, Reader};
///
/// let mut reader = Reader::default();
/// // The content type of a handshake record may begin a ClientHello; a letter does not.
/// assert_eq!(reader.feed(&[22]), Progress::More);
/// assert_eq!(Reader::default().feed(b"GET / HTTP/1.1\r\n"), Progress::NotTls);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Reader {
    consumed: usize,
    /// The header of the current record, as far as it was read.
    record: Vec<u8>,
    /// The bytes that the current record still lacks.
    fragment: usize,
    /// The handshake message so far, without the headers of its records.
    message: Vec<u8>,
    result: Option<Progress>,
}

impl Reader {
    /// Returns the number of bytes taken so far: the next call to [`Reader::feed`] gets the bytes after them.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        if let Some(result) = &self.result {
            return result.clone();
        }
        // Not by the buffers: after exactly the header of the first record they are empty.
        let at_the_beginning = self.consumed == 0;
        self.consumed = self.consumed.saturating_add(bytes.len());
        let progress = if at_the_beginning {
            read_whole(bytes).unwrap_or_else(|| self.take(bytes))
        } else {
            self.take(bytes)
        };
        if progress != Progress::More {
            self.result = Some(progress.clone());
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
                    Length::More => {}
                    Length::Is(length) => {
                        self.fragment = length;
                        self.record.clear();
                    }
                    Length::NotTls if self.message.is_empty() => return Progress::NotTls,
                    Length::NotTls => return malformed("another record between the parts of the hello"),
                    Length::Bad(error) => return Progress::Malformed(error),
                }
                continue;
            }
            let (part, rest) = bytes.split_at(self.fragment.min(bytes.len()));
            self.message.extend_from_slice(part);
            self.fragment = self.fragment.saturating_sub(part.len());
            bytes = rest;
            match message_length(&self.message) {
                Length::Is(length) => {
                    if let Some(message) = self.message.get(..length) {
                        return parse::parse_hello(message);
                    }
                }
                Length::More => {}
                Length::NotTls => return malformed("not a ClientHello"),
                Length::Bad(error) => return Progress::Malformed(error),
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

/// Reads a complete message in one record, without copying it.
fn read_whole(bytes: &[u8]) -> Option<Progress> {
    let (header, rest) = bytes.split_at_checked(RECORD_HEADER)?;
    let Length::Is(length) = record_length(header) else { return None };
    let fragment = rest.get(..length.min(rest.len()))?;
    let Length::Is(length) = message_length(fragment) else { return None };
    fragment.get(..length).map(parse::parse_hello)
}

/// A length that stands in a header.
enum Length {
    More,
    Is(usize),
    NotTls,
    Bad(HelloError),
}

/// Reads the length of a record's fragment. As few bytes as possible decide that it is not TLS.
fn record_length(header: &[u8]) -> Length {
    match *header {
        [] => Length::More,
        [content_type, ..] if content_type != CONTENT_TYPE_HANDSHAKE => Length::NotTls,
        [_, major, ..] if major != 3 => Length::NotTls,
        [_, _, _, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
            0 => Length::Bad(HelloError::Malformed("an empty handshake record")),
            length if length > MAX_FRAGMENT_LENGTH => {
                Length::Bad(HelloError::Malformed("a record of more than 16 KiB"))
            }
            length => Length::Is(length),
        },
        [_, ..] => Length::More,
    }
}

/// Reads the length of the handshake message, its header included.
fn message_length(message: &[u8]) -> Length {
    match *message {
        [] => Length::More,
        [kind, ..] if kind != HANDSHAKE_TYPE_CLIENT_HELLO => Length::NotTls,
        [_, a, b, c, ..] => {
            let body = u32::from_be_bytes([0, a, b, c]) as usize;
            match body.saturating_add(HANDSHAKE_HEADER) {
                length if length > MAX_HELLO_LENGTH => Length::Bad(HelloError::Oversize),
                length => Length::Is(length),
            }
        }
        [_, ..] => Length::More,
    }
}

fn malformed(why: &'static str) -> Progress {
    Progress::Malformed(HelloError::Malformed(why))
}

#[cfg(test)]
mod tests;
