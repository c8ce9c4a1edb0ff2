//! The filter: one proxy-wasm module with two plugins.
//!
//! The network plugin stands on the outbound listener and decides every connection; the HTTP plugin
//! stands on the internal listener `egress-http` and decides every plaintext request. Both ask the
//! same engine, [`egress_policy`]. Only the module `host` knows the SDK.
//!
//! INVARIANT(closed): whatever goes wrong, nothing is steered anywhere. An unsteered connection
//! meets the cluster `passthrough-outbound`, which exists only while global egress is on; an
//! unsteered request has no route.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unreachable
    )
)]

mod config;
#[cfg(test)]
mod fake;
mod frames;
mod host;
mod http;
mod in_flight;
mod messages;
mod network;
mod open_connections;
mod own_connections;
mod partial_headers;
mod pending;
mod record;
mod review;
mod scope;
mod steer;
mod table;
