//! The status of a running control plane, as those ask for it who are not the control plane: its client, its text for people,
//! and what `explain` takes from it.

mod client;
mod describe;
pub mod proxies;

pub use self::client::{ask, fetch, ready};
pub use self::describe::describe;
