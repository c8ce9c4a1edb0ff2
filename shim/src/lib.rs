//! The control plane: reads MeshConfig and Egress objects, compiles one policy document per workload
//! identity, and delivers listener, clusters, filter and policy to Envoy over xDS.
//!
//! Data flows one way: [`source`] → [`store`] → [`compile`] → [`snapshot`] → [`xds`]. Kubernetes types
//! stop at [`manifest`], Envoy's protobufs at [`envoy`] and [`xds`].

pub mod admin;
pub mod check;
pub mod cli;
pub mod compile;
pub mod envoy;
pub mod manifest;
pub mod metrics;
pub mod serve;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod xds;
