//! Server connections: encrypted by files that are followed, bounded while they wait, and HTTP within limits.
//!
//! The port of xDS, the webhooks and the admin port use it alike.

pub mod connections;
pub mod tls;
