//! Delivers snapshots to proxies over the aggregated discovery service.
//!
//! [`session`] holds the protocol without any I/O: what a stream has, and what must be sent next.
//! [`server`] is the gRPC around it, and [`proxies`] remembers who is connected and what they said.

mod access_logs;
mod connection;
pub mod fallback;
pub mod identify;
pub mod limits;
pub mod proxies;
mod push_budget;
mod removal_timer;
pub mod server;
pub mod session;
pub mod snapshot_cache;
mod stream;
mod wire;
