//! Modes: of the mesh, of namespaces, of service accounts.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Identity, Mode};
use serde::Serialize;
use serde_json::Value;

use super::diagnostic_sink::Issues;
use super::namespace::Namespaces;
use super::{CompileOptions, Compiler, MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION, Objects, address};
use crate::manifest::spec::{MeshConfig, Traffic};
use crate::manifest::{Body, Kind, Object, ObjectRef, Problem, Severity, annotation_path};

/// Which mode an identity has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Modes {
    config: Option<ObjectRef>,
    mesh: Option<Mode>,
    permissive: bool,
    most_proxies: Option<usize>,
    namespaces: BTreeMap<String, Mode>,
    /// The modes of ServiceAccounts that count.
    identities: BTreeMap<Identity, Mode>,
    /// The ServiceAccounts that have the annotation, whether it counts or not.
    annotated: BTreeSet<Identity>,
}

/// An object that gives identities a looser mode than they would have without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LooserMode {
    /// The Namespace or ServiceAccount.
    pub by: ObjectRef,
    /// Its mode.
    pub mode: Mode,
    /// The mode that would apply without it.
    pub instead_of: Mode,
}

impl Modes {
    /// The service account's own mode where it counts, else its namespace's, else the mesh's.
    pub(crate) fn of(&self, identity: &Identity) -> Mode {
        let own = self.identities.get(identity).copied();
        own.unwrap_or_else(|| self.of_namespace(identity.namespace()))
    }

    /// The mode of service accounts that have none of their own.
    pub(crate) fn of_namespace(&self, namespace: &str) -> Mode {
        self.namespaces.get(namespace).copied().unwrap_or_else(|| self.default_mode())
    }

    /// The mode that a Namespace sets.
    pub(crate) fn own_of_namespace(&self, namespace: &str) -> Option<Mode> {
        self.namespaces.get(namespace).copied()
    }

    /// The mode of its own that an identity has and that counts.
    pub(crate) fn own_of(&self, identity: &Identity) -> Option<Mode> {
        self.identities.get(identity).copied()
    }

    /// The Namespaces that set a mode.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    /// The identities that have a mode of their own.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.identities.keys()
    }

    /// The object that gives an identity its mode; none: there is no MeshConfig.
    pub(super) fn decided_by(&self, identity: &Identity) -> Option<ObjectRef> {
        let (namespace, name) = (identity.namespace(), identity.service_account());
        if self.identities.contains_key(identity) {
            return Some(ObjectRef::new(Kind::ServiceAccount, namespace, name));
        }
        if self.namespaces.contains_key(namespace) {
            return Some(ObjectRef::new(Kind::Namespace, "", namespace));
        }
        self.config.clone()
    }

    /// Every Namespace and ServiceAccount that loosens.
    pub(super) fn loosened(&self) -> Vec<LooserMode> {
        let default = self.default_mode();
        let namespaces = self.namespaces.iter().map(|(namespace, mode)| LooserMode {
            by: ObjectRef::new(Kind::Namespace, "", namespace),
            mode: *mode,
            instead_of: default,
        });
        let accounts = self.identities.iter().map(|(identity, mode)| LooserMode {
            by: ObjectRef::new(Kind::ServiceAccount, identity.namespace(), identity.service_account()),
            mode: *mode,
            instead_of: self.of_namespace(identity.namespace()),
        });
        namespaces.chain(accounts).filter(|found| found.mode > found.instead_of).collect()
    }

    /// Whether everything in the mesh may be reached.
    pub(super) fn permissive(&self) -> bool {
        self.permissive
    }

    /// The MeshConfig that counts.
    pub(crate) fn config(&self) -> Option<&ObjectRef> {
        self.config.as_ref()
    }

    /// The most proxies that may connect, where there is a limit.
    pub(super) fn most_proxies(&self) -> Option<usize> {
        self.most_proxies
    }

    /// Without a MeshConfig, egress is enforced.
    pub(crate) fn default_mode(&self) -> Mode {
        self.mesh.unwrap_or(Mode::Enforce)
    }

    /// The identities that name a mode of their own.
    pub(super) fn annotated(&self) -> impl Iterator<Item = &Identity> {
        self.annotated.iter()
    }
}

/// Reads MeshConfig and annotations.
pub(super) fn modes(
    objects: &Objects<'_>,
    namespaces: &Namespaces<'_>,
    options: &CompileOptions,
    compiler: &mut Compiler,
) -> (Modes, Vec<Problem>) {
    let mut modes = Modes::default();
    let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = options;
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
            Body::Egress(_)
            | Body::HttpRouteGroup(_)
            | Body::UpstreamTrafficSetting(_)
            | Body::Service(_)
            | Body::Endpoints(..)
            | Body::Workload(..)
            | Body::Namespace
            | Body::ServiceAccount
            | Body::TrafficTarget(_) => {}
        }
    }
    modes.namespaces = namespaces.iter().filter_map(|(name, s)| Some((name.clone(), s.mode?))).collect();
    for object in objects.values().filter(|object| object.body == Body::ServiceAccount) {
        account(object, namespaces, &mut modes, compiler);
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

/// Reads the mode of a ServiceAccount. Whoever may edit a namespace may write it, so it only tightens, unless the
/// Namespace says otherwise.
fn account(object: &Object, namespaces: &Namespaces<'_>, modes: &mut Modes, compiler: &mut Compiler) {
    let ObjectRef { kind: _, namespace, name } = &object.reference;
    let mut issues = Issues::new(object);
    if let Some(own) = annotated_mode(object, &mut issues)
        && let Ok(identity) = Identity::new(namespace, name)
    {
        modes.annotated.insert(identity.clone());
        let usual = modes.of_namespace(namespace);
        let is_delegated = namespaces.get(namespace).is_some_and(|settings| settings.accounts_may_loosen);
        if own <= usual || is_delegated {
            modes.identities.insert(identity, own);
        } else {
            let (own, usual) = (own.as_str(), usual.as_str());
            let message = format!(
                "a ServiceAccount may only tighten its mode, and `{own}` is looser than the `{usual}` of its \
                 namespace, so `{usual}` applies"
            );
            let advice = format!(
                "set the mode on Namespace `{namespace}`, or let its service accounts loosen theirs by the annotation \
                 `{MODE_DELEGATION_ANNOTATION}: service-accounts` there"
            );
            issues.not_permitted(&annotation_path(MODE_ANNOTATION), message, &advice);
        }
    }
    compiler.describe(issues, 0);
}

/// The mode that an annotation gives; what it cannot be read as is the strictest one.
pub(super) fn annotated_mode(object: &Object, issues: &mut Issues<'_>) -> Option<Mode> {
    let text = object.metadata.annotation(MODE_ANNOTATION)?;
    let mode = [Mode::Enforce, Mode::Audit, Mode::Passthrough].into_iter().find(|mode| mode.as_str() == text);
    if mode.is_none() {
        issues.error(
            &annotation_path(MODE_ANNOTATION),
            format!("`{text}` is not a mode, so `enforce` applies"),
            Some("write `enforce`, `audit` or `passthrough`"),
        );
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
