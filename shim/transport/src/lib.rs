//! Server connections: TLS with certificates reloaded from files, bounded pools of idle connections, HTTP within
//! limits.
//!
//! Used by the xDS port, the webhooks and the admin port.

pub mod connections;
pub mod tls;
