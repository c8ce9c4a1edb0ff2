//! The status of a running control plane: its JSON, which the admin port writes, its client, its text for people, and what
//! `explain` reads of it.

mod client;
mod describe;
mod model;
pub mod proxies;

pub use self::client::AdminClient;
pub use self::describe::describe;
pub use self::model::{Diagnostic, IdentityStatus, ObjectName, ObjectStatus, ProxyStatus, Status};
