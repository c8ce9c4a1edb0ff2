//! Counters of certificates and handshakes.

use std::sync::atomic::AtomicU64;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Changes that are in force.
    pub reloads: AtomicU64,
    /// Changes that could not be used.
    pub failures: AtomicU64,
    /// Connections that ended before they were encrypted.
    pub handshakes_failed: AtomicU64,
}
