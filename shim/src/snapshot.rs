//! What the proxies of one identity get, encoded once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::google::protobuf::Any;
use sha2::{Digest, Sha256};

/// The types of resources that there are.
pub mod type_url {
    /// Listeners (LDS).
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// Clusters (CDS).
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// Configurations of filters (ECDS).
    pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
    /// All of them.
    pub const ALL: [&str; 3] = [CLUSTER, LISTENER, EXTENSION];

    /// The short name for logs and metrics.
    #[must_use]
    pub fn short(type_url: &str) -> &'static str {
        match type_url {
            LISTENER => "listener",
            CLUSTER => "cluster",
            EXTENSION => "extension",
            _ => "other",
        }
    }
}

/// One resource; its version is a hash of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    name: String,
    version: String,
    type_url: String,
    /// One after the other they are the bytes.
    parts: Vec<Bytes>,
}

/// Bytes that many resources have in them and that are kept once: the module, which is larger than all else
/// that the proxies of an identity get.
#[derive(Debug, Clone)]
pub struct Shared {
    bytes: Bytes,
    hash: String,
}

impl Shared {
    /// Shares these bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { hash: hash([&bytes[..]]), bytes }
    }
}

/// What the proxies of one identity get. Immutable: equal input gives equal bytes and versions.
#[derive(Debug)]
pub struct Snapshot {
    document_version: String,
    resources: BTreeMap<&'static str, BTreeMap<String, Arc<Resource>>>,
}

impl Resource {
    /// A resource of this name and content.
    #[must_use]
    pub fn new(name: String, body: Any) -> Self {
        let Any { type_url, value } = body;
        let version = hash([type_url.as_bytes(), &value]);
        Self { version, name, type_url, parts: vec![value.into()] }
    }

    /// The same, of a content that has `shared` in it.
    #[must_use]
    pub fn around(name: String, body: Any, shared: &Shared) -> Self {
        let Shared { bytes, hash: shared } = shared;
        let found = body.value.windows(bytes.len().max(1)).position(|window| window == bytes);
        let Some(start) = found else { return Self::new(name, body) };
        let Any { type_url, value } = body;
        let (before, rest) = value.split_at(start);
        let after = rest.get(bytes.len()..).unwrap_or_default();
        let version = hash([type_url.as_bytes(), before, shared.as_bytes(), after]);
        let parts = vec![Bytes::copy_from_slice(before), bytes.clone(), Bytes::copy_from_slice(after)];
        Self { version, name, type_url, parts }
    }

    /// The name by which Envoy asks for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of its content.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its content, put together.
    #[must_use]
    pub fn body(&self) -> Any {
        Any { type_url: self.type_url.clone(), value: self.parts.concat() }
    }
}

impl Snapshot {
    /// A snapshot of these resources, made from the policy document of this version.
    pub fn new(
        document_version: String,
        resources: impl IntoIterator<Item = (&'static str, Arc<Resource>)>,
    ) -> Self {
        let mut by_type: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (type_url, resource) in resources {
            by_type.entry(type_url).or_default().insert(resource.name.clone(), resource);
        }
        Self { document_version, resources: by_type }
    }

    /// The version of the policy document.
    #[must_use]
    pub fn document_version(&self) -> &str {
        &self.document_version
    }

    /// The resources of a type, by name.
    pub fn of_type(&self, type_url: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.get(type_url).into_iter().flat_map(BTreeMap::values)
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(type_url)?.get(name)
    }
}

/// The first 16 hexadecimal digits of a SHA-256 over parts whose borders count.
#[must_use]
pub fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_kept_once() {
        let any = |value: &[u8]| Any { type_url: "t".to_owned(), value: value.to_vec() };
        let module = Bytes::from_static(b"module");
        let shared = Shared::new(module.clone());
        for (value, parts) in
            [(&b"a module b"[..], 3), (b"module", 3), (b"momodule", 3), (b"modul", 1), (b"", 1)]
        {
            let resource = Resource::around("r".to_owned(), any(value), &shared);
            assert_eq!(resource.body(), any(value));
            assert_eq!(resource.parts.len(), parts);
            if parts == 3 {
                assert_eq!(resource.parts[1].as_ptr(), module.as_ptr());
            }
        }
        let nothing = Shared::new(Bytes::new());
        assert_eq!(Resource::around("r".to_owned(), any(b"a"), &nothing).body(), any(b"a"));
        // Whatever differs has another version, on either side and in the middle.
        let other = Shared::new(Bytes::from_static(b"MODULE"));
        let version = |value: &[u8], shared| Resource::around("r".to_owned(), any(value), shared).version;
        let versions = [
            version(b"a module b", &shared),
            version(b"b module b", &shared),
            version(b"a module a", &shared),
            version(b"a MODULE b", &other),
        ];
        assert_eq!(versions.iter().collect::<std::collections::BTreeSet<_>>().len(), versions.len());
    }
}
