//! The flags that say where names must not lead.

use clap::Args;
use egress_compile::blocked_ranges::{BlockedRanges, Nat64Prefix};
use egress_policy::Cidr;

#[derive(Clone, Debug, Args)]
pub(super) struct BlockedRangesArgs {
    /// Blocks of addresses that names must not lead to, besides loopback, link-local and the like; several by commas.
    /// The addresses of your pods and services belong here.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_block)]
    never_resolve_to: Vec<Cidr>,
    /// Prefixes of your NAT64 translators, besides `64:ff9b::/96`; several by commas. An address below one counts as
    /// the IPv4 address in it (RFC 6052). One below `64:ff9b:1::/48` has to be listed: names lead there no other way.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    nat64_prefix: Vec<Nat64Prefix>,
}

impl From<BlockedRangesArgs> for BlockedRanges {
    fn from(BlockedRangesArgs { never_resolve_to, nat64_prefix }: BlockedRangesArgs) -> Self {
        Self { never_resolve_to, nat64_prefixes: nat64_prefix }
    }
}

fn parse_block(text: &str) -> Result<Cidr, String> {
    Cidr::canonical(text).map_err(|e| e.to_string())
}
