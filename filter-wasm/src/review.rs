//! The question that a policy change asks about everything that was allowed before it.
//!
//! The verdict alone does not answer it: what the old policy led to one address may be allowed by the new
//! one at another address only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_policy::{Decision, Destination, HostMatch, Mode, Policy};

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

/// An address of each family that nothing has (RFC 1112, RFC 6666): what a policy allows at both, it allows at any.
pub(crate) const NOWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1))];

impl From<&Destination> for Route {
    fn from(destination: &Destination) -> Self {
        match destination {
            Destination::Original | Destination::Passthrough => Self::OriginalDestination,
            Destination::Resolved(_, matched) => Self::Resolved(*matched),
        }
    }
}

impl Route {
    /// Whether something that was led here goes on, by what the policy would decide about it now.
    ///
    /// Which address of a name a connection reached is not known: Envoy tells a plugin the first of them. So where
    /// the name does not lead any more, `is_allowed_anywhere` must say that every address will do.
    pub(crate) fn is_permitted(
        self,
        policy: &Policy,
        decision: &Decision<'_>,
        is_allowed_anywhere: impl FnOnce() -> bool,
    ) -> bool {
        let Decision::Allow(permit) = decision else { return false };
        // In audit mode, and by global egress, it may be anywhere.
        if policy.mode() != Mode::Enforce {
            return true;
        }
        match (self, Self::from(&permit.to)) {
            (Self::EachRequest, _) | (Self::OriginalDestination, Self::OriginalDestination) => true,
            // What only a wildcard lists leads to fewer addresses.
            (Self::Resolved(HostMatch::Exact), Self::Resolved(HostMatch::Wildcard)) => false,
            (Self::Resolved(_), Self::Resolved(_)) => true,
            (Self::Resolved(_), Self::OriginalDestination) => is_allowed_anywhere(),
            (Self::OriginalDestination, Self::Resolved(_)) | (_, Self::EachRequest) => false,
        }
    }
}

/// Whether a decision leaves the original destination to the workload.
pub(crate) fn leads_to_original_destination(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(permit) if Route::from(&permit.to) == Route::OriginalDestination)
}
