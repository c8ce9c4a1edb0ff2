//! From manifests to policy documents.
//!
//! Text becomes typed objects ([`manifest`]), the objects of all files a [`store`], and a store one
//! immutable document per workload identity ([`compile`]). What follows for a connection is said by
//! [`explain`](mod@explain). Nothing here does I/O or knows Envoy or a
//! Kubernetes client, so the control plane, the fuzzers and a browser can share it.

pub mod blocked_ranges;
pub mod bounds;
pub mod budget;
pub mod changes;
pub mod check;
pub mod cluster;
mod compile;
pub mod duration;
pub mod explain;
pub mod fallback;
pub mod lint;
pub mod manifest;
pub mod store;

pub use compile::{
    CompileOptions, Compiled, Condition, ENCRYPTED_HELLO_ANNOTATION, IGNORE_LABEL, Limits, LooserMode,
    MODE_ANNOTATION, MODE_DELEGATION_ANNOTATION, MONITORED_LABEL, OwnCluster, POLICY_NAMESPACES_ANNOTATION,
    PolicyNamespaces, PolicyNamespacesError, UPGRADES_ANNOTATION, compile,
};
