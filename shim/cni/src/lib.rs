//! The CNI plugin: interception for pods that may not have a container with NET_ADMIN.
//!
//! A container runtime calls [`plugin`] for each pod. [`install`] puts the plugin on a node and keeps it there. In the pod
//! [`validate`] proves, without any permission, that connections are redirected.

mod config;
mod environment;
mod error;
pub mod install;
mod netns;
mod nft;
pub mod plugin;
mod pod;
pub mod validate;

pub use error::SUPPORTED_VERSIONS;
