//! Modes of the mesh, of namespaces and of service accounts.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Identity, Mode};
use serde::Serialize;
use serde_json::Value;

use super::annotations::read_mode_annotation;
use super::diagnostic_sink::DiagnosticSink;
use super::namespace::Namespaces;
use super::{CompileOptions, MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION, Objects, StatusCollector, address};
use crate::manifest::spec::{MeshConfig, Traffic};
use crate::manifest::{Body, Diagnostic, Kind, Object, ObjectRef, Severity, annotation_path};

/// The mode of every identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct Modes {
    config: Option<ObjectRef>,
    mesh: Option<Mode>,
    permissive: bool,
    max_proxies: Option<usize>,
    namespaces: BTreeMap<String, Mode>,
    /// The modes of ServiceAccounts that are in force.
    identities: BTreeMap<Identity, Mode>,
    /// The ServiceAccounts with the annotation, in force or not.
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
    /// The mode of an identity: its service account's own mode if that is in force, else its namespace's, else
    /// the mesh's.
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

    /// The identity's own mode, if it has one in force.
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

    /// The object that sets the mode of an identity; `None` if there is no MeshConfig.
    pub(super) fn source(&self, identity: &Identity) -> Option<ObjectRef> {
        let (namespace, name) = (identity.namespace(), identity.service_account());
        if self.identities.contains_key(identity) {
            return Some(ObjectRef::new(Kind::ServiceAccount, namespace, name));
        }
        if self.namespaces.contains_key(namespace) {
            return Some(ObjectRef::new(Kind::Namespace, "", namespace));
        }
        self.config.clone()
    }

    /// Every Namespace and ServiceAccount that loosens a mode.
    pub(super) fn looser_modes(&self) -> Vec<LooserMode> {
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

    /// Returns true if every service of the mesh may be reached.
    pub(super) fn permissive(&self) -> bool {
        self.permissive
    }

    /// The MeshConfig in use.
    pub(crate) fn config(&self) -> Option<&ObjectRef> {
        self.config.as_ref()
    }

    /// The most proxies that may connect; `None` means no limit.
    pub(super) fn max_proxies(&self) -> Option<usize> {
        self.max_proxies
    }

    /// The mode of the mesh. Without a MeshConfig, egress is enforced.
    pub(crate) fn default_mode(&self) -> Mode {
        self.mesh.unwrap_or(Mode::Enforce)
    }

    /// The identities with a mode annotation.
    pub(super) fn annotated(&self) -> impl Iterator<Item = &Identity> {
        self.annotated.iter()
    }
}

