//! The status of a running control plane: its JSON, the client of the admin port, and its text form.

mod client;
mod describe;
mod model;
pub mod proxies;

pub use self::client::AdminClient;
pub use self::describe::describe;
pub use self::model::{Diagnostic, IdentityStatus, ObjectName, ObjectStatus, ProxyStatus, Status};
