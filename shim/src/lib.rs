//! The control plane: delivers listener, clusters, filter and one policy document per workload identity
//! to Envoy over xDS.
//!
//! Data flows one way: [`source`] → [`egress_compile`] → [`snapshot`] → [`xds`]. Envoy's protobufs stop
//! at [`envoy`] and [`xds`].

pub mod admin;
pub mod audit;
pub mod check;
pub mod cli;
pub mod connections;
pub mod console;
pub mod crds;
pub mod envoy;
pub mod explain;
pub mod flows;
pub mod inject;
pub mod install;
pub mod interception;
pub mod metrics;
pub mod serve;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod tls;
pub mod webhook;
pub mod xds;

mod yaml;
