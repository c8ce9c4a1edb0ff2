//! The control plane: delivers listener, clusters, filter and one policy document per workload identity
//! to Envoy over xDS.
//!
//! This crate is the command line and the wiring of the others. `pipeline.rs` shows how data flows: from a source
//! (`egress_folder`, `egress_kubernetes`) through `egress_compile` to the snapshot cache and the streams of `egress_xds`.

pub mod check;
pub mod cli;
pub mod explain;
mod pipeline;
pub mod serve;
pub mod source;
