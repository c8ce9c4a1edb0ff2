//! Who a proxy is.

use egress_policy::{Identity, IdentityError};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;

/// Why a proxy is not told anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first message of a stream must say who is there.
    #[error("the first request of the stream has no node")]
    NoNode,
    /// The node id does not end in service account and namespace.
    #[error("node id `{0}` is not of the form `<anything>.<service account>.<namespace>`")]
    NodeId(String),
    /// The node's metadata and its id name different identities.
    #[error("node id `{id}` says {by_id}, its metadata say {by_metadata}")]
    Contradiction {
        /// The node id.
        id: String,
        /// The identity in it.
        by_id: Identity,
        /// The identity in the metadata.
        by_metadata: Identity,
    },
    /// A name in it is no Kubernetes name.
    #[error("node id `{0}`: {1}")]
    Name(String, #[source] IdentityError),
}

/// Says who a proxy is.
pub trait Identify: Send + Sync + 'static {
    /// The identity of the proxy behind a stream.
    ///
    /// # Errors
    /// When it is not known.
    fn identify(&self, node: &Node) -> Result<Identity, Refusal>;
}

/// Believes what a proxy says of itself: for one machine and for tests
/// (`--insecure-node-identity`).
#[derive(Debug, Clone, Copy)]
pub struct NodeIdentity;

impl Identify for NodeIdentity {
    fn identify(&self, node: &Node) -> Result<Identity, Refusal> {
        let name = |cause| Refusal::Name(node.id.clone(), cause);
        let by_id = by_id(&node.id).map(|(sa, ns)| Identity::new(ns, sa)).transpose().map_err(name)?;
        let by_metadata =
            by_metadata(node).map(|(sa, ns)| Identity::new(ns, sa)).transpose().map_err(name)?;
        match (by_id, by_metadata) {
            (Some(by_id), Some(by_metadata)) if by_id != by_metadata => {
                Err(Refusal::Contradiction { id: node.id.clone(), by_id, by_metadata })
            }
            (_, Some(identity)) | (Some(identity), None) => Ok(identity),
            (None, None) => Err(Refusal::NodeId(node.id.clone())),
        }
    }
}

/// `<anything>.<service account>.<namespace>`; what comes before may have dots, the rest not.
fn by_id(id: &str) -> Option<(&str, &str)> {
    let (rest, namespace) = id.rsplit_once('.')?;
    let (proxy, service_account) = rest.rsplit_once('.')?;
    (!proxy.is_empty()).then_some((service_account, namespace))
}

fn by_metadata(node: &Node) -> Option<(&str, &str)> {
    let fields = &node.metadata.as_ref()?.fields;
    let text = |key| match fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.as_str()),
        Kind::NullValue(_)
        | Kind::NumberValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    };
    Some((text("SERVICE_ACCOUNT")?, text("NAMESPACE")?))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Struct, Value};

    use super::*;

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() }
    }

    #[test]
    fn who_is_who() {
        let meta: &[_] = &[("NAMESPACE", "ns"), ("SERVICE_ACCOUNT", "sa")];
        for (id, metadata, expected) in [
            ("pod-1.sa.ns", &[][..], Ok("ns/sa")),
            ("a.b.c.sa.ns", &[], Ok("ns/sa")),
            ("whatever", meta, Ok("ns/sa")),
            ("pod.sa.ns", meta, Ok("ns/sa")),
            ("pod.other.ns", meta, Err("node id `pod.other.ns` says ns/other, its metadata say ns/sa")),
            (
                "sa.ns",
                &[],
                Err("node id `sa.ns` is not of the form `<anything>.<service account>.<namespace>`"),
            ),
            (
                ".sa.ns",
                &[],
                Err("node id `.sa.ns` is not of the form `<anything>.<service account>.<namespace>`"),
            ),
            ("", &[], Err("node id `` is not of the form `<anything>.<service account>.<namespace>`")),
        ] {
            let found = NodeIdentity.identify(&node(id, metadata));
            assert_eq!(
                found.map(|i| i.to_string()).map_err(|e| e.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned),
                "{id}"
            );
        }
        assert!(NodeIdentity.identify(&node("pod.SA.ns", &[])).is_err());
    }
}
