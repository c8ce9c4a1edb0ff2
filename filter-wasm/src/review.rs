//! The question that a policy change asks about everything that was allowed before it.
//!
//! The verdict alone does not answer it: what the old policy led to one address may be allowed by the new
//! one at another address only.

use std::net::SocketAddr;

use egress_policy::{Decision, Destination, HostMatch, Mode, Policy, is_internal};

/// Where an allowed connection or request was led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The original destination, by whichever cluster.
    OriginalDestination,
    /// An address of the name that was asked for.
    Resolved(HostMatch),
    /// The internal listener, where each request is decided.
    EachRequest,
}

/// What a policy says of something that an older policy allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes on.
    Permitted,
    /// It ends.
    Forbidden,
    /// The address where it ended decides.
    Depends(UpstreamTest),
}

/// What the address must be where something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamTest {
    /// One that a wildcard may lead to.
    Public,
    /// One where the policy allows the same.
    Allowed,
}

impl From<&Destination> for Route {
    fn from(destination: &Destination) -> Self {
        match destination {
            Destination::Dialled | Destination::Passthrough => Self::OriginalDestination,
            Destination::Resolved(_, matched) => Self::Resolved(*matched),
        }
    }
}

impl Route {
    /// The standing of something that was led here, by what the policy would decide about it now.
    pub(crate) fn standing(self, policy: &Policy, decision: &Decision<'_>) -> Standing {
        let Decision::Allow(permit) = decision else { return Standing::Forbidden };
        // In audit mode, and by global egress, it may be anywhere.
        if policy.mode() != Mode::Enforce {
            return Standing::Permitted;
        }
        match (self, Self::from(&permit.to)) {
            (Self::EachRequest, _)
            | (Self::OriginalDestination, Self::OriginalDestination)
            | (Self::Resolved(_), Self::Resolved(HostMatch::Exact))
            | (Self::Resolved(HostMatch::Wildcard), Self::Resolved(HostMatch::Wildcard)) => {
                Standing::Permitted
            }
            (Self::Resolved(HostMatch::Exact), Self::Resolved(HostMatch::Wildcard)) => {
                Standing::Depends(UpstreamTest::Public)
            }
            (Self::Resolved(_), Self::OriginalDestination) => Standing::Depends(UpstreamTest::Allowed),
            (Self::OriginalDestination, Self::Resolved(_)) | (_, Self::EachRequest) => Standing::Forbidden,
        }
    }
}

impl Standing {
    /// Whether something goes on that ended at this address. Without an address it is still being opened, and
    /// opens elsewhere than the policy says.
    pub(crate) fn is_permitted(
        self,
        upstream: impl FnOnce() -> Option<SocketAddr>,
        is_allowed_at: impl FnOnce(SocketAddr) -> bool,
    ) -> bool {
        match self {
            Self::Permitted => true,
            Self::Forbidden => false,
            Self::Depends(UpstreamTest::Public) => upstream().is_some_and(|at| !is_internal(at.ip())),
            Self::Depends(UpstreamTest::Allowed) => upstream().is_some_and(is_allowed_at),
        }
    }
}
