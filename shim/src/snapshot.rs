//! What the proxies of one identity get, encoded once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

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
    body: Any,
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
        Self { version: hash([body.type_url.as_bytes(), &body.value]), name, body }
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

    /// Its content.
    #[must_use]
    pub fn body(&self) -> &Any {
        &self.body
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
