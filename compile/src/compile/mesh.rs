//! Modes: of the mesh, of namespaces, of service accounts.

use std::collections::BTreeMap;

use egress_policy::{Identity, Mode};
use serde_json::Value;

use super::issues::Issues;
use super::{CompileOptions, Compiler, MODE_ANNOTATION, Objects, address};
use crate::manifest::spec::{MeshConfig, Traffic};
use crate::manifest::{Body, Object, ObjectRef, Problem, Severity, annotation_path};

/// Which mode an identity has.
#[derive(Clone, Debug, Default)]
pub(super) struct Modes {
    config: Option<ObjectRef>,
    mesh: Option<Mode>,
    permissive: bool,
    most_proxies: Option<usize>,
    namespaces: BTreeMap<String, Mode>,
    identities: BTreeMap<Identity, Mode>,
}

impl Modes {
    /// The service account's own mode, else its namespace's, else the mesh's.
    pub(super) fn of(&self, identity: &Identity) -> Mode {
        let own = self.identities.get(identity).or_else(|| self.namespaces.get(identity.namespace()));
        own.copied().unwrap_or_else(|| self.default_mode())
    }

    /// Whether everything in the mesh may be reached.
    pub(super) fn permissive(&self) -> bool {
        self.permissive
    }

    /// The MeshConfig that counts.
    pub(super) fn config(&self) -> Option<&ObjectRef> {
        self.config.as_ref()
    }

    /// The most proxies that may connect, where there is a limit.
    pub(super) fn most_proxies(&self) -> Option<usize> {
        self.most_proxies
    }

    /// Without a MeshConfig, egress is enforced.
    pub(super) fn default_mode(&self) -> Mode {
        self.mesh.unwrap_or(Mode::Enforce)
    }

    /// The identities that have their own mode.
    pub(super) fn annotated(&self) -> impl Iterator<Item = &Identity> {
        self.identities.keys()
    }
}

/// Reads MeshConfig and annotations.
pub(super) fn modes(
    objects: &Objects<'_>,
    options: &CompileOptions,
    compiler: &mut Compiler,
) -> (Modes, Vec<Problem>) {
    let mut modes = Modes::default();
    let CompileOptions { mesh_config_namespace, mesh_config_name, mesh_name: _ } = options;
    for object in objects.values() {
        match &object.body {
            Body::MeshConfig(config) => {
                let mut issues = Issues::new(object);
                let reference = &object.reference;
                if reference.namespace == *mesh_config_namespace && reference.name == *mesh_config_name {
                    modes.config = Some(reference.clone());
                    modes.mesh = Some(mesh_mode(config, &mut issues));
                    let traffic = config.traffic.as_ref();
                    modes.permissive =
                        traffic.and_then(|t| t.enable_permissive_traffic_policy_mode) == Some(true);
                    modes.most_proxies = most_proxies(config, &mut issues);
                } else {
                    let advice =
                        format!("the one that counts is `{mesh_config_namespace}/{mesh_config_name}`");
                    issues.warning("metadata.name", "this MeshConfig is not looked at", Some(&advice));
                }
                compiler.describe(issues, 0);
            }
            Body::Namespace => {
                if let Some(mode) = annotated_mode(object, compiler) {
                    modes.namespaces.insert(object.reference.name.clone(), mode);
                }
            }
            Body::ServiceAccount => {
                let reference = &object.reference;
                if let Some(mode) = annotated_mode(object, compiler)
                    && let Ok(identity) = Identity::new(&reference.namespace, &reference.name)
                {
                    modes.identities.insert(identity, mode);
                }
            }
            Body::Egress(_)
            | Body::HttpRouteGroup(_)
            | Body::UpstreamTrafficSetting(_)
            | Body::Service(_)
            | Body::Endpoints(..)
            | Body::Workload(..)
            | Body::TrafficTarget(_) => {}
        }
    }
    let mut notes = Vec::new();
    if modes.mesh.is_none() {
        let message = format!(
            "there is no MeshConfig `{mesh_config_namespace}/{mesh_config_name}`, so egress is enforced"
        );
        notes.push(Problem::new(Severity::Info, message));
    }
    (modes, notes)
}

