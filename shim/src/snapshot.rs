//! What the proxies of one identity get, encoded once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use egress_compile::OwnCluster;
use egress_policy::Document;
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

/// One resource; its version is a hash of its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    name: String,
    version: String,
    type_url: String,
    /// One after the other they are the bytes.
    parts: Vec<Part>,
}

/// A part of a resource's bytes.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    /// The same bytes whenever the resource is sent.
    Constant(Bytes),
    /// As many bytes as [`NONCE`], other ones whenever the resource is sent.
    Nonce,
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

/// What the proxies of one identity get. Immutable: equal input gives equal versions.
#[derive(Debug)]
pub struct Snapshot {
    document: Document,
    clusters: Vec<OwnCluster>,
    resources: BTreeMap<&'static str, BTreeMap<String, Arc<Resource>>>,
}

impl Resource {
    /// A resource of this name and content.
    #[must_use]
    pub fn new(name: String, body: Any) -> Self {
        Self::of_parts(name, body.type_url, vec![Part::Constant(body.value.into())], None)
    }

    /// A plugin's configuration, which has [`NONCE`] in it, the policy and, where it is inline, the module. Both
    /// plugins share the bytes of these two.
    #[must_use]
    pub fn plugin(name: String, body: Any, policy: &Bytes, module: Option<&Shared>) -> Self {
        let mut parts = vec![Part::Constant(body.value.into())];
        split(&mut parts, NONCE.as_bytes(), &Part::Nonce);
        if let Some(module) = module {
            split(&mut parts, &module.bytes, &Part::Constant(module.bytes.clone()));
        }
        if !policy.is_empty() {
            split(&mut parts, policy, &Part::Constant(policy.clone()));
        }
        Self::of_parts(name, body.type_url, parts, module)
    }

    fn of_parts(name: String, type_url: String, parts: Vec<Part>, module: Option<&Shared>) -> Self {
        let content = parts.iter().map(|part| match (part, module) {
            (Part::Nonce, _) => NONCE.as_bytes(),
            // It is hashed once and not for each identity.
            (Part::Constant(bytes), Some(module)) if bytes.as_ptr() == module.bytes.as_ptr() => {
                module.hash.as_bytes()
            }
            (Part::Constant(bytes), _) => bytes,
        });
        let version = hash(std::iter::once(type_url.as_bytes()).chain(content));
        Self { name, version, type_url, parts }
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

    /// Its content as it is sent once, with a nonce of its own.
    #[must_use]
    pub fn body(&self) -> Any {
        let mut value = Vec::with_capacity(self.parts.iter().map(Part::len).sum());
        for part in &self.parts {
            match part {
                Part::Constant(bytes) => value.extend_from_slice(bytes),
                Part::Nonce => value.extend_from_slice(nonce().as_bytes()),
            }
        }
        Any { type_url: self.type_url.clone(), value }
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Constant(bytes) => bytes.len(),
            Self::Nonce => NONCE.len(),
        }
    }
}

/// Puts `part` in the place of `bytes`, where they first stand in one of the parts.
fn split(parts: &mut Vec<Part>, bytes: &[u8], part: &Part) {
    let place = parts.iter().enumerate().find_map(|(at, part)| match part {
        Part::Constant(content) => {
            let start = content.windows(bytes.len().max(1)).position(|window| window == bytes)?;
            Some((at, content.clone(), start))
        }
        Part::Nonce => None,
    });
    let Some((at, content, start)) = place else { return };
    // Copied, so that the content, which holds the module once more, can go.
    let copy = |bytes: &[u8]| Part::Constant(Bytes::copy_from_slice(bytes));
    let (before, rest) = content.split_at(start);
    let after = rest.get(bytes.len()..).unwrap_or_default();
    parts.splice(at..=at, [copy(before), part.clone(), copy(after)]);
}

/// Text that was never sent before, of the length of [`NONCE`].
fn nonce() -> String {
    format!("{:0width$x}", fastrand::u128(..), width = NONCE.len())
}

