//! The connections of a port: those that wait for their client are bounded, and cannot keep others out.
//!
//! A connection holds a [`Place`] in the [`Pool`] of its port while it waits for its client: for a handshake, for a
//! request, for the rest of a body. Where all places are taken, the oldest connection of the address that has the
//! most goes. A connection that does what it is there for gives its place back, so it can never be the one.

mod accept;
mod guarded;
mod http;
mod pool;

pub use self::accept::{Config, encrypted, plain};
pub use self::guarded::{ConnectionInfo, Guarded};
pub use self::http::{HttpLimits, serve};
pub use self::pool::{Carried, Place, Pool, network};

use std::time::Duration;

/// The age at which a connection makes room for another of its own address. An honest client is done with
/// its handshake by then, so a fleet that comes back behind one address is not cut while it connects.
pub const EVICTION_AGE: Duration = Duration::from_secs(1);
/// The time that a client may read nothing of what is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Lets this process have as many files as the system permits: each connection is one.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files: it bounds how many proxies can connect");
    }
}
