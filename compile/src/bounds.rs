//! The bounds of values that proxies are given. What a proxy does not take it refuses together with everything
//! that came in the same message, so a value outside grants nothing.
//!
//! Tried on Envoy 1.39 and 1.40 (`tests/tests/bounds.rs`). Numbers of connections and requests have no bounds of
//! their own: Envoy takes whatever 32 bits hold, and 0 means none (of requests on one connection: any number).

use std::time::Duration;

/// The shortest time that connecting may take: Envoy counts milliseconds, and gives up at once after none.
pub const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest time that connecting may take: a year. Envoy takes 292, and no kernel tries as long.
pub const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
