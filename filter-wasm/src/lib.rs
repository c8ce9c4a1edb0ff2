//! The filter: one proxy-wasm module with two plugins.
//!
//! The network plugin runs on the outbound listener and decides every connection; the HTTP plugin runs on the internal
//! listener `egress-http` and decides every plaintext request. Both use the engine, [`egress_policy`].
//!
//! There are three layers. `host` has the traits through which plugins use Envoy; only `sdk` uses the SDK, and
//! implements them; `plugin` is the root of a plugin, which makes the filters `network_filter` and `http_filter`.
//!
//! INVARIANT(closed): after any failure nothing is steered. An unsteered connection falls through to the cluster
//! `passthrough-outbound`, which exists only while global egress is on; an unsteered request has no route.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod config;
mod decision_log;
mod enforcement;
#[cfg(test)]
mod fake_host;
mod host;
mod http1_headers;
mod http2_headers;
mod http_filter;
mod in_flight_requests;
mod network_filter;
mod open_connections;
mod pending_connections;
mod plaintext_connections;
mod plugin;
mod policy_cache;
mod recent_streams;
mod revocation;
mod route;
mod scope;
mod sdk;
mod shared_sum;
mod table;
mod tick;
