//! The JSON of a policy document, made anew whenever it is sent, piece by piece.
//!
//! A document has up to 8 MiB, and what it is made of is there once for all identities that an object names. So its
//! text is never there as a whole: not in a snapshot, and not in a stream that sends it.

use std::sync::Arc;

use egress_policy::{Document, Rule};
use serde::Serialize;
use sha2::{Digest, Sha256};

use egress_core::hex;

/// The size that a piece has at least, unless it is the last. A frame of HTTP/2 has 16 KiB.
const PIECE_SIZE: usize = 16 << 10;

/// The text of a document: how long it is, what it hashes to, and what it is made of.
#[derive(Debug)]
pub struct PolicyText {
    document: Arc<Document>,
    length: usize,
    hash: String,
}

impl PolicyText {
    /// Measures the text of a document.
    #[must_use]
    pub fn new(document: Arc<Document>) -> Self {
        let (mut length, mut hash) = (0, Sha256::new());
        for piece in Pieces::new(Arc::clone(&document)) {
            length += piece.len();
            hash.update(&piece);
        }
        Self { document, length, hash: hex(&hash.finalize()) }
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The hash of the text.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The text, piece by piece.
    #[must_use]
    pub fn pieces(&self) -> Pieces {
        Pieces::new(Arc::clone(&self.document))
    }
}

/// The pieces of a text.
#[derive(Debug)]
pub struct Pieces {
    document: Arc<Document>,
    /// The start of the next piece.
    at: Place,
}

/// A place in the text.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start,
    /// Before a rule.
    Rule(usize),
    /// In a list of a rule, before an item.
    Item(usize, List, usize),
    /// Before a service of the mesh.
    InMesh(usize),
    End,
}

/// A list of a rule.
#[derive(Clone, Copy, Debug)]
enum List {
    Addresses,
    Hosts,
    Routes,
}

impl List {
    const fn next(self) -> Option<Self> {
        match self {
            Self::Addresses => Some(Self::Hosts),
            Self::Hosts => Some(Self::Routes),
            Self::Routes => None,
        }
    }

    const fn field(self) -> &'static str {
        match self {
            Self::Addresses => ",\"addresses\":[",
            Self::Hosts => ",\"hosts\":[",
            Self::Routes => ",\"routes\":[",
        }
    }

    /// The number of items; `None` where the rule has no such list.
    fn len(self, rule: &Rule) -> Option<usize> {
        match self {
            Self::Addresses => rule.addresses.as_ref().map(|list| list.len()),
            Self::Hosts => rule.hosts.as_ref().map(|list| list.len()),
            Self::Routes => rule.routes.as_ref().map(|list| list.len()),
        }
    }

    fn write(self, rule: &Rule, item: usize, piece: &mut Vec<u8>) {
        match self {
            Self::Addresses => write(piece, &rule.addresses.as_ref().and_then(|list| list.get(item))),
            Self::Hosts => write(piece, &rule.hosts.as_ref().and_then(|list| list.get(item))),
            Self::Routes => write(piece, &rule.routes.as_ref().and_then(|list| list.get(item))),
        }
    }
}

/// Writes the JSON of a value.
fn write(piece: &mut Vec<u8>, value: &impl Serialize) {
    // These are made of strings, numbers and lists, and are written to memory: that cannot fail. If it did, the
    // text would be no JSON, and the filter would refuse everything.
    let _ = serde_json::to_writer(piece, value);
}

/// Writes an object without its last brace, so that fields can follow.
fn write_open(piece: &mut Vec<u8>, value: &impl Serialize) {
    write(piece, value);
    if piece.last() == Some(&b'}') {
        piece.pop();
    }
}

impl Pieces {
    fn new(document: Arc<Document>) -> Self {
        Self { document, at: Place::Start }
    }

    /// Writes what is at a place. Returns the next place.
    fn step(document: &Document, at: Place, piece: &mut Vec<u8>) -> Place {
        match at {
            Place::Start => {
                // It ends with `"rules":[]`.
                write_open(piece, &Self::head(document));
                piece.pop();
                Place::Rule(0)
            }
            Place::Rule(number) => match document.rules.get(number) {
                Some(rule) => {
                    if number > 0 {
                        piece.push(b',');
                    }
                    let bare = Rule { addresses: None, hosts: None, routes: None, ..Rule::clone(rule) };
                    write_open(piece, &bare);
                    Self::list(rule, number, Some(List::Addresses), piece)
                }
                None => {
                    piece.push(b']');
                    Place::InMesh(0)
                }
            },
            Place::Item(number, list, item) => {
                let Some(rule) = document.rules.get(number) else { return Place::End };
                if item < list.len(rule).unwrap_or_default() {
                    if item > 0 {
                        piece.push(b',');
                    }
                    list.write(rule, item, piece);
                    return Place::Item(number, list, item + 1);
                }
                piece.push(b']');
                Self::list(rule, number, list.next(), piece)
            }
            Place::InMesh(number) => match document.in_mesh.get(number) {
                Some(service) => {
                    piece.extend_from_slice(if number == 0 { b",\"inMesh\":[" } else { b"," });
                    write(piece, service);
                    Place::InMesh(number + 1)
                }
                None => {
                    piece.extend_from_slice(if number == 0 { b"}" } else { b"]}" });
                    Place::End
                }
            },
            Place::End => Place::End,
        }
    }

