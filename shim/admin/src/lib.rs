//! The admin port: health, metrics, status and flows over HTTP, and the console.
//!
//! Nothing but the binary depends on this crate. Within it [`server`] depends on all the others, and they on [`status`],
//! [`guard`] and [`peer`] alone.

pub mod console;
pub mod guard;
pub mod metrics;
pub mod peer;
pub mod pools;
pub mod server;
pub mod status;
