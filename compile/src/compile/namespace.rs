//! Settings of Namespaces: their mode, and the namespaces whose policies may grant access to their service
//! accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use egress_policy::{Identity, Mode};

use super::annotations::read_mode_annotation;
use super::diagnostic_sink::DiagnosticSink;
use super::{
    CompileOptions, MODE_DELEGATION_ANNOTATION, Objects, POLICY_NAMESPACES_ANNOTATION, StatusCollector,
};
use crate::manifest::{Body, annotation_path};

/// The namespaces whose Egress objects may grant access to service accounts of other namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyNamespaces {
    /// Every namespace.
    All,
    /// These namespaces.
    Named(BTreeSet<String>),
}

/// The error for an invalid name in a list of namespaces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a namespace name")]
pub struct PolicyNamespacesError(String);

impl PolicyNamespaces {
    /// Makes a list of one namespace.
    pub fn one(namespace: impl Into<String>) -> Self {
        Self::Named(BTreeSet::from([namespace.into()]))
    }

    /// Returns true if the list contains a namespace.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(namespace),
        }
    }

    /// Returns true if the list contains a namespace by name.
    #[must_use]
    pub fn names(&self, namespace: &str) -> bool {
        matches!(self, Self::Named(names) if names.contains(namespace))
    }
}

/// Returns the empty list.
impl Default for PolicyNamespaces {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// Parses names separated by commas. `*` stands for all namespaces, and an empty text for none.
impl FromStr for PolicyNamespaces {
    type Err = PolicyNamespacesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut all, mut names) = (false, BTreeSet::new());
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" {
                all = true;
            } else if Identity::new(name, "default").is_ok() {
                names.insert(name.to_owned());
            } else {
                return Err(PolicyNamespacesError(name.to_owned()));
            }
        }
        Ok(if all { Self::All } else { Self::Named(names) })
    }
}

impl fmt::Display for PolicyNamespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Named(names) => {
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// The settings of one Namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct NamespaceSettings {
    pub(super) mode: Option<Mode>,
    /// True if its ServiceAccounts may loosen their own mode.
    pub(super) delegates_modes: bool,
    /// The namespaces whose Egress objects may grant access to its service accounts.
    policy_namespaces: PolicyNamespaces,
}

/// The settings of all Namespaces, and of the mesh.
#[derive(Debug)]
pub(super) struct Namespaces<'o> {
    settings: BTreeMap<String, NamespaceSettings>,
    mesh: &'o PolicyNamespaces,
}

impl Namespaces<'_> {
    pub(super) fn get(&self, namespace: &str) -> Option<&NamespaceSettings> {
        self.settings.get(namespace)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &NamespaceSettings)> {
        self.settings.iter()
    }

    /// Returns true if Egress objects of a namespace may grant access to an identity.
    pub(super) fn permits(&self, policy_namespace: &str, identity: &Identity) -> bool {
        let target = identity.namespace();
        policy_namespace == target
            || self.mesh.contains(policy_namespace)
            || self.get(target).is_some_and(|settings| settings.policy_namespaces.contains(policy_namespace))
    }
}

/// Reads the annotations of all Namespaces. A value that cannot be read permits nothing.
pub(super) fn read_namespaces<'o>(
    objects: &Objects<'_>,
    options: &'o CompileOptions,
    collector: &mut StatusCollector,
) -> Namespaces<'o> {
    let mut settings = BTreeMap::new();
    for object in objects.values().filter(|object| object.body == Body::Namespace) {
        let mut sink = DiagnosticSink::new(object);
        let annotation = |name| object.metadata.annotation(name);
        let delegates_modes = match annotation(MODE_DELEGATION_ANNOTATION) {
            None | Some("none") => false,
            Some("service-accounts") => true,
            Some(text) => {
                let message =
                    format!("`{text}` is not a mode delegation, so no service account may loosen its mode");
                let advice = "write `service-accounts` or `none`";
                sink.error(&annotation_path(MODE_DELEGATION_ANNOTATION), message, Some(advice));
                false
            }
        };
        let listed = annotation(POLICY_NAMESPACES_ANNOTATION).map(PolicyNamespaces::from_str);
        let policy_namespaces = listed.transpose().unwrap_or_else(|error| {
            let advice =
                "separate names with commas, or write `*` for all; until then no other namespace may grant access here";
            sink.error(&annotation_path(POLICY_NAMESPACES_ANNOTATION), error.to_string(), Some(advice));
            None
        });
        let found = NamespaceSettings {
            mode: read_mode_annotation(object, &mut sink),
            delegates_modes,
            policy_namespaces: policy_namespaces.unwrap_or_default(),
        };
        settings.insert(object.reference.name.clone(), found);
        collector.record(sink, 0);
    }
    Namespaces { settings, mesh: &options.policy_namespaces }
}
