//! The test harness: network namespaces, origins, DNS, real Envoys and the real control plane. Everything
//! that it starts ends with it, even when it is killed: namespaces are held by processes that die with their
//! parent, and so do Envoys and control planes.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test that meets what it did not expect fails with it")]

pub mod access_log;
pub mod authority;
pub mod browser;
pub mod bypass;
pub mod cli;
pub mod client;
pub mod closing_origin;
pub mod cluster;
pub mod cni;
pub mod compose;
pub mod control_plane;
pub mod corpus;
pub mod curl;
pub mod differential;
pub mod dns;
pub mod doc_commands;
pub mod echo;
pub mod envoy;
pub mod fleet;
pub mod flood;
pub mod grpc;
pub mod hello;
pub mod kube;
pub mod kubelet;
pub mod log_entries;
pub mod manifests;
pub mod mesh;
pub mod netns;
pub mod network;
pub mod origin;
pub mod patch_webhook;
pub mod pattern_servers;
pub mod prometheus;
pub mod raw_origin;
pub mod sidecar;
pub mod sink;
pub mod slow_origin;
pub mod standalone;
pub mod unanswered_requests;
pub mod wait;
pub mod websocket;
pub mod workload;
pub mod xds;

use std::path::Path;

/// The root folder of the repository.
#[must_use]
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
