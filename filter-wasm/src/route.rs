//! The route of an allowed connection or request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egress_policy::contract::cluster;
use egress_policy::{Decision, Destination, HostMatch, Mode, Permit, Policy};

/// The route of an allowed connection or request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The original destination, by any cluster.
    OriginalDestination,
    /// An address of the requested name.
    Resolved(HostMatch),
    /// The internal listener, where each request is decided.
    EachRequest,
}

/// An address of each family that no host has (RFC 1112, RFC 6666): what a policy allows at both, it allows at any.
pub(crate) const UNUSED_ADDRESSES: [IpAddr; 2] =
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
    /// Returns whether a connection or request with this route continues under a new policy, by its new decision.
    ///
    /// The verdict alone is not enough: the new policy may allow at another address only what the old one led to one
    /// address. The address of a name that a connection reached is not known, because Envoy tells a plugin the first of
    /// them. So where the name does not choose the address any more, `is_allowed_anywhere` must tell that every address
    /// is allowed.
    pub(crate) fn is_permitted(
        self,
        policy: &Policy,
        decision: &Decision<'_>,
        is_allowed_anywhere: impl FnOnce() -> bool,
    ) -> bool {
        let Decision::Allow(permit) = decision else { return false };
        // Audit mode and global egress permit any address.
        if policy.mode() != Mode::Enforce {
            return true;
        }
        match (self, Self::from(&permit.to)) {
            (Self::EachRequest, _) | (Self::OriginalDestination, Self::OriginalDestination) => true,
            // A name that only a wildcard lists leads to fewer addresses.
            (Self::Resolved(HostMatch::Exact), Self::Resolved(HostMatch::Wildcard)) => false,
            (Self::Resolved(_), Self::Resolved(_)) => true,
            (Self::Resolved(_), Self::OriginalDestination) => is_allowed_anywhere(),
            (Self::OriginalDestination, Self::Resolved(_)) | (_, Self::EachRequest) => false,
        }
    }
}

/// Returns whether a decision leads to the original destination.
pub(crate) fn leads_to_original_destination(decision: &Decision<'_>) -> bool {
    matches!(decision, Decision::Allow(permit) if Route::from(&permit.to) == Route::OriginalDestination)
}

/// Selects the cluster for a permit: the rule's own, or the one that all rules share.
pub(crate) fn select_cluster<'p>(permit: &Permit<'p>) -> &'p str {
    match (permit.cluster, &permit.to) {
        (Some(own), _) => own,
        (None, Destination::Original) => cluster::ORIGINAL_DST,
        (None, Destination::Resolved(_, HostMatch::Exact)) => cluster::DNS,
        (None, Destination::Resolved(_, HostMatch::Wildcard)) => cluster::DNS_WILDCARD,
        (None, Destination::Passthrough) => cluster::PASSTHROUGH,
    }
}