impl Snapshot {
    /// A snapshot of these resources, made from this policy document and the clusters that it names.
    pub fn new(
        document: Document,
        clusters: Vec<OwnCluster>,
        resources: impl IntoIterator<Item = (&'static str, Arc<Resource>)>,
    ) -> Self {
        let mut by_type: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (type_url, resource) in resources {
            by_type.entry(type_url).or_default().insert(resource.name.clone(), resource);
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

    const PLUGIN: &str = r#"{"nonce":"00000000-nonce-of-the-control-plane","policy":1} module "#;

    fn any(value: &str) -> Any {
        Any { type_url: "t".to_owned(), value: value.into() }
    }

    fn plugin(text: &str, module: Option<&Shared>) -> Resource {
        Resource::plugin("r".to_owned(), any(text), &Bytes::new(), module)
    }

    #[test]
    fn the_module_is_kept_once() {
        let module = Shared::new(Bytes::from_static(b"module"));
        for text in [PLUGIN, "a module b", "module", "momodule"] {
            let resource = plugin(text, Some(&module));
            let kept = resource
                .parts
                .iter()
                .any(|part| matches!(part, Part::Constant(bytes) if bytes.as_ptr() == module.bytes.as_ptr()));
            assert!(kept, "{text}");
            assert_eq!(resource.body().value.len(), text.len());
        }
        for text in ["a module b", "modul", ""] {
            assert_eq!(plugin(text, Some(&module)).body(), any(text));
            assert_eq!(plugin(text, Some(&Shared::new(Bytes::new()))).body(), any(text));
        }
    }

    #[test]
    fn the_policy_is_kept_once() {
        let policy = Bytes::from_static(br#"{"rules":[]}"#);
        let text = format!(r#"{{"nonce":"{NONCE}","policy":{}}}"#, r#"{"rules":[]}"#);
        let kept = ["a", "b"].map(|name| {
            let resource = Resource::plugin(name.to_owned(), any(&text), &policy, None);
            let body = resource.body().value;
            assert_eq!(body.len(), text.len());
            assert!(body.ends_with(br#""policy":{"rules":[]}}"#));
            resource
                .parts
                .iter()
                .any(|part| matches!(part, Part::Constant(bytes) if bytes.as_ptr() == policy.as_ptr()))
        });
        assert_eq!(kept, [true, true]);
    }

    #[test]
    fn versions_are_of_the_content() {
        let [module, other] = [&b"module"[..], b"MODULE"].map(|bytes| Shared::new(Bytes::from_static(bytes)));
        let version = |text: &str, module| plugin(text, module).version;
        assert_eq!(version(PLUGIN, Some(&module)), version(PLUGIN, Some(&module)));
        // Whatever differs has another version: on either side, in the middle, and in the module.
        let versions = [
            version(PLUGIN, Some(&module)),
            version(&PLUGIN.replace(":1", ":2"), Some(&module)),
            version(&PLUGIN.replace("module ", "module  "), Some(&module)),
            version(&PLUGIN.replace("module", "MODULE"), Some(&other)),
            version(PLUGIN, None),
        ];
        assert_eq!(versions.iter().collect::<std::collections::BTreeSet<_>>().len(), versions.len());
    }

    #[test]
    fn nothing_is_sent_twice() {
        let module = Shared::new(Bytes::from_static(b"module"));
        for module in [Some(&module), None] {
            let resource = plugin(PLUGIN, module);
            let sent: std::collections::BTreeSet<_> = (0..100).map(|_| resource.body().value).collect();
            assert_eq!(sent.len(), 100);
            for bytes in sent {
                let text = String::from_utf8(bytes).expect("text");
                assert_eq!(text.len(), PLUGIN.len());
                assert!(
                    text.starts_with(r#"{"nonce":"0"#) && text.ends_with(r#"","policy":1} module "#),
                    "{text}"
                );
            }
        }
    }
}
