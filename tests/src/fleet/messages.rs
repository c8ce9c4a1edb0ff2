//! Reads discovery responses from a stream of gRPC, and drops the resources in them.

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};

/// The fields that both protocols share: version, type and nonce.
const KEPT_FIELDS: [u32; 3] = [1, 4, 5];
/// The length of a gRPC frame's head.
const FRAME_HEAD: usize = 5;

/// A reader of responses. It holds what is not complete yet, but never a resource.
#[derive(Debug, Default)]
pub(super) struct ResponseReader {
    /// The bytes that were not understood yet.
    pending: Vec<u8>,
    /// The bytes of a resource that are still to come.
    skipped: usize,
    /// The bytes of the current message that are still to come; `None` between messages.
    left: Option<usize>,
    /// The fields of the current message that are kept.
    kept: Vec<u8>,
}

impl ResponseReader {
    /// Takes bytes, and returns the messages that end in them, without their resources.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<DiscoveryResponse> {
        let mut complete = Vec::new();
        loop {
            let skip = self.skipped.min(bytes.len());
            bytes = &bytes[skip..];
            self.skipped -= skip;
            if self.skipped > 0 {
                return complete;
            }
            if self.left == Some(0) {
                self.left = None;
                complete.extend(DiscoveryResponse::decode(&*std::mem::take(&mut self.kept)));
                continue;
            }
            // A head of a field is short, and so is everything that is kept.
            self.pending.extend_from_slice(bytes);
            bytes = &[];
            if !self.advance() {
                return complete;
            }
        }
    }

    /// Takes a frame's head or a field from the pending bytes. Returns whether there was one.
    fn advance(&mut self) -> bool {
        let Some(left) = self.left else {
            if self.pending.len() < FRAME_HEAD {
                return false;
            }
            let head: Vec<u8> = self.pending.drain(..FRAME_HEAD).collect();
            self.left = Some(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
            return true;
        };
        let mut rest = &*self.pending;
        let Ok((field, wire_type)) = decode_key(&mut rest) else { return false };
        assert_eq!(wire_type, WireType::LengthDelimited, "a field {field} that responses do not have");
        let Ok(length) = decode_varint(&mut rest) else { return false };
        let head = self.pending.len() - rest.len();
        let whole = head + usize::try_from(length).unwrap_or(usize::MAX);
        if KEPT_FIELDS.contains(&field) {
            if self.pending.len() < whole {
                return false;
            }
            self.kept.extend(self.pending.drain(..whole));
        } else {
            let here = whole.min(self.pending.len());
            self.pending.drain(..here);
            self.skipped = whole - here;
        }
        self.left = Some(left - whole);
        true
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    #[test]
    fn responses_are_read_however_they_are_cut() {
        let response = |nonce: &str, length| DiscoveryResponse {
            version_info: "7".to_owned(),
            type_url: "type".to_owned(),
            nonce: nonce.to_owned(),
            resources: vec![Any { type_url: "t".to_owned(), value: vec![1; length] }; 2],
            ..DiscoveryResponse::default()
        };
        let mut bytes = Vec::new();
        for message in [response("1", 100_000), response("2", 0), response("3", 40)] {
            bytes.push(0);
            bytes.extend(u32::try_from(message.encoded_len()).expect("short").to_be_bytes());
            bytes.extend(message.encode_to_vec());
        }
        for size in [1, 3, 5, 1000, bytes.len()] {
            let mut reader = ResponseReader::default();
            let read: Vec<_> = bytes.chunks(size).flat_map(|chunk| reader.feed(chunk)).collect();
            let nonces: Vec<&str> = read.iter().map(|message| &*message.nonce).collect();
            assert_eq!(nonces, ["1", "2", "3"], "in pieces of {size}");
            assert!(read.iter().all(|message| message.version_info == "7" && message.resources.is_empty()));
        }
    }
}
