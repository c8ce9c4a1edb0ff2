//! The harness: network namespaces, origins, DNS, real Envoys and the real control plane.
//!
//! Everything that it starts ends with it, even when it is killed: namespaces are held by processes
//! that die with their parent, and so do Envoys and control planes.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test that meets what it did not expect fails with it")]

pub mod authority;
pub mod browser;
pub mod bulk;
pub mod bypass;
pub mod client;
pub mod cluster;
pub mod compose;
pub mod corpus;
pub mod curl;
pub mod differential;
pub mod dns;
pub mod echo;
pub mod envoy;
pub mod flood;
pub mod grpc;
pub mod hello;
pub mod hold;
pub mod installer;
pub mod kube;
pub mod kubelet;
pub mod log;
pub mod mesh;
pub mod netns;
pub mod origin;
pub mod prometheus;
pub mod raw_origin;
pub mod scene;
pub mod shim;
pub mod sink;
pub mod slow;
pub mod standalone;
pub mod told;
pub mod tour;
pub mod wait;
pub mod websocket;
pub mod xds;
