//! The control plane: delivers listener, clusters, filter and one policy document per workload identity
//! to Envoy over xDS.
//!
//! This crate is the command line and the wiring of the others. Data flows one way: `egress_folder` or
//! `egress_kubernetes` → `egress_compile` → `egress_envoy` → `egress_xds`.

pub mod check;
pub mod cli;
pub mod explain;
pub mod serve;
