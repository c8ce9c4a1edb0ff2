//! The source of objects that the control plane reads, and what else comes from there: who proxies are, and where policy
//! statuses, audit events and the console's writes go.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use egress_admin::console::WriteTarget;
use egress_compile::{CompileOptions, Compiled};
use egress_core::proxies::ProxyRegistry;
use egress_core::source::SourceState;
use egress_folder::Folder;
use egress_kubernetes::{
    ApiTokenReviewer, AuditEvents, Cluster, ClusterWriter, Connection, PolicyStatuses, connect,
};
use egress_transport::tls::ServerTls;
use egress_xds::identify::{Accepted, Certificates, Identification, Tokens, TrustDomain};
use tokio::sync::watch;

/// The time limit of the message to other control planes that this one stops.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The way in which proxies are identified.
#[derive(Debug)]
pub enum ProxyAuth {
    /// By their node id, which is not verified.
    NodeId,
    /// By their credentials. Client certificates count where there is an authority for them.
    Credentials {
        /// The domain of identities in client certificates.
        trust_domain: TrustDomain,
        /// The audience of tokens, if these count.
        token_audience: Option<String>,
        /// The interval at which the credentials of an open stream are reviewed again.
        review_interval: Duration,
    },
}

/// The source of objects.
#[derive(Debug)]
pub enum SourceConfig {
    /// A folder of manifests.
    Folder(PathBuf),
    /// The API server of a cluster: of the kubeconfig that is named, else of the environment.
    Cluster(Option<PathBuf>),
}

/// A source that is read until the process ends.
#[derive(Debug)]
pub(crate) enum RunningSource {
    Folder(Folder, PathBuf),
    Cluster(Box<Cluster>, Connection),
}

impl RunningSource {
    /// Starts to read; also returns the name of what is read, for the log.
    pub(crate) async fn start(config: &SourceConfig, options: &CompileOptions) -> Result<(Self, String)> {
        Ok(match config {
            SourceConfig::Folder(folder) => {
                let reading = Folder::watch(folder).context("cannot start a thread")?;
                (Self::Folder(reading, folder.clone()), folder.display().to_string())
            }
            SourceConfig::Cluster(kubeconfig) => {
                let connection = connect(kubeconfig.as_deref()).await?;
                let server = connection.server.clone();
                (Self::Cluster(Box::new(Cluster::watch(&connection.client, options)), connection), server)
            }
        })
    }

    /// The objects, now and later.
    pub(crate) fn states(&self) -> watch::Receiver<SourceState> {
        match self {
            Self::Folder(folder, _) => folder.states(),
            Self::Cluster(cluster, _) => cluster.states(),
        }
    }

    /// The identification of proxies. Their tokens are reviewed by the API server that the objects come from.
    pub(crate) fn identification(&self, auth: ProxyAuth, tls: Option<&ServerTls>) -> Result<Identification> {
        let ProxyAuth::Credentials { trust_domain, token_audience, review_interval } = auth else {
            return Ok(Identification::NodeId);
        };
        let tokens = match (token_audience, self) {
            (Some(audience), Self::Cluster(_, connection)) => {
                let reviewer = ApiTokenReviewer::new(connection.client.clone());
                Some(Tokens::new(Arc::new(reviewer), audience))
            }
            (Some(_), Self::Folder(..)) => {
                bail!("a folder of manifests has no API server that reviews tokens")
            }
            (None, _) => None,
        };
        let tls = tls.filter(|tls| tls.requests_client_certificates()).cloned();
        let certificates = tls.map(|tls| Certificates { tls, trust_domain });
        let accepted = Accepted { certificates, tokens, review_interval };
        Ok(Identification::Credentials(Box::new(accepted)))
    }

    /// Returns whether nothing is known before the first state: proxies must keep their policy until then.
    pub(crate) const fn waits_for_first_state(&self) -> bool {
        matches!(self, Self::Cluster(..))
    }

    /// The statuses of policies.
    pub(crate) fn policy_statuses(&self) -> PolicyStatuses {
        match self {
            Self::Folder(..) => PolicyStatuses::default(),
            Self::Cluster(cluster, _) => cluster.policy_statuses(),
        }
    }

    /// The events of the audit record; none without an API server.
    pub(crate) fn audit_events(&mut self) -> Option<AuditEvents> {
        match self {
            Self::Folder(..) => None,
            Self::Cluster(cluster, connection) => Some(cluster.audit_events(&connection.client)),
        }
    }

    /// The target of the console's writes.
    pub(crate) fn target(&self, options: &CompileOptions) -> WriteTarget {
        match self {
            Self::Folder(_, root) => WriteTarget::Folder(root.clone()),
            Self::Cluster(_, connection) => {
                WriteTarget::Cluster(ClusterWriter::new(connection.client.clone(), options.clone()))
            }
        }
    }

    /// Reports the status of each policy to the API server, if there is one.
    pub(crate) fn write_statuses(
        &mut self,
        options: &CompileOptions,
        replica: &str,
        compiled: &watch::Receiver<Arc<Compiled>>,
        proxies: Arc<dyn ProxyRegistry>,
    ) {
        if let Self::Cluster(cluster, connection) = self {
            cluster.write_statuses(&connection.client, options, replica, compiled, proxies);
        }
    }

    /// Stops reading, and reports to other control planes that this one has no proxies any more.
    pub(crate) async fn stop(self) {
        match self {
            Self::Folder(folder, _) => folder.stop(),
            // While the API server is away others notice by themselves.
            Self::Cluster(cluster, _) => drop(tokio::time::timeout(LEAVE_TIMEOUT, cluster.stop()).await),
        }
    }
}
