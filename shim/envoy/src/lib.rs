//! Envoy's side of the control plane: the resources of one identity's proxies as a [`snapshot`], and the [`bootstrap`] with
//! which a proxy asks for them.

pub mod bootstrap;
pub mod credentials;
mod encode;
mod generator;
mod ip_families;
mod plugins;
pub mod reported;
pub mod snapshot;

pub use egress_standalone::{FILTER_STATES, Module, Settings, name};

pub use self::encode::EncodeError;
pub use self::generator::Generator;
pub use self::ip_families::IpFamilies;
