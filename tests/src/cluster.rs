//! A world with an API server in which the mesh is set up: definitions, role, namespaces, MeshConfig.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_compile::manifest::yaml;
use serde_json::Value;

use crate::authority::{Authority, Names, Volume};
use crate::kube::{ApiServer, User};
use crate::mesh::{self, CONTROL_PLANE, NAME_SERVER, World};
use crate::shim::{self, Shim};
use crate::wait::wait_for;

/// The role that the control plane is given.
const ROLE: &str = include_str!("../../deploy/rbac.yaml");

/// Everything that the role allows, as `VERB GROUP/RESOURCE`.
///
/// # Errors
/// When it cannot be read.
pub fn allowed() -> Result<BTreeSet<String>> {
    allowed_by(ROLE)
}

/// Everything that a role allows, as `VERB GROUP/RESOURCE`.
///
/// # Errors
/// When it cannot be read.
pub fn allowed_by(role: &str) -> Result<BTreeSet<String>> {
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

/// The commands of Open Service Mesh's page, word for word.
pub const EGRESS_ON: &str = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"traffic":{"enableEgress":true}}}'  --type=merge"#;
/// The other one.
pub const EGRESS_OFF: &str = r#"kubectl patch meshconfig osm-mesh-config -n osm-system -p '{"spec":{"traffic":{"enableEgress":false}}}'  --type=merge"#;

/// A policy of `curl/curl` in a namespace, with more of its specification.
#[must_use]
pub fn policy(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  {more}\n"
    )
}

/// A world and its API server.
#[derive(Debug)]
pub struct Cluster<'w> {
    /// The world.
    pub world: &'w World,
    /// The API server.
    pub api: ApiServer<'w>,
}

impl<'w> Cluster<'w> {
    /// A cluster with all definitions. Namespace `curl` belongs to the mesh.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn new(world: &'w World) -> Result<Self> {
        let cluster = Self::bare(world)?;
        cluster.define(|_| true)?;
        cluster.set_up()?;
        Ok(cluster)
    }

    /// An API server and nothing else.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn bare(world: &'w World) -> Result<Self> {
        Ok(Self { world, api: ApiServer::start(&world.outside.netns)? })
    }

    /// Installs the definitions of `osm-egress crds` whose text is chosen.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub fn define(&self, chosen: impl Fn(&str) -> bool) -> Result<()> {
        let output = Command::new(shim::binary()?).arg("crds").output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all = String::from_utf8(output.stdout)?;
        let some: Vec<&str> = all.split("---\n").filter(|text| !text.is_empty() && chosen(text)).collect();
        ensure!(!some.is_empty(), "none was chosen");
        self.api.apply(&some.join("---\n"))?;
        let wait = ["wait", "--for", "condition=Established", "crd", "--all", "--timeout=30s"];
        self.api.kubectl(User::Admin, &wait)?;
        // Established is said a moment before the first request is answered.
        wait_for("the definitions to be served", Duration::from_secs(30), || {
            some.iter().all(|text| {
                let name = text.lines().find_map(|line| line.trim().strip_prefix("name: "));
                name.is_some_and(|name| self.api.kubectl(User::Admin, &["get", name, "-A"]).is_ok())
            })
        })?;
        Ok(())
    }

    /// Namespaces, role and MeshConfig.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub fn set_up(&self) -> Result<()> {
        self.api.namespace("osm-system", false)?;
        self.api.namespace("curl", true)?;
        self.api.apply(ROLE)?;
        self.api.apply(&mesh::sample("meshconfig.yaml")?)?;
        Ok(())
    }

    /// The control plane, as its service account, with these flags besides the usual.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn shim(&self, flags: &[&str]) -> Result<Shim<'w>> {
        self.launch(User::Shim, CONTROL_PLANE, flags)?.ready()
    }

    /// The same as anybody, at any address, ready or not.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn launch(&self, user: User, address: IpAddr, flags: &[&str]) -> Result<Shim<'w>> {
        let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
        // All of them run on one host.
        let replica = format!("at-{}", address.to_string().replace(['.', ':'], "-"));
        let mut all = vec!["--dns-resolver", &name_server, "--replica-name", &replica];
        all.extend_from_slice(flags);
        let kubeconfig = self.api.kubeconfig(user);
        let source = [OsStr::new("--kubeconfig"), kubeconfig.as_os_str()];
        Shim::launch(&self.world.outside.netns, address, &source, &all)
    }
}

/// An authority, and a volume with its certificate of the control plane: for one that identifies proxies.
///
/// # Errors
/// When they cannot be made.
pub fn identified_by_tokens() -> Result<(Authority, Volume)> {
    let authority = Authority::new()?;
    let hosts = [&*CONTROL_PLANE.to_string()];
    let own = authority.issue(&Names { common_name: "osm-egress", hosts: &hosts, ..Names::default() })?;
    Ok((authority, Volume::of_pair(&own)?))
}

/// Waits until the control plane's status is so.
///
/// # Errors
/// When it is not in time; with the status.
pub fn until(shim: &Shim<'_>, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Result<Duration> {
    wait_for(what, Duration::from_secs(15), || shim.status().is_ok_and(|status| is_so(&status)))
        .with_context(|| format!("{:#}\n{}", shim.status().unwrap_or_default(), shim.log()))
}

/// The objects that count, as `KIND NAMESPACE/NAME`.
#[must_use]
pub fn objects(status: &Value) -> Vec<String> {
    let text = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let conditions = status["objects"].as_array().into_iter().flatten().map(|condition| &condition["object"]);
    conditions
        .map(|object| {
            format!("{} {}/{}", text(object, "kind"), text(object, "namespace"), text(object, "name"))
        })
        .collect()
}

/// How many rules an object gives; nothing where it does not count.
#[must_use]
pub fn rules(status: &Value, object: &str) -> Option<u64> {
    let index = objects(status).iter().position(|name| name == object)?;
    status["objects"][index]["rules"].as_u64()
}
