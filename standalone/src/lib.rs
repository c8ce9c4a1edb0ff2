//! The one source of Envoy's configuration: listeners, clusters, access logs and plugins as JSON with comments, and
//! their text in YAML; and the requirements of Envoy's versions.
//!
//! It knows the engine, the compiler's output and Envoy's names. There is no I/O and no protobuf, so the control
//! plane, which encodes this JSON, the command line and a browser share it.

mod access_log;
pub mod clusters;
mod configuration;
mod dns;
pub mod http;
pub mod listeners;
mod messages;
pub mod name;
pub mod plugin;
pub mod process;
pub mod refusals;
mod settings;
mod traffic;
pub mod value;
mod version;
pub mod versions;
pub mod yaml;

pub use self::access_log::FILTER_STATES;
pub use self::configuration::{Configuration, MODULE};
pub use self::plugin::plugin;
pub use self::settings::{Module, Settings};
pub use self::value::Value;
pub use self::version::{CURRENT, EnvoyVersion, EnvoyVersionError, OLDEST};

#[cfg(test)]
mod tests;
