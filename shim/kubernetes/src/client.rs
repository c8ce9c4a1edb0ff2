//! The client of an API server, by a kubeconfig or the credentials of a pod.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// The time that connecting to the API server may take, so that an absent one is noticed soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The name under which fields, objects and events are written: the field manager of server-side apply.
pub(crate) const MANAGER: &str = "osm-egress";

/// A client, and where it connects to.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The API server's URL.
    pub server: String,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A client's configuration has credentials in it.
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The reason why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No cluster is named.
    #[error(
        "there is no folder and no cluster to read from: pass `--config-dir DIR`, or `--kubeconfig FILE`, \
         or run this in a pod ({0})"
    )]
    Nowhere(String),
    /// A kubeconfig that was named cannot be used.
    #[error("cannot use {file}: {reason}")]
    Kubeconfig {
        /// The file.
        file: String,
        /// The reason.
        reason: String,
    },
    /// The pod's own credentials cannot be used.
    #[error("cannot use this pod's credentials: {0}: does its service account mount a token?")]
    Pod(String),
    /// The configuration makes no client.
    #[error("cannot make a client for {server}: {reason}")]
    Client {
        /// The API server's URL.
        server: String,
        /// The reason.
        reason: String,
    },
}

/// Makes a client: of the kubeconfig that is named, else of the pod that this runs in, else of the
/// kubeconfig that kubectl would use. Connects to nothing yet.
///
/// # Errors
/// When there is no configuration, or it cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ConnectError> {
    let options = KubeConfigOptions::default();
    let mut config = if let Some(path) = kubeconfig {
        let wrong = |reason: String| ConnectError::Kubeconfig { file: path.display().to_string(), reason };
        let text = Kubeconfig::read_from(path).map_err(|error| wrong(chain(&error)))?;
        Config::from_custom_kubeconfig(text, &options).await.map_err(|error| wrong(chain(&error)))?
    } else if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().map_err(|error| ConnectError::Pod(chain(&error)))?
    } else {
        Config::from_kubeconfig(&options).await.map_err(|error| ConnectError::Nowhere(chain(&error)))?
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config)
        .map_err(|error| ConnectError::Client { server: server.clone(), reason: chain(&error) })?;
    Ok(Connection { client, server })
}

/// The text of an error and of those causes that it does not repeat.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let detail = error.to_string();
        if !text.contains(&detail) {
            text.push_str(": ");
            text.push_str(&detail);
        }
        cause = error.source();
    }
    text
}

/// The text of an error of the API server, in one line.
#[must_use]
pub fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API server says {}: {}", status.code, status.message);
    }
    // What this kind of error adds is the name of a part of the client.
    let why = if let kube::Error::Service(error) = error { chain(&**error) } else { chain(error) };
    format!("the API server does not answer: {why}")
}

/// Returns whether the API server answered 404: no such object or kind.
#[must_use]
pub fn is_unknown(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
