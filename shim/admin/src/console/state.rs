//! The settings of the console, and what its routes look at.

use std::path::PathBuf;
use std::sync::Arc;

use egress_compile::CompileOptions;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_kubernetes::ClusterWriter;

use super::playground::Playground;
use super::token::Token;
use crate::guard::HostName;
use crate::status::Shared;

/// What the console is told.
#[derive(Debug)]
pub struct Console {
    /// The mesh's names.
    pub options: CompileOptions,
    /// Whether objects come from a cluster, where those of other namespaces do not count.
    pub of_cluster: bool,
    /// The port of the outbound listener.
    pub listener_port: u16,
    /// Where names must not lead.
    pub blocked: BlockedRanges,
    /// Names by which it may be asked, besides addresses and `localhost`.
    pub names: Vec<HostName>,
    /// How it writes, if it does.
    pub writes: Option<Writes>,
    /// The playground that it links to.
    pub playground: Option<Playground>,
}

/// What its routes look at.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) shared: Shared,
    pub(super) console: Arc<Console>,
}

/// How the console writes.
#[derive(Debug)]
pub struct Writes {
    /// What a request must show.
    pub token: Token,
    /// Where it writes.
    pub target: Target,
}

/// Where the console writes.
#[derive(Debug)]
pub enum Target {
    /// To the folder of manifests.
    Folder(PathBuf),
    /// To a cluster.
    Cluster(ClusterWriter),
}
