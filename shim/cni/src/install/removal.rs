//! The decision to take the plugin off a node when this process ends.
//!
//! A plugin that stays after its service account is gone fails ADD for every pod of the node. A plugin that is taken off for
//! the restart of a pod leaves a gap, in which injected pods do not start.

use egress_kubernetes::{connect, reason};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

/// Treatment of the node at SIGTERM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// The plugin stays.
    Never,
    /// The plugin is taken off if the DaemonSet is deleted.
    #[default]
    WhenUninstalled,
    /// The plugin is taken off.
    Always,
}

impl Removal {
    /// Decides for this moment.
    pub(super) async fn is_wanted(self, daemon_set: Option<&(String, String)>) -> bool {
        match (self, daemon_set) {
            (Self::Never, _) | (Self::WhenUninstalled, None) => false,
            (Self::Always, _) => true,
            (Self::WhenUninstalled, Some((namespace, name))) => is_deleted(namespace, name).await,
        }
    }
}

/// Asks the API server whether the DaemonSet is deleted. Without the permission to ask, the plugin has none to read pods
/// either: then the installation is gone. If the API server is away, nothing is known, and the plugin stays.
async fn is_deleted(namespace: &str, name: &str) -> bool {
    let connection = match connect(None).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "cannot ask for the DaemonSet");
            return false;
        }
    };
    let api: Api<DaemonSet> = Api::namespaced(connection.client, namespace);
    match api.get(name).await {
        Ok(found) => found.metadata.deletion_timestamp.is_some(),
        Err(kube::Error::Api(status)) if [401, 403, 404].contains(&status.code) => true,
        Err(error) => {
            tracing::warn!(reason = reason(&error), "cannot ask for the DaemonSet");
            false
        }
    }
}