/// The mode of the mesh, and what else is wrong with its settings.
fn mesh_mode(config: &MeshConfig, issues: &mut Issues<'_>) -> Mode {
    const SECTIONS: [&str; 4] = ["sidecar", "featureFlags", "observability", "certificate"];
    for section in config.other.keys().filter(|key| !SECTIONS.contains(&key.as_str())) {
        let advice =
            "the sections are `traffic`, `sidecar`, `featureFlags`, `observability` and `certificate`";
        issues.warning(&format!("spec.{section}"), format!("section `{section}` is not known"), Some(advice));
    }
    let flag = config.other.get("featureFlags").and_then(|flags| flags.get("enableEgressPolicy"));
    if flag.is_some_and(|flag| *flag != Value::Bool(true)) {
        issues.warning(
            "spec.featureFlags.enableEgressPolicy",
            "this flag is not looked at: policies count whenever `spec.traffic.enableEgress` is not true",
            Some("set `spec.traffic.enableEgress: true` to let everything out"),
        );
    }
    let Some(traffic) = &config.traffic else {
        return Mode::Enforce;
    };
    interception(traffic, issues);
    if traffic.enable_egress == Some(true) { Mode::Passthrough } else { Mode::Enforce }
}

/// What the sidecar does not see is set up beside the policy; here it is only checked.
fn interception(traffic: &Traffic, issues: &mut Issues<'_>) {
    for (name, list) in [
        ("outboundIPRangeExclusionList", &traffic.outbound_ip_range_exclusion_list),
        ("outboundIPRangeInclusionList", &traffic.outbound_ip_range_inclusion_list),
    ] {
        let list = list.as_deref().unwrap_or_default();
        let advice = "correct or remove this block";
        let _ = address::blocks(list, &format!("spec.traffic.{name}"), advice, issues);
    }
    for (name, list) in [
        ("outboundPortExclusionList", &traffic.outbound_port_exclusion_list),
        ("inboundPortExclusionList", &traffic.inbound_port_exclusion_list),
    ] {
        for (i, number) in list.as_deref().unwrap_or_default().iter().enumerate() {
            if !(1..=65535).contains(number) {
                let field = format!("spec.traffic.{name}[{i}]");
                issues.error(&field, format!("`{number}` is not a port"), Some("a port is 1 to 65535"));
            }
        }
    }
}

/// The mode that an annotation gives; what it cannot be read as is the strictest one.
fn annotated_mode(object: &Object, compiler: &mut Compiler) -> Option<Mode> {
    let text = object.metadata.annotation(MODE_ANNOTATION)?;
    let mode = [Mode::Enforce, Mode::Audit, Mode::Passthrough].into_iter().find(|mode| mode.as_str() == text);
    if mode.is_none() {
        let mut issues = Issues::new(object);
        issues.error(
            &annotation_path(MODE_ANNOTATION),
            format!("`{text}` is not a mode, so `enforce` applies"),
            Some("write `enforce`, `audit` or `passthrough`"),
        );
        compiler.describe(issues, 0);
    }
    Some(mode.unwrap_or(Mode::Enforce))
}

/// Zero is no limit, as in Open Service Mesh, and so is what is no number of proxies: a mistake here must not
/// leave sidecars without policy.
fn most_proxies(config: &MeshConfig, issues: &mut Issues<'_>) -> Option<usize> {
    let most = config.sidecar.as_ref()?.max_data_plane_connections?;
    let Ok(most) = usize::try_from(most) else {
        let message = format!("`{most}` is no number of proxies, so there is no limit");
        issues.error("spec.sidecar.maxDataPlaneConnections", message, Some("write 0 for any number"));
        return None;
    };
    (most > 0).then_some(most)
}
