//! Configuration and shared state of the console.

use std::path::PathBuf;
use std::sync::Arc;

use egress_compile::CompileOptions;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_kubernetes::ClusterWriter;

use super::playground::Playground;
use super::token::Token;
use crate::guard::HostName;
use crate::status::AdminState;

/// Configuration of the console.
#[derive(Debug)]
pub struct ConsoleConfig {
    /// Names of the mesh.
    pub options: CompileOptions,
    /// True if objects come from a cluster, where those of unmonitored namespaces are ignored.
    pub from_cluster: bool,
    /// Port of the outbound listener.
    pub listener_port: u16,
    /// Address ranges that resolved names never lead to.
    pub blocked: BlockedRanges,
    /// Host names of the console, besides addresses and `localhost`.
    pub names: Vec<HostName>,
    /// Write access, if enabled.
    pub writes: Option<WriteConfig>,
    /// Playground that the page links to.
    pub playground: Option<Playground>,
}

/// State shared by the routes.
#[derive(Clone, Debug)]
pub(super) struct ConsoleState {
    pub(super) shared: AdminState,
    pub(super) console: Arc<ConsoleConfig>,
}

/// Configuration of write access.
#[derive(Debug)]
pub struct WriteConfig {
    /// Token that a request must present.
    pub token: Token,
    /// Destination of writes.
    pub target: WriteTarget,
}

/// Destination of the console's writes.
#[derive(Debug)]
pub enum WriteTarget {
    /// The folder of manifests.
    Folder(PathBuf),
    /// A cluster.
    Cluster(ClusterWriter),
}
