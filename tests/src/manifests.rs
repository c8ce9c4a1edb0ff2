//! Manifests that several tests write.
//!
//! Each builder returns a YAML document that begins with `---`, so that texts can be joined. Namespace and service
//! account are `curl/curl`, the identity of the test mesh's sidecar, unless the name of the builder says otherwise.
//! `fields` are the fields of a specification, one on each line: `hosts: [httpbin.org]`, `ports: […]`.

use anyhow::{Result, bail};

use crate::network::HTTPBIN;

/// An Egress object.
#[must_use]
pub fn egress(name: &str, fields: &str) -> String {
    egress_of("curl", name, fields)
}

/// An Egress object of the service account `curl/{account}`.
#[must_use]
pub fn egress_of(account: &str, name: &str, fields: &str) -> String {
    egress_with("curl", name, account, fields)
}

/// An Egress object of `curl/curl` in another namespace.
#[must_use]
pub fn egress_in(namespace: &str, name: &str, fields: &str) -> String {
    egress_with(namespace, name, "curl", fields)
}

fn egress_with(namespace: &str, name: &str, account: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: {account}, namespace: curl}}]\n  {}\n",
        fields.replace('\n', "\n  ")
    )
}

/// An Egress object that allows `curl/{account}` a TCP port of [`HTTPBIN`], where an echo server listens.
#[must_use]
pub fn echo_policy(account: &str, port: u16) -> String {
    egress_of(account, account, &echo_fields(port))
}

/// The fields of [`echo_policy`].
#[must_use]
pub fn echo_fields(port: u16) -> String {
    format!("ipAddresses: [{HTTPBIN}/32]\nports: [{{number: {port}, protocol: tcp}}]")
}

/// An HTTPRouteGroup with one match.
#[must_use]
pub fn route_group(name: &str, path: &str) -> String {
    format!(
        "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
         metadata: {{name: {name}, namespace: curl}}\nspec: {{matches: [{{name: m, pathRegex: '{path}'}}]}}\n"
    )
}

/// The field of an Egress object that names an HTTPRouteGroup.
#[must_use]
pub fn by_route_group(name: &str) -> String {
    format!("matches: [{{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: {name}}}]")
}

/// An UpstreamTrafficSetting. Its `host` has no meaning for egress.
#[must_use]
pub fn upstream_settings(name: &str, connection: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
         metadata: {{name: {name}, namespace: curl}}\n\
         spec: {{host: {name}, connectionSettings: {connection}}}\n"
    )
}

/// The field of an Egress object that names an UpstreamTrafficSetting.
#[must_use]
pub fn by_upstream_settings(name: &str) -> String {
    format!(
        "matches: [{{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: {name}}}]"
    )
}

/// The MeshConfig, with this inside of `traffic`.
#[must_use]
pub fn mesh_config(traffic: &str) -> String {
    format!(
        "---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         metadata: {{name: osm-mesh-config, namespace: osm-system}}\nspec: {{traffic: {{{traffic}}}}}\n"
    )
}

/// The Namespace with an enforcement mode: `enforce`, `audit` or `passthrough`.
#[must_use]
pub fn namespace_mode(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\n\
         metadata: {{name: curl, annotations: {{openservicemesh.io/egress-mode: {mode}}}}}\n"
    )
}

/// The Namespace and the service account `curl/{account}` in mode `audit`, which the Namespace delegates.
#[must_use]
pub fn audited_account(account: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\n\
         metadata: {{name: curl, annotations: {{openservicemesh.io/egress-mode-delegation: service-accounts}}}}\n\
         ---\napiVersion: v1\nkind: ServiceAccount\n\
         metadata: {{name: {account}, namespace: curl, annotations: {{openservicemesh.io/egress-mode: audit}}}}\n"
    )
}

/// A policy that is enforced for `curl/curl` and audited for `curl/watched`.
pub const ENFORCED_AND_AUDITED: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources:
  - {kind: ServiceAccount, name: curl, namespace: curl}
  - {kind: ServiceAccount, name: watched, namespace: curl}
  hosts: [httpbin.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: v1
kind: Namespace
metadata: {name: curl, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: watched, namespace: curl, annotations: {openservicemesh.io/egress-mode: audit}}
";

/// A manifest of `envoy/samples`, or of `envoy/open-samples`, whose policies allow every host. The texts are
/// compiled in, because an ordinary user of the demo need not be able to read the repository.
///
/// # Errors
/// Fails if there is none of this name.
pub fn sample(name: &str) -> Result<String> {
    let text = match name {
        "meshconfig.yaml" => include_str!("../../envoy/samples/meshconfig.yaml"),
        "httpbin-80.yaml" => include_str!("../../envoy/samples/httpbin-80.yaml"),
        "httpbin-443.yaml" => include_str!("../../envoy/samples/httpbin-443.yaml"),
        "any-host-443.yaml" => include_str!("../../envoy/open-samples/any-host-443.yaml"),
        "route-group.yaml" => include_str!("../../envoy/samples/route-group.yaml"),
        _ => bail!("there is no sample `{name}`"),
    };
    Ok(text.to_owned())
}
