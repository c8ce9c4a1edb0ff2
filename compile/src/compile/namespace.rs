//! Settings of Namespaces: their mode, and whom else they let decide about their service accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use egress_policy::{Identity, Mode};

use super::diagnostic_sink::Issues;
use super::mesh::annotated_mode;
use super::{CompileOptions, Compiler, MODE_DELEGATION_ANNOTATION, Objects, POLICY_NAMESPACES_ANNOTATION};
use crate::manifest::{Body, annotation_path};

/// The namespaces whose Egress objects may grant to service accounts of other namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyNamespaces {
    /// Every namespace.
    All,
    /// These.
    Named(BTreeSet<String>),
}

/// A list of namespaces that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a namespace")]
pub struct PolicyNamespacesError(String);

impl PolicyNamespaces {
    /// The list that holds one namespace.
    pub fn one(namespace: impl Into<String>) -> Self {
        Self::Named(BTreeSet::from([namespace.into()]))
    }

    /// Whether a namespace is in the list.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(namespace),
        }
    }

    /// Whether a namespace is in the list by its own name.
    #[must_use]
    pub fn lists(&self, namespace: &str) -> bool {
        matches!(self, Self::Named(names) if names.contains(namespace))
    }
}

/// No namespace.
impl Default for PolicyNamespaces {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

/// Names separated by commas; `*` stands for all namespaces, and an empty text for none.
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
    /// Whether its ServiceAccounts may loosen their own mode.
    pub(super) accounts_may_loosen: bool,
    /// The namespaces whose Egress objects may grant to its service accounts.
    policy_namespaces: PolicyNamespaces,
}

/// The settings of all Namespaces that have any, and of the mesh.
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

    /// Whether Egress objects of a namespace count for an identity.
    pub(super) fn permit(&self, policies_of: &str, identity: &Identity) -> bool {
        let target = identity.namespace();
        policies_of == target
            || self.mesh.contains(policies_of)
            || self.get(target).is_some_and(|settings| settings.policy_namespaces.contains(policies_of))
    }
}

/// Reads the annotations of all Namespaces. A value that cannot be read permits nothing.
pub(super) fn namespaces<'o>(
    objects: &Objects<'_>,
    options: &'o CompileOptions,
    compiler: &mut Compiler,
) -> Namespaces<'o> {
    let mut settings = BTreeMap::new();
    for object in objects.values().filter(|object| object.body == Body::Namespace) {
        let mut issues = Issues::new(object);
        let annotation = |name| object.metadata.annotation(name);
        let accounts_may_loosen = match annotation(MODE_DELEGATION_ANNOTATION) {
            None | Some("none") => false,
            Some("service-accounts") => true,
            Some(text) => {
                let message = format!("`{text}` does not say who may loosen modes, so nobody may");
                let advice = "write `service-accounts` or `none`";
                issues.error(&annotation_path(MODE_DELEGATION_ANNOTATION), message, Some(advice));
                false
            }
        };
        let listed = annotation(POLICY_NAMESPACES_ANNOTATION).map(PolicyNamespaces::from_str);
        let policy_namespaces = listed.transpose().unwrap_or_else(|error| {
            let advice =
                "list names by commas, or write `*` for all: until then no other namespace may grant here";
            issues.error(&annotation_path(POLICY_NAMESPACES_ANNOTATION), error.to_string(), Some(advice));
            None
        });
        let found = NamespaceSettings {
            mode: annotated_mode(object, &mut issues),
            accounts_may_loosen,
            policy_namespaces: policy_namespaces.unwrap_or_default(),
        };
        settings.insert(object.reference.name.clone(), found);
        compiler.describe(issues, 0);
    }
    Namespaces { settings, mesh: &options.policy_namespaces }
}
