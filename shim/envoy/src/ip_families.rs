//! The address families of interception.

/// The address families that are intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IpFamilies {
    /// IPv4 and IPv6.
    Dual,
    /// IPv4 only, where machines have no IPv6.
    Ipv4,
}
