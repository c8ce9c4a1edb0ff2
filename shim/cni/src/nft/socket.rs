//! A netlink socket to nf_tables of the current network namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::attribute::Attribute;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const HEADER: usize = 16;
/// Header of nf_tables after netlink's.
const FAMILY_HEADER: usize = 4;
/// The kernel answers at once; a lost answer must not block a node's runtime.
const TIMEOUT_SECONDS: i64 = 5;
/// The kernel's datagrams are at most 32 KB for dumps.
const RECEIVE_BYTES: usize = 256 * 1024;
/// A batch is one datagram. A pod's rules take about 250 bytes each, so this is enough for 16,000 rules.
const SEND_BYTES: usize = 4 * 1024 * 1024;

/// A change of nf_tables.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// Number of the operation.
    pub(super) operation: u16,
    /// Protocol family.
    pub(super) family: u8,
    pub(super) attributes: Vec<Attribute>,
}

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetlinkError {
    /// A system call failed.
    #[error("{0}: {1}")]
    Call(&'static str, Errno),
    /// The kernel refuses a change.
    #[error("the kernel refuses change {place} of {count}: {reason}")]
    Refused { place: usize, count: usize, reason: Errno },
    /// The answer is malformed.
    #[error("the kernel's answer is malformed")]
    Malformed,
}

#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let call = |name| move |error| NetlinkError::Call(name, error);
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(call("cannot open a netlink socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(call("cannot bind a netlink socket"))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))
            .map_err(call("cannot limit the time of a netlink socket"))?;
        setsockopt(&fd, SndBufForce, &SEND_BYTES)
            .map_err(call("cannot enlarge the buffer of a netlink socket"))?;
        Ok(Self(fd))
    }

    /// Makes all changes in one transaction: all of them or none.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), NetlinkError> {
        let Some(last) = changes.len().checked_sub(1) else { return Ok(()) };
        let mut bytes = Vec::new();
        let batch = |bytes: &mut Vec<u8>, kind: u16| message(bytes, kind, REQUEST, 0, (0, SUBSYSTEM), &[]);
        batch(&mut bytes, BATCH_BEGIN);
        for (place, change) in changes.iter().enumerate() {
            // Errors come in any case. The acknowledgement of the last one says that there were none.
            let wants_answer = if place == last { ACKNOWLEDGE } else { 0 };
            let kind = (SUBSYSTEM << 8) | change.operation;
            let flags = REQUEST | CREATE | APPEND | wants_answer;
            message(&mut bytes, kind, flags, sequence(place), (change.family, 0), &change.attributes);
        }
        batch(&mut bytes, BATCH_END);
        self.send(&bytes)?;
        let refused = |number: u32, reason| {
            let place = usize::try_from(number).unwrap_or_default();
            NetlinkError::Refused { place, count: changes.len(), reason }
        };
        loop {
            for (kind, number, payload) in split_messages(&self.receive()?)? {
                match (kind, error_of(payload)) {
                    (ERROR, Some(0)) if number == sequence(last) => return Ok(()),
                    (ERROR, Some(0)) => {}
                    (ERROR, Some(code)) => return Err(refused(number, Errno::from_raw(-code))),
                    _ => return Err(NetlinkError::Malformed),
                }
            }
        }
    }

    /// Lists objects of a family: their attributes.
    pub(super) fn list(&self, operation: u16, family: u8) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut bytes = Vec::new();
        message(&mut bytes, (SUBSYSTEM << 8) | operation, REQUEST | DUMP, 1, (family, 0), &[]);
        self.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for (kind, _, payload) in split_messages(&self.receive()?)? {
                match (kind, error_of(payload)) {
                    (DONE, _) => return Ok(found),
                    (ERROR, Some(code)) => {
                        return Err(NetlinkError::Refused {
                            place: 1,
                            count: 1,
                            reason: Errno::from_raw(-code),
                        });
                    }
                    (ERROR, None) => return Err(NetlinkError::Malformed),
                    _ => found.push(payload.get(FAMILY_HEADER..).ok_or(NetlinkError::Malformed)?.to_vec()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        match send(self.0.as_raw_fd(), bytes, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(error) => Err(NetlinkError::Call("cannot send to nf_tables", error)),
        }
    }

    fn receive(&self) -> Result<Vec<u8>, NetlinkError> {
        let mut bytes = vec![0; RECEIVE_BYTES];
        loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(length) if length < RECEIVE_BYTES => {
                    bytes.truncate(length);
                    return Ok(bytes);
                }
                Ok(_) => return Err(NetlinkError::Malformed),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(NetlinkError::Call("nf_tables does not answer", error)),
            }
        }
    }
}

/// The number of a message in a batch. Zero is the batch itself.
fn sequence(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1)
}

fn message(
    to: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    attributes: &[Attribute],
) {
    let start = to.len();
    to.extend(0u32.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(flags.to_ne_bytes());
    to.extend(sequence.to_ne_bytes());
    to.extend(0u32.to_ne_bytes());
    to.extend([family, 0]);
    to.extend(resource.to_be_bytes());
    attributes.iter().for_each(|attribute| attribute.encode(to));
    let length = u32::try_from(to.len() - start).unwrap_or(u32::MAX);
    to[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Type, number and payload of a message.
type Message<'m> = (u16, u32, &'m [u8]);

/// Splits a datagram into messages.
fn split_messages(mut bytes: &[u8]) -> Result<Vec<Message<'_>>, NetlinkError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let [a, b, c, d, kind_a, kind_b, _, _, e, f, g, h, ..] = bytes else {
            return Err(NetlinkError::Malformed);
        };
        let length = usize::try_from(u32::from_ne_bytes([*a, *b, *c, *d])).unwrap_or_default();
        let payload = bytes.get(HEADER..length).ok_or(NetlinkError::Malformed)?;
        found.push((u16::from_ne_bytes([*kind_a, *kind_b]), u32::from_ne_bytes([*e, *f, *g, *h]), payload));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

fn error_of(payload: &[u8]) -> Option<i32> {
    let [a, b, c, d, ..] = payload else { return None };
    Some(i32::from_ne_bytes([*a, *b, *c, *d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_datagram_is_an_error() {
        assert!(split_messages(&[]).is_ok_and(|found| found.is_empty()));
        for bytes in
            [&[1u8, 2, 3][..], &[0; 16], &[255; 16], &[15, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
        {
            assert!(matches!(split_messages(bytes), Err(NetlinkError::Malformed)), "{bytes:?}");
        }
    }
}
