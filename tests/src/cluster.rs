//! A Kubernetes cluster with a mesh: definitions, role, namespaces and MeshConfig.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_compile::manifest::yaml;
use serde_json::Value;

use crate::authority::{Authority, Names, Volume};
use crate::control_plane::{self, ControlPlane};
use crate::kube::{ApiServer, User};
use crate::manifests;
use crate::network::{CONTROL_PLANE, NAME_SERVER, TestNetwork};
use crate::wait::wait_for;

/// The role of the control plane.
const ROLE: &str = include_str!("../../deploy/rbac.yaml");

/// The permissions of the control plane's role, as `VERB GROUP/RESOURCE`.
///
/// # Errors
/// Fails if it cannot be read.
pub fn role_permissions() -> Result<BTreeSet<String>> {
    permissions(ROLE)
}

/// The permissions of a role, as `VERB GROUP/RESOURCE`.
///
/// # Errors
/// Fails if it cannot be read.
pub fn permissions(role: &str) -> Result<BTreeSet<String>> {
    let documents = yaml::parse(role)?;
    let list = |rule: &Value, key: &str| -> Vec<String> {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut allowed = BTreeSet::new();
    for rule in documents.iter().flat_map(|document| document.value["rules"].as_array().into_iter().flatten())
    {
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                allowed.extend(list(rule, "verbs").iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    Ok(allowed)
}

/// Switches global egress on, in the words of Open Service Mesh's documentation.
pub const EGRESS_ON: &str = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"traffic":{"enableEgress":true}}}'  --type=merge"#;
/// Switches global egress off.
pub const EGRESS_OFF: &str = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"traffic":{"enableEgress":false}}}'  --type=merge"#;

/// A test network with an API server.
#[derive(Debug)]
pub struct Cluster<'n> {
    /// The network.
    pub network: &'n TestNetwork,
    /// The API server.
    pub api: ApiServer<'n>,
}

impl<'n> Cluster<'n> {
    /// Starts an API server with all definitions, in which namespace `curl` belongs to the mesh.
    ///
    /// # Errors
    /// Fails if it does not get ready.
    pub fn new(network: &'n TestNetwork) -> Result<Self> {
        let cluster = Self::without_definitions(network)?;
        cluster.install_definitions(|_| true)?;
        cluster.set_up()?;
        Ok(cluster)
    }

    /// Starts an API server without definitions, but with the admission plugin ServiceAccount, as clusters have it: a pod's
    /// service account must exist, and its token is mounted into each container.
    ///
    /// # Errors
    /// Fails if it does not get ready.
    pub fn with_mounted_tokens(network: &'n TestNetwork) -> Result<Self> {
        Ok(Self { network, api: ApiServer::start_with(&network.outside.netns, true)? })
    }

    /// Starts an API server without definitions.
    ///
    /// # Errors
    /// Fails if it does not get ready.
    pub fn without_definitions(network: &'n TestNetwork) -> Result<Self> {
        Ok(Self { network, api: ApiServer::start(&network.outside.netns)? })
    }

    /// Installs the definitions of `osm-egress crds` whose text `chosen` accepts.
    ///
    /// # Errors
    /// Fails if the API server refuses them.
    pub fn install_definitions(&self, chosen: impl Fn(&str) -> bool) -> Result<()> {
        let output = Command::new(control_plane::binary()?).arg("crds").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all = String::from_utf8(output.stdout)?;
        let some: Vec<&str> = all.split("---\n").filter(|text| !text.is_empty() && chosen(text)).collect();
        ensure!(!some.is_empty(), "none was chosen");
        self.api.apply(&some.join("---\n"))?;
        let wait = ["wait", "--for", "condition=Established", "crd", "--all", "--timeout=30s"];
        self.api.kubectl(User::Admin, &wait)?;
        // The condition Established is true a moment before the first request is answered.
        wait_for("the definitions to be served", Duration::from_secs(30), || {
            some.iter().all(|text| {
                let name = text.lines().find_map(|line| line.trim().strip_prefix("name: "));
                name.is_some_and(|name| self.api.kubectl(User::Admin, &["get", name, "-A"]).is_ok())
            })
        })?;
        Ok(())
    }

    /// Creates namespaces, role and MeshConfig.
    ///
    /// # Errors
    /// Fails if the API server refuses them.
    pub fn set_up(&self) -> Result<()> {
        self.api.namespace("osm-system", false)?;
        self.api.namespace("curl", true)?;
        self.api.apply(ROLE)?;
        self.api.apply(&manifests::sample("meshconfig.yaml")?)?;
        Ok(())
    }

    /// Starts the control plane with its service account and these additional flags, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// Fails if it does not get ready.
    pub fn control_plane(&self, flags: &[&str]) -> Result<ControlPlane<'n>> {
        self.launch(User::ControlPlane, CONTROL_PLANE, flags)?.ready()
    }

    /// Starts the control plane as any user at any address, without waiting until it is ready.
    ///
    /// # Errors
    /// Fails if it cannot be run.
    pub fn launch(&self, user: User, address: IpAddr, flags: &[&str]) -> Result<ControlPlane<'n>> {
        let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
        // All of them run on one host.
        let replica = format!("at-{}", address.to_string().replace(['.', ':'], "-"));
        let mut all = vec!["--dns-resolver", &name_server, "--replica-name", &replica];
        all.extend_from_slice(flags);
        let kubeconfig = self.api.kubeconfig(user);
        let source = [OsStr::new("--kubeconfig"), kubeconfig.as_os_str()];
        ControlPlane::launch(&self.network.outside.netns, address, &source, &all)
    }
}

/// Issues the control plane's certificate, for one that identifies proxies by tokens.
///
/// # Errors
/// Fails if they cannot be made.
pub fn issue_control_plane_certificate() -> Result<(Authority, Volume)> {
    let authority = Authority::new()?;
    let hosts = [&*CONTROL_PLANE.to_string()];
    let own = authority.issue(&Names { common_name: "osm-egress", hosts: &hosts, ..Names::default() })?;
    Ok((authority, Volume::of_pair(&own)?))
}

/// Waits until the control plane's status meets a condition.
///
/// # Errors
/// Fails if it is not in time; with the status.
pub fn wait_for_status(
    control_plane: &ControlPlane<'_>,
    what: &str,
    mut is_so: impl FnMut(&Value) -> bool,
) -> Result<Duration> {
    wait_for(what, Duration::from_secs(15), || control_plane.status().is_ok_and(|status| is_so(&status)))
        .with_context(|| format!("{:#}\n{}", control_plane.status().unwrap_or_default(), control_plane.log()))
}

/// The accepted objects, as `KIND NAMESPACE/NAME`.
#[must_use]
pub fn accepted_objects(status: &Value) -> Vec<String> {
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let conditions = status["objects"].as_array().into_iter().flatten().map(|condition| &condition["object"]);
    conditions
        .map(|object| {
            format!("{} {}/{}", text(object, "kind"), text(object, "namespace"), text(object, "name"))
        })
        .collect()
}

/// The number of rules of an object; `None` if it is not accepted.
#[must_use]
pub fn rules(status: &Value, object: &str) -> Option<u64> {
    let index = accepted_objects(status).iter().position(|name| name == object)?;
    status["objects"][index]["rules"].as_u64()
}
