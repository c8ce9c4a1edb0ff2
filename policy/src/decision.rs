use serde::{Deserialize, Serialize};

use crate::{Host, ReasonCode};

/// The rule of a policy that decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// The Egress object: `namespace/name`.
    pub policy: String,
    /// The part of that object, as a field path: `spec.ports[0]`.
    pub name: String,
}

/// The decision about a connection or request. Code that lets something through needs its [`Permit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a decision without an action lets everything through"]
pub enum Decision<'p> {
    /// Allowed, to the destination of the permit.
    Allow(Permit<'p>),
    /// Refused.
    Deny(Refusal<'p>),
}

/// The permission to leave, and the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit<'p> {
    /// The source of the permission.
    pub by: Grant<'p>,
    /// The destination.
    pub to: Destination,
    /// The cluster that the rule names, where it names one.
    pub cluster: Option<&'p str>,
}

/// The source of a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant<'p> {
    /// A rule.
    Rule(&'p RuleId),
    /// Global egress.
    Passthrough,
    /// The mesh's own rule, for a service of the mesh.
    InMesh(&'p RuleId),
    /// Audit mode, in spite of this refusal.
    Audit(Refusal<'p>),
}

/// The reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'p> {
    /// The reason code.
    pub reason: ReasonCode,
    /// The rule that nearly allowed it, if there is one.
    pub rule: Option<&'p RuleId>,
}

/// The destination of an allowed connection; always with the port of the original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The original destination.
    Original,
    /// The address that the sidecar resolves for this name.
    Resolved(Host, HostMatch),
    /// The original destination, through the cluster of global egress.
    Passthrough,
}

/// The kind of host pattern that matched a name. A name that only a wildcard matches may lead to fewer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostMatch {
    /// The name itself.
    Exact,
    /// `*.` and a name above it.
    Wildcard,
}

/// The verdict about a connection or request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may leave.
    Allow,
    /// It may not leave.
    Deny,
}

impl Verdict {
    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl<'p> Decision<'p> {
    /// The verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Allow(_) => Verdict::Allow,
            Self::Deny(_) => Verdict::Deny,
        }
    }

    /// The reason code.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Allow(permit) => match permit.by {
                Grant::Rule(_) => ReasonCode::Rule,
                Grant::Passthrough => ReasonCode::Passthrough,
                Grant::InMesh(_) => ReasonCode::InMesh,
                Grant::Audit(_) => ReasonCode::Audit,
            },
            Self::Deny(refusal) => refusal.reason,
        }
    }

    /// The rule that decided, or that nearly allowed it.
    #[must_use]
    pub fn rule(&self) -> Option<&'p RuleId> {
        match self {
            Self::Allow(permit) => match &permit.by {
                Grant::Rule(rule) | Grant::InMesh(rule) => Some(rule),
                Grant::Passthrough => None,
                Grant::Audit(refusal) => refusal.rule,
            },
            Self::Deny(refusal) => refusal.rule,
        }
    }

    /// In audit mode, the reason of the refusal that was not enforced.
    #[must_use]
    pub fn would_refuse(&self) -> Option<ReasonCode> {
        match self {
            Self::Allow(Permit { by: Grant::Audit(refusal), .. }) => Some(refusal.reason),
            Self::Allow(_) | Self::Deny(_) => None,
        }
    }

    /// Returns whether a rule allows it, and not only the mode.
    #[must_use]
    pub fn is_allowed_by_rule(&self) -> bool {
        matches!(self, Self::Allow(Permit { by: Grant::Rule(_), .. }))
    }

    /// Returns whether it may leave.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

impl From<ReasonCode> for Refusal<'_> {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, rule: None }
    }
}