    /// The document without what is long.
    fn head(document: &Document) -> Document {
        Document {
            api_version: document.api_version,
            identity: document.identity.clone(),
            version: document.version.clone(),
            mode: document.mode,
            rules: Vec::new(),
            in_mesh: [].into(),
        }
    }

    /// Begins the next list that the rule has, or ends the rule.
    fn list(rule: &Rule, number: usize, mut list: Option<List>, piece: &mut Vec<u8>) -> Place {
        while let Some(next) = list {
            if next.len(rule).is_some() {
                piece.extend_from_slice(next.field().as_bytes());
                return Place::Item(number, next, 0);
            }
            list = next.next();
        }
        piece.push(b'}');
        Place::Rule(number + 1)
    }
}

impl Iterator for Pieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE_SIZE && !matches!(self.at, Place::End) {
            self.at = Self::step(&self.document, self.at, &mut piece);
        }
        (!piece.is_empty()).then_some(piece)
    }
}

#[cfg(test)]
mod tests {
    use egress_policy::{ApiVersion, Mode};

    use super::*;

    fn document(rules: &[serde_json::Value], services: usize) -> Arc<Document> {
        let service = serde_json::json!({
            "service": "n/s", "addresses": ["10.0.0.1"], "ports": [80], "allowed": true,
        });
        let value = serde_json::json!({
            "apiVersion": "egress-policy/v1", "identity": {"namespace": "ns", "serviceAccount": "sa"}, "version": "v", "mode": "enforce",
            "rules": rules, "inMesh": vec![service; services],
        });
        Arc::new(serde_json::from_value(value).expect("a document"))
    }

    fn text(document: &Arc<Document>) -> Vec<u8> {
        let text = PolicyText::new(Arc::clone(document));
        let pieces: Vec<Vec<u8>> = text.pieces().collect();
        for (number, piece) in pieces.iter().enumerate() {
            let is_last = number + 1 == pieces.len();
            assert!(is_last || piece.len() >= PIECE_SIZE, "{number}: {}", piece.len());
            assert!(piece.len() < 2 * PIECE_SIZE, "{number}: {}", piece.len());
        }
        let whole = pieces.concat();
        assert_eq!(whole.len(), text.len());
        whole
    }

    #[test]
    fn the_text_is_the_document() {
        let rule = |more: serde_json::Value| {
            let mut rule =
                serde_json::json!({"policy": "n/p", "name": "a", "port": 443, "protocol": "https"});
            for (key, value) in more.as_object().expect("fields") {
                rule[key] = value.clone();
            }
            rule
        };
        let hosts: Vec<String> = (0..5000).map(|n| format!("*.h{n}.example.org")).collect();
        let rules = [
            rule(serde_json::json!({})),
            rule(serde_json::json!({"hosts": [], "addresses": []})),
            rule(serde_json::json!({"hosts": hosts, "encryptedHello": "allow-outer"})),
            rule(
                serde_json::json!({"addresses": ["10.0.0.0/8", "fd00::/8"], "hosts": ["a.org"], "cluster": "c"}),
            ),
            rule(serde_json::json!({
                "protocol": "http", "hosts": ["a.org", "b.org"], "upgrades": ["websocket"],
                "routes": [{"name": "g/m", "path": "/\\d\"+"}, {"name": "g/n", "methods": ["GET"]}],
            })),
        ];
        for document in [document(&rules, 3), document(&rules[..1], 0), document(&[], 0), document(&[], 1000)]
        {
            let read: Document = serde_json::from_slice(&text(&document)).expect("JSON");
            assert_eq!(read, *document);
            // And as the filter reads it.
            let text = String::from_utf8(text(&document)).expect("text");
            let read = Document::from_json(&text).expect("JSON");
            assert_eq!(read, *document);
        }
    }

    #[test]
    fn different_documents_have_different_hashes() {
        let (one, other) = (document(&[], 0), document(&[], 1));
        let hash = |document: &Arc<Document>| PolicyText::new(Arc::clone(document)).hash().to_owned();
        assert_eq!(hash(&one), hash(&document(&[], 0)));
        assert_ne!(hash(&one), hash(&other));
        let audit = Document { mode: Mode::Audit, api_version: ApiVersion::V1, ..Document::clone(&one) };
        assert_ne!(hash(&one), hash(&Arc::new(audit)));
    }
}
