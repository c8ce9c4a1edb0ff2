//! The admin port: health, metrics, status and flows over HTTP, and the console.
//!
//! Only the binary depends on this crate. Within it, [`server`] depends on all other modules, and these on
//! [`status`], [`guard`] and [`peer`] alone.

pub mod console;
pub mod guard;
pub mod metrics;
pub mod peer;
pub mod pools;
pub mod server;
pub mod status;
