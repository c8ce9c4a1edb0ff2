//! Where a name must never lead, in Envoy's words.

use egress_policy::{Cidr, HostMatch};
use envoy_types::pb::google::protobuf::UInt32Value;
use envoy_types::pb::xds::core::v3::CidrRange;

/// The addresses that are dropped from the answers of name servers.
pub(super) fn never(names: HostMatch, more: &[Cidr]) -> Vec<CidrRange> {
    let ranges = egress_compile::never::never(names, more).into_iter();
    ranges
        .map(|(prefix, length)| CidrRange {
            address_prefix: prefix.to_string(),
            prefix_len: Some(UInt32Value { value: length.into() }),
        })
        .collect()
}
