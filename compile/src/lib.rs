//! Compiles Kubernetes manifests to policy documents.
//!
//! [`manifest`] reads YAML into typed objects, [`store`] holds the objects of all files, and
//! [`compile`](fn@compile) makes one immutable document for each workload identity. [`explain`](mod@explain)
//! answers questions about single connections. Nothing here does I/O or depends on Envoy or a Kubernetes client, so
//! the control plane, the fuzzers and a browser share it.
//!
//! ```
//! use egress_compile::explain::policy_source::PolicySource;
//! use egress_compile::explain::probe_form::ProbeForm;
//! use egress_compile::explain::explain;
//! use egress_compile::store::{FileUpdate, Store};
//! use egress_compile::{CompileOptions, compile};
//!
//! let manifests = b"
//! apiVersion: policy.openservicemesh.io/v1alpha1
//! kind: Egress
//! metadata: {name: web, namespace: shop}
//! spec:
//!   sources: [{kind: ServiceAccount, name: app, namespace: shop}]
//!   hosts: [example.com]
//!   ports: [{number: 443, protocol: https}]
//! ";
//! let mut store = Store::default();
//! store.apply(FileUpdate::read("web.yaml".into(), manifests));
//!
//! // The policy document of a service account.
//! let compiled = compile(&store, &CompileOptions::default(), None);
//! let document = compiled.document(&"shop/app".parse().expect("an identity"));
//! assert_eq!(document.rules.len(), 1);
//!
//! // The verdict on a connection.
//! let source = PolicySource::compile(store.into(), &CompileOptions::default(), None);
//! let form = ProbeForm {
//!     identity: "shop/app".to_owned(),
//!     to: "https://example.com".to_owned(),
//!     ..ProbeForm::default()
//! };
//! let request = form.to_request(15001, Default::default()).expect("a valid form");
//! let report = explain(&source, &request).expect("a report");
//! assert!(report.is_allowed());
//! ```
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
    CompileOptions, Compiled, ENCRYPTED_HELLO_ANNOTATION, IGNORE_LABEL, Limits, LooserMode, MODE_ANNOTATION,
    MODE_DELEGATION_ANNOTATION, MONITORED_LABEL, ObjectStatus, OwnCluster, POLICY_NAMESPACES_ANNOTATION,
    PolicyNamespaces, PolicyNamespacesError, UPGRADES_ANNOTATION, compile,
};
