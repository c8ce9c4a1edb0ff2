//! The identity that a node claims.

use egress_policy::Identity;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;

use super::certificate;
use super::refusal::StreamRefusal;

const NAMESPACE: &str = "NAMESPACE";
const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT";

/// The identity that a node claims.
pub(super) fn resolve_claim(node: &Node) -> Result<Identity, StreamRefusal> {
    let name = |cause| StreamRefusal::Name(node.id.clone(), cause);
    let by_id = by_id(&node.id).map(|(sa, ns)| Identity::new(ns, sa)).transpose().map_err(name)?;
    let by_metadata = text(node, SERVICE_ACCOUNT)
        .zip(text(node, NAMESPACE))
        .map(|(sa, ns)| Identity::new(ns, sa))
        .transpose()
        .map_err(name)?;
    match (by_id, by_metadata) {
        (Some(by_id), Some(by_metadata)) if by_id != by_metadata => {
            Err(StreamRefusal::Contradiction { id: node.id.clone(), by_id, by_metadata })
        }
        (_, Some(identity)) | (Some(identity), None) => Ok(identity),
        (None, None) => Err(StreamRefusal::NodeId(node.id.clone())),
    }
}

/// The claim of a node that contradicts an identity. An id in another form makes no claim.
pub(super) fn other(node: &Node, identity: &Identity) -> Option<String> {
    if let Some(claimed) = claimed_by_id(&node.id)
        && claimed != *identity
    {
        return Some(format!("{claimed}, says its node id `{}`", node.id));
    }
    let parts = [(NAMESPACE, identity.namespace()), (SERVICE_ACCOUNT, identity.service_account())];
    parts.into_iter().find_map(|(key, own)| {
        let claimed = text(node, key).filter(|claimed| *claimed != own)?;
        Some(format!("{key} `{claimed}`, say the metadata of its node `{}`", node.id))
    })
}

/// The identity that an id names: in our form, or in that of a certificate's common name.
fn claimed_by_id(id: &str) -> Option<Identity> {
    if let Some((service_account, namespace)) = certificate::in_common_name(id) {
        return Identity::new(namespace, service_account).ok();
    }
    // Others write `sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local`, which only looks like ours.
    let is_ours = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let (service_account, namespace) = by_id(id).filter(|_| is_ours)?;
    Identity::new(namespace, service_account).ok()
}

/// `<anything>.<service account>.<namespace>`; what comes before may have dots, the rest not.
fn by_id(id: &str) -> Option<(&str, &str)> {
    let (rest, namespace) = id.rsplit_once('.')?;
    let (proxy, service_account) = rest.rsplit_once('.')?;
    (!proxy.is_empty()).then_some((service_account, namespace))
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.as_str()),
        Kind::NullValue(_)
        | Kind::NumberValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    }
}