/// Reads the modes from the MeshConfig and from annotations.
pub(super) fn read_modes(
    objects: &Objects<'_>,
    namespaces: &Namespaces<'_>,
    options: &CompileOptions,
    collector: &mut StatusCollector,
) -> (Modes, Vec<Diagnostic>) {
    let mut modes = Modes::default();
    let CompileOptions { mesh_config_namespace, mesh_config_name, .. } = options;
    for object in objects.values() {
        match &object.body {
            Body::MeshConfig(config) => {
                let mut sink = DiagnosticSink::new(object);
                let reference = &object.reference;
                if reference.namespace == *mesh_config_namespace && reference.name == *mesh_config_name {
                    modes.config = Some(reference.clone());
                    modes.mesh = Some(read_mesh_mode(config, &mut sink));
                    let traffic = config.traffic.as_ref();
                    modes.permissive =
                        traffic.and_then(|t| t.enable_permissive_traffic_policy_mode) == Some(true);
                    modes.max_proxies = read_max_proxies(config, &mut sink);
                } else {
                    let advice =
                        format!("the MeshConfig in use is `{mesh_config_namespace}/{mesh_config_name}`");
                    sink.warning("metadata.name", "this MeshConfig is ignored", Some(&advice));
                }
                collector.record(sink, 0);
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
        read_account(object, namespaces, &mut modes, collector);
    }
    let mut notes = Vec::new();
    if modes.mesh.is_none() {
        let message = format!(
            "there is no MeshConfig `{mesh_config_namespace}/{mesh_config_name}`, so egress is enforced"
        );
        notes.push(Diagnostic::new(Severity::Info, message));
    }
    (modes, notes)
}

/// Reads the mode of the mesh, and checks the other settings.
fn read_mesh_mode(config: &MeshConfig, sink: &mut DiagnosticSink<'_>) -> Mode {
    const SECTIONS: [&str; 4] = ["sidecar", "featureFlags", "observability", "certificate"];
    for section in config.other.keys().filter(|key| !SECTIONS.contains(&key.as_str())) {
        let advice =
            "the known sections are `traffic`, `sidecar`, `featureFlags`, `observability` and `certificate`";
        sink.warning(&format!("spec.{section}"), format!("unknown section `{section}`"), Some(advice));
    }
    let flag = config.other.get("featureFlags").and_then(|flags| flags.get("enableEgressPolicy"));
    if flag.is_some_and(|flag| *flag != Value::Bool(true)) {
        sink.warning(
            "spec.featureFlags.enableEgressPolicy",
            "this flag is ignored: policies apply whenever `spec.traffic.enableEgress` is not true",
            Some("set `spec.traffic.enableEgress: true` to allow all egress"),
        );
    }
    let Some(traffic) = &config.traffic else {
        return Mode::Enforce;
    };
    check_interception(traffic, sink);
    if traffic.enable_egress == Some(true) { Mode::Passthrough } else { Mode::Enforce }
}

/// Checks the interception lists. Interception itself is set up outside the policy.
fn check_interception(traffic: &Traffic, sink: &mut DiagnosticSink<'_>) {
    for (name, list) in [
        ("outboundIPRangeExclusionList", &traffic.outbound_ip_range_exclusion_list),
        ("outboundIPRangeInclusionList", &traffic.outbound_ip_range_inclusion_list),
    ] {
        let list = list.as_deref().unwrap_or_default();
        let advice = "correct or remove this block";
        let _ = address::read_blocks(list, &format!("spec.traffic.{name}"), advice, sink);
    }
    for (name, list) in [
        ("outboundPortExclusionList", &traffic.outbound_port_exclusion_list),
        ("inboundPortExclusionList", &traffic.inbound_port_exclusion_list),
    ] {
        for (i, number) in list.as_deref().unwrap_or_default().iter().enumerate() {
            if !(1..=65535).contains(number) {
                let field = format!("spec.traffic.{name}[{i}]");
                sink.error(
                    &field,
                    format!("`{number}` is not a port number"),
                    Some("use a port from 1 to 65535"),
                );
            }
        }
    }
}

/// Reads the mode of a ServiceAccount. Anyone who may edit a namespace may set it, so it may only tighten the
/// mode, unless the Namespace delegates that.
fn read_account(
    object: &Object,
    namespaces: &Namespaces<'_>,
    modes: &mut Modes,
    collector: &mut StatusCollector,
) {
    let ObjectRef { kind: _, namespace, name } = &object.reference;
    let mut sink = DiagnosticSink::new(object);
    if let Some(own) = read_mode_annotation(object, &mut sink)
        && let Ok(identity) = Identity::new(namespace, name)
    {
        modes.annotated.insert(identity.clone());
        let usual = modes.of_namespace(namespace);
        let is_delegated = namespaces.get(namespace).is_some_and(|settings| settings.delegates_modes);
        if own <= usual || is_delegated {
            modes.identities.insert(identity, own);
        } else {
            let (own, usual) = (own.as_str(), usual.as_str());
            let message = format!(
                "a ServiceAccount may only tighten its mode, and `{own}` is looser than the `{usual}` of its \
                 namespace, so `{usual}` applies"
            );
            let advice = format!(
                "set the mode on Namespace `{namespace}`, or let its service accounts loosen theirs with the annotation \
                 `{MODE_DELEGATION_ANNOTATION}: service-accounts` on that Namespace"
            );
            sink.not_permitted(&annotation_path(MODE_ANNOTATION), message, &advice);
        }
    }
    collector.record(sink, 0);
}

/// Reads the limit of proxies. As in Open Service Mesh, zero means no limit. So does an invalid number: a
/// mistake here must not leave sidecars without policy.
fn read_max_proxies(config: &MeshConfig, sink: &mut DiagnosticSink<'_>) -> Option<usize> {
    let max = config.sidecar.as_ref()?.max_data_plane_connections?;
    let Ok(max) = usize::try_from(max) else {
        let message = format!("`{max}` is not a number of proxies, so there is no limit");
        sink.error("spec.sidecar.maxDataPlaneConnections", message, Some("write 0 for no limit"));
        return None;
    };
    (max > 0).then_some(max)
}
