//! The snapshot of one identity, encoded once.

mod policy_text;
mod resource;

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_compile::OwnCluster;
use egress_policy::Document;

pub use self::policy_text::{Pieces, PolicyText};
pub use self::resource::{NONCE, Part, Piece, Resource, SharedBytes};

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

/// The resources of one identity's proxies. Immutable: equal input gives equal versions.
#[derive(Debug)]
pub struct Snapshot {
    document: Arc<Document>,
    clusters: Vec<OwnCluster>,
    resources: BTreeMap<&'static str, BTreeMap<String, Arc<Resource>>>,
}

/// Text that was never sent before, of the length of [`NONCE`].
fn nonce() -> String {
    format!("{:0width$x}", fastrand::u128(..), width = NONCE.len())
}

impl Snapshot {
    /// A snapshot of these resources, made from this policy document and the clusters that it names.
    pub fn new(
        document: Arc<Document>,
        clusters: Vec<OwnCluster>,
        resources: impl IntoIterator<Item = (&'static str, Arc<Resource>)>,
    ) -> Self {
        let mut by_type: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (type_url, resource) in resources {
            by_type.entry(type_url).or_default().insert(resource.name().to_owned(), resource);
        }
        Self { document, clusters, resources: by_type }
    }

    /// The version of the policy document.
    #[must_use]
    pub fn document_version(&self) -> &str {
        &self.document.version
    }

    /// The policy document.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The clusters that the document names.
    #[must_use]
    pub fn clusters(&self) -> &[OwnCluster] {
        &self.clusters
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use egress_policy::ApiVersion;

    use super::*;

    fn policy(version: &str) -> Part {
        let document = Document {
            api_version: ApiVersion::V1,
            identity: "n/a".parse().expect("an identity"),
            version: version.to_owned(),
            mode: egress_policy::Mode::Enforce,
            rules: vec![],
            in_mesh: [].into(),
        };
        Part::Policy(Arc::new(PolicyText::new(Arc::new(document))))
    }

    fn constant(text: &'static str) -> Part {
        Part::Constant(Bytes::from_static(text.as_bytes()))
    }

    fn plugin(parts: Vec<Part>) -> Resource {
        Resource::of_parts("r".to_owned(), "t".to_owned(), parts)
    }

    #[test]
    fn versions_are_of_the_content() {
        let module = |bytes: &'static [u8]| Part::Module(SharedBytes::new(Bytes::from_static(bytes)));
        let parts = |before, policy, after| {
            vec![constant(before), Part::Nonce, policy, constant(after), module(b"m")]
        };
        let version = |parts| plugin(parts).version().to_owned();
        assert_eq!(version(parts("a", policy("1"), "b")), version(parts("a", policy("1"), "b")));
        // Whatever differs has another version: on either side, in the policy, and in the module.
        let mut other = parts("a", policy("1"), "b");
        other.pop();
        let versions = [
            version(parts("a", policy("1"), "b")),
            version(parts("A", policy("1"), "b")),
            version(parts("a", policy("2"), "b")),
            version(parts("a", policy("1"), "B")),
            version(other.clone()),
            version([other, vec![module(b"M")]].concat()),
        ];
        assert_eq!(versions.iter().collect::<std::collections::BTreeSet<_>>().len(), versions.len());
    }

    #[test]
    fn nothing_is_sent_twice() {
        let resource = plugin(vec![constant("{\"nonce\":\""), Part::Nonce, constant("\"}")]);
        let sent: std::collections::BTreeSet<_> = (0..100).map(|_| resource.body().value).collect();
        assert_eq!(sent.len(), 100);
        for bytes in sent {
            let text = String::from_utf8(bytes).expect("text");
            assert_eq!(text.len(), resource.len());
            assert!(text.starts_with("{\"nonce\":\"0") && text.ends_with("\"}"), "{text}");
        }
    }
}
