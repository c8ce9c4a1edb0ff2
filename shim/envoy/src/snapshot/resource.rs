//! Resources: encoded once, and shared by all streams that send them.

use std::sync::Arc;

use bytes::Bytes;
use egress_core::hash;
use envoy_types::pb::google::protobuf::Any;

use super::nonce;
use super::policy_text::{Pieces, PolicyText};

/// One resource; its version is a hash of its content.
#[derive(Debug)]
pub struct Resource {
    name: String,
    version: String,
    type_url: String,
    /// One after the other they are the bytes.
    parts: Vec<Part>,
    length: usize,
}

/// A part of a resource's bytes.
#[derive(Clone, Debug)]
pub enum Part {
    /// The same bytes whenever the resource is sent.
    Constant(Bytes),
    /// The module, which is hashed once and not for each identity.
    Module(SharedBytes),
    /// As many bytes as [`NONCE`], other ones whenever the resource is sent.
    Nonce,
    /// The policy document, whose text is made when it is sent.
    Policy(Arc<PolicyText>),
}

/// A piece of a message that is about to be sent.
#[derive(Debug)]
pub enum Piece {
    /// Bytes, which others may send too.
    Bytes(Bytes),
    /// Text that is made as it is sent.
    Policy(Pieces),
}

/// The placeholder for a nonce in the content of a resource.
///
/// Envoy uses a plugin again whose configuration it has seen, without telling the plugin, for as long as a
/// stream of that configuration lives. So no configuration is ever sent twice: not when a policy comes back,
/// not by another replica, not after a restart. The version does not depend on it, so that a proxy that
/// reconnects with this content is sent nothing.
pub const NONCE: &str = "00000000-nonce-of-the-control-plane";

/// Bytes that many resources have in them and that are kept once: the module, which is larger than all else
/// that the proxies of an identity get.
#[derive(Debug, Clone)]
pub struct SharedBytes {
    bytes: Bytes,
    hash: String,
}

impl SharedBytes {
    /// Shares these bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { hash: hash([&bytes[..]]), bytes }
    }
}

impl Part {
    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Constant(bytes) => bytes.len(),
            Self::Module(module) => module.bytes.len(),
            Self::Nonce => NONCE.len(),
            Self::Policy(text) => text.len(),
        }
    }

    /// Returns whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Resource {
    /// A resource of this name and content.
    #[must_use]
    pub fn new(name: String, body: Any) -> Self {
        Self::of_parts(name, body.type_url, vec![Part::Constant(body.value.into())])
    }

    /// A resource whose content is made of parts.
    #[must_use]
    pub fn of_parts(name: String, type_url: String, parts: Vec<Part>) -> Self {
        let content = parts.iter().map(|part| match part {
            Part::Constant(bytes) => bytes,
            Part::Module(module) => module.hash.as_bytes(),
            Part::Nonce => NONCE.as_bytes(),
            Part::Policy(text) => text.hash().as_bytes(),
        });
        let version = hash(std::iter::once(type_url.as_bytes()).chain(content));
        let length = parts.iter().map(Part::len).sum();
        Self { name, version, type_url, parts, length }
    }

    /// The name by which Envoy asks for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of its content, without the nonce.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The type of its content.
    #[must_use]
    pub fn type_url(&self) -> &str {
        &self.type_url
    }

    /// The length of its content in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether it has no content.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its content as it is sent once, with a nonce of its own.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.parts.iter().map(|part| match part {
            Part::Constant(bytes) => Piece::Bytes(bytes.clone()),
            Part::Module(module) => Piece::Bytes(module.bytes.clone()),
            Part::Nonce => Piece::Bytes(nonce().into()),
            Part::Policy(text) => Piece::Policy(text.pieces()),
        })
    }

    /// The same as one message, whole in memory.
    #[must_use]
    pub fn body(&self) -> Any {
        let mut value = Vec::with_capacity(self.length);
        for piece in self.pieces() {
            match piece {
                Piece::Bytes(bytes) => value.extend_from_slice(&bytes),
                Piece::Policy(pieces) => value.extend(pieces.flatten()),
            }
        }
        Any { type_url: self.type_url.clone(), value }
    }
}
