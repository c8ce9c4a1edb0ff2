//! Bounds of the values that proxies receive. Envoy rejects a value out of bounds together with everything else
//! in the same message, so the compiler grants nothing for such a value.
//!
//! Tested on Envoy 1.39 and 1.40 (`tests/tests/bounds.rs`). Counts of connections and requests need no bounds:
//! Envoy accepts any 32-bit number, and 0 means none (for requests on one connection: unlimited).

use std::time::Duration;

/// The shortest connect timeout. Envoy counts milliseconds, and a timeout of zero fails at once.
pub const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(1);
/// The longest connect timeout: a year. Envoy accepts 292 years, and no kernel tries for as long.
pub const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
