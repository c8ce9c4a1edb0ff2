//! What things are called in a cluster.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The name of everything that belongs to the control plane, and the field manager.
pub const NAME: &str = "osm-egress";
/// The secret that the control plane mounts.
pub const TLS_SECRET: &str = "osm-egress-tls";
/// The secret with the authority's key, which no pod mounts.
pub const CA_SECRET: &str = "osm-egress-ca";
/// The MeshConfig.
pub const MESH_CONFIG: &str = "osm-mesh-config";
/// Says that an object was made by `install`, and may be taken away by `uninstall`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Says which mesh an object belongs to.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Keeps the values that were given, so that an upgrade need not be told them again.
pub const VALUES: &str = "openservicemesh.io/osm-egress-values";

/// Port of the control plane for proxies.
pub const XDS_PORT: u16 = 15128;
/// Its port for people, probes and Prometheus.
pub const ADMIN_PORT: u16 = 15129;
/// Its port for the API server.
pub const WEBHOOK_PORT: u16 = 9443;

/// A mesh and where its control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the mesh.
    pub mesh: String,
    /// Namespace of the control plane.
    pub namespace: String,
}

impl Names {
    /// Takes what flags say, else values, else what Open Service Mesh uses.
    ///
    /// # Errors
    /// When both say something and it is not the same, or a name is none.
    pub fn of(flags: (Option<&str>, Option<&str>), values: (&str, &str)) -> Result<Self> {
        let mesh = one("--mesh-name", flags.0, "osm.meshName", values.0, "osm")?;
        let namespace = one("--osm-namespace", flags.1, "osm.osmNamespace", values.1, "osm-system")?;
        Ok(Self { mesh, namespace })
    }

    /// The name of the webhook configurations, which are in no namespace.
    #[must_use]
    pub fn webhooks(&self) -> String {
        format!("{NAME}-{}", self.mesh)
    }

    /// Names of the control plane in the cluster, the one that is used first.
    #[must_use]
    pub fn hosts(&self) -> [String; 2] {
        let host = format!("{NAME}.{}.svc", self.namespace);
        [host.clone(), format!("{host}.cluster.local")]
    }

    /// What pods of the control plane are found by.
    #[must_use]
    pub fn selector(&self) -> Value {
        json!({ "app.kubernetes.io/name": NAME, INSTANCE: self.mesh })
    }

    /// What everything carries that `install` makes.
    #[must_use]
    pub fn labels(&self) -> Value {
        let mut labels = self.selector();
        labels[MANAGED_BY] = json!(NAME);
        labels["app.kubernetes.io/part-of"] = json!(NAME);
        labels
    }
}

fn one(flag: &str, given: Option<&str>, key: &str, value: &str, default: &str) -> Result<String> {
    let name = match given {
        Some(given) if !value.is_empty() && value != given => {
            bail!("`{flag} {given}` and the value `{key}={value}` contradict each other: leave one out")
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
        bail!("`{name}` ({flag}) is no name: use at most 50 lower-case letters, digits and `-`");
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_values() {
        let names = |flags, values| Names::of(flags, values).map(|names| (names.mesh, names.namespace));
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
