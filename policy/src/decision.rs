use crate::{Host, ReasonCode};

/// Which rule of which policy decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId {
    /// The Egress object: `namespace/name`.
    pub policy: String,
    /// The part of it: `spec.ports[0]`.
    pub name: String,
}

/// The answer to "may this leave?". Whoever lets something through must hold a [`Permit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a decision that nobody acts on is an open door"]
pub enum Decision<'p> {
    /// It may, and goes where the permit says.
    Allow(Permit<'p>),
    /// It may not.
    Deny(Refusal<'p>),
}

/// Leave to go out, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit<'p> {
    /// What gives the leave.
    pub by: Grant<'p>,
    /// Where it goes.
    pub to: Destination,
    /// The cluster that the rule names, where it names one.
    pub cluster: Option<&'p str>,
}

/// What allows something.
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

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'p> {
    /// The reason code.
    pub reason: ReasonCode,
    /// The rule that came nearest, where one did.
    pub rule: Option<&'p RuleId>,
}

/// Where an allowed connection goes; always to the port that was dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The address that was dialled.
    Dialled,
    /// The address that the sidecar resolves for this name.
    Resolved(Host, HostMatch),
    /// The address that was dialled, through the cluster of global egress.
    Passthrough,
}

/// How a rule lists a name. What only a wildcard lists may lead to fewer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostMatch {
    /// The name itself.
    Exact,
    /// `*.` and a name above it.
    Wildcard,
}

impl<'p> Decision<'p> {
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

    /// The rule that decided, or that came nearest.
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

    /// In audit mode, the refusal that was not acted on.
    #[must_use]
    pub fn would_refuse(&self) -> Option<ReasonCode> {
        match self {
            Self::Allow(Permit { by: Grant::Audit(refusal), .. }) => Some(refusal.reason),
            Self::Allow(_) | Self::Deny(_) => None,
        }
    }

    /// Whether a rule allows it, and not only the mode.
    #[must_use]
    pub fn is_allowed_by_rule(&self) -> bool {
        matches!(self, Self::Allow(Permit { by: Grant::Rule(_), .. }))
    }

    /// Whether it may leave.
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
