//! Connections of a port: a bounded number of idle ones, which cannot keep other clients out.
//!
//! A connection holds a [`Slot`] in the [`Pool`] of its port while it waits for its client: for a handshake, for a
//! request, for the rest of a body. When no slot is free, the oldest connection of the client address with the most
//! connections is evicted. A connection that serves its client gives its slot back, so it is never evicted.

mod accept;
mod guarded;
mod http;
mod pool;

pub use self::accept::{ConfigSelector, accept_plaintext, accept_tls};
pub use self::guarded::{ConnectionInfo, GuardedConnection};
pub use self::http::{HttpLimits, serve_http};
pub use self::pool::{ActiveGuard, Pool, Slot, client_network};

use std::time::Duration;

/// Age from which a connection can be evicted by another one of its own client address. An honest client has finished
/// its handshake by then, so a fleet that reconnects from behind one address is not cut off.
pub const EVICTION_AGE: Duration = Duration::from_secs(1);
/// Time after which a connection is closed if the client reads nothing of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Raises the soft limit of open files to the hard limit: each connection is a file.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files: it bounds how many proxies can connect");
    }
}
