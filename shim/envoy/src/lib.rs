//! Envoy's side of the control plane: the resources of one identity's proxies as a [`snapshot`], and the [`bootstrap`] with
//! which a proxy asks for them.

pub mod access_log;
pub mod bootstrap;
mod clusters;
pub mod credentials;
mod dns;
mod generator;
mod http;
mod listeners;
mod messages;
pub mod name;
mod plugins;
pub mod reported;
mod settings;
pub mod snapshot;
mod traffic;

pub use self::generator::Generator;
pub use self::settings::{IpFamilies, Module, Settings};
