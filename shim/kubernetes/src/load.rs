//! The objects of a cluster, loaded once.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1;
use kube::{Api, Client};

use super::client::reason;
use super::cluster::Cluster;
use egress_compile::CompileOptions;
use egress_core::source::{Availability, SourceState};
use egress_policy::Identity;

/// The name of the sidecar's container, as in Open Service Mesh.
const SIDECAR: &str = "envoy";

/// A pod, as far as `explain` needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The identity of its service account.
    pub identity: Identity,
    /// True if it has a sidecar.
    pub has_sidecar: bool,
}

/// Reads a cluster as the control plane does, until everything was read.
///
/// # Errors
/// When that takes longer than `timeout`; with the reason.
pub async fn read_once(client: &Client, options: &CompileOptions, timeout: Duration) -> Result<SourceState> {
    let cluster = Cluster::watch(client, options);
    let mut states = cluster.states();
    let available = states.wait_for(|state| state.availability.is_available());
    match tokio::time::timeout(timeout, available).await {
        Ok(state) => Ok(state.context("the cluster is not read any more")?.clone()),
        Err(_) => match cluster.states().borrow().availability.clone() {
            Availability::Unavailable { reason } => {
                bail!("the cluster could not be read in {timeout:?}: {reason}")
            }
            Availability::Available => bail!("the cluster was not read in {timeout:?}"),
        },
    }
}

/// Finds a pod.
///
/// # Errors
/// When there is none, or it must not be read.
pub async fn find_pod(client: &Client, namespace: &str, name: &str) -> Result<Pod> {
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let pod = api
        .get(name)
        .await
        .map_err(|error| anyhow::anyhow!("cannot read pod `{namespace}/{name}`: {}", reason(&error)))?;
    let spec = pod.spec.unwrap_or_default();
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    Ok(Pod {
        identity: Identity::new(namespace, account)?,
        has_sidecar: containers.into_iter().any(|container| container.name == SIDECAR),
    })
}
