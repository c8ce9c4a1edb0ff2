//! The egress policy engine: it decides which outbound connections and requests a workload may make.
//!
//! Pure and total: no I/O, no clock, no environment. The same document and the same input give the same decision on
//! the host, in Envoy and in the browser. This crate depends on neither Envoy nor Kubernetes.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]
#![warn(missing_docs)]

mod address;
mod addresses;
mod authority;
mod cidr;
pub mod client_hello;
pub mod contract;
mod decision;
mod document;
#[cfg(feature = "explain")]
pub mod explain;
mod host;
mod identity;
mod path;
mod pattern;
mod plugin;
mod policy;
mod reason;
mod strict;

pub use address::{Address, AddressError};
pub use cidr::{Cidr, CidrError};
pub use decision::{Decision, Destination, Grant, HostMatch, Permit, Refusal, RuleId, Verdict};
pub use document::{
    API_VERSION, ApiVersion, Document, DocumentError, EncryptedHello, HeaderMatch, InMesh, Mode, Port,
    Protocol, Route, Rule, Upgrade,
};
pub use host::{Host, HostError, HostPattern};
pub use identity::{Identity, IdentityError};
pub use pattern::{FullMatch, PatternError};
pub use plugin::{Plugin, PluginConfig};
pub use policy::{ConnectionOutcome, ConnectionStart, Headers, Policy, PolicyError, Request, StartOutcome};
pub use reason::{ReasonCode, UnknownReason};
