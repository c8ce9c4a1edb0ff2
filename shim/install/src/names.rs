//! Names, labels and ports of the installed objects.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The name of the control plane's objects, and of the field manager.
pub const NAME: &str = "osm-egress";
/// The name of the CNI plugin's objects.
pub const CNI_NAME: &str = "osm-egress-cni";
/// The Secret with the serving certificate, which the control plane mounts.
pub const TLS_SECRET: &str = "osm-egress-tls";
/// The Secret with the key of the certificate authority, which no pod mounts.
pub const CA_SECRET: &str = "osm-egress-ca";
/// The name of the MeshConfig.
pub const MESH_CONFIG: &str = "osm-mesh-config";
/// The label of objects that `install` made and `uninstall` may delete.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The label with the mesh of an object.
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// The annotation that stores the user's values for the next upgrade.
pub const VALUES_ANNOTATION: &str = "openservicemesh.io/osm-egress-values";

/// The port for proxies.
pub const XDS_PORT: u16 = 15128;
/// The port for users, probes and Prometheus.
pub const ADMIN_PORT: u16 = 15129;
/// The port for the API server.
pub const WEBHOOK_PORT: u16 = 9443;

/// The name of a mesh and the namespace of its control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The name of the mesh.
    pub mesh: String,
    /// The namespace of the control plane.
    pub namespace: String,
}

impl Names {
    /// Resolves the names from flags, else from values, else to Open Service Mesh's defaults.
    ///
    /// # Errors
    /// Fails when a flag contradicts a value, or a name is invalid.
    pub fn resolve(flags: (Option<&str>, Option<&str>), values: (&str, &str)) -> Result<Self> {
        let mesh = resolve_name("--mesh-name", flags.0, "osm.meshName", values.0, "osm")?;
        let namespace = resolve_name("--osm-namespace", flags.1, "osm.osmNamespace", values.1, "osm-system")?;
        Ok(Self { mesh, namespace })
    }

    /// The name of the webhook configurations, which are cluster-scoped.
    #[must_use]
    pub fn webhook_configuration(&self) -> String {
        format!("{NAME}-{}", self.mesh)
    }

    /// The namespace of the CNI plugin: its pods need folders of the node, which the control plane's namespace forbids.
    #[must_use]
    pub fn cni_namespace(&self) -> String {
        format!("{}-cni", self.namespace)
    }

    /// The labels that select the CNI plugin's pods.
    #[must_use]
    pub fn cni_selector(&self) -> Value {
        json!({ "app.kubernetes.io/name": CNI_NAME, INSTANCE_LABEL: self.mesh })
    }

    /// The host names of the control plane in the cluster, the one that clients use first.
    #[must_use]
    pub fn hosts(&self) -> [String; 2] {
        let host = format!("{NAME}.{}.svc", self.namespace);
        [host.clone(), format!("{host}.cluster.local")]
    }

    /// The labels that select the control plane's pods.
    #[must_use]
    pub fn selector(&self) -> Value {
        json!({ "app.kubernetes.io/name": NAME, INSTANCE_LABEL: self.mesh })
    }

    /// The labels of every object that `install` makes.
    #[must_use]
    pub fn labels(&self) -> Value {
        let mut labels = self.selector();
        labels[MANAGED_BY_LABEL] = json!(NAME);
        labels["app.kubernetes.io/part-of"] = json!(NAME);
        labels
    }
}

fn resolve_name(flag: &str, given: Option<&str>, key: &str, value: &str, default: &str) -> Result<String> {
    let name = match given {
        Some(given) if !value.is_empty() && value != given => {
            bail!("`{flag} {given}` contradicts the value `{key}={value}`: leave one of them out")
        }
        Some(given) => given,
        None if value.is_empty() => default,
        None => value,
    };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = (1..=50).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        bail!(
            "`{name}` ({flag}) is not a valid name: use at most 50 lower-case letters, digits and `-`, and no `-` at \
             either end"
        );
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_values_must_agree() {
        let names = |flags, values| Names::resolve(flags, values).map(|names| (names.mesh, names.namespace));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names((None, None), ("", "")).expect("valid"), pair("osm", "osm-system"));
        assert_eq!(names((None, None), ("a", "b")).expect("valid"), pair("a", "b"));
        assert_eq!(names((Some("c"), Some("b")), ("", "b")).expect("valid"), pair("c", "b"));
        assert!(names((Some("c"), None), ("a", "")).is_err());
        for bad in ["-a", "a-", "A", "a.b", &"a".repeat(51)] {
            assert!(names((Some(bad), None), ("", "")).is_err(), "{bad}");
        }
    }
}
