//! The control plane on a real API server, with real kubectl and real Envoys.
//!
//! One program, so that it is linked once and its tests run in parallel; a file for each subject.

mod admission;
mod cni;
mod cni_installed;
mod cni_node;
mod cni_restricted;
mod console;
mod explain;
mod fleet;
mod grants;
mod identity;
mod inject;
mod install;
mod installed;
mod pods;
mod replicas;
mod scale;
mod services;
mod source;
mod status;
