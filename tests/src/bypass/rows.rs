//! The rows, grouped by subject.

mod addresses;
mod extensions;
mod hellos;
mod names;
mod outside_sidecar;
mod policies;
mod requests;
mod tunnels;

pub(super) use addresses::rows as addresses;
pub(super) use extensions::rows as extensions;
pub(super) use hellos::rows as hellos;
pub(super) use names::rows as names;
pub(super) use outside_sidecar::rows as around;
pub(super) use policies::rows as policies;
pub(super) use requests::rows as requests;
pub(super) use tunnels::rows as tunnels;

/// The parts that decide: a column of the table.
mod by {
    pub(super) const CONNECTION: &str = "filter, by port and address";
    pub(super) const FIRST_BYTES: &str = "filter, by the first bytes";
    pub(super) const REQUEST: &str = "filter, by each request";
    pub(super) const PARSER: &str = "Envoy's HTTP parser, then the filter by each request";
    pub(super) const RESOLVER: &str = "the sidecar's own resolver";
    pub(super) const CONTROL_PLANE: &str = "control plane";
    pub(super) const NOBODY: &str = "nothing in the sidecar";
}
