//! The writes of the console to a cluster: the switch of global egress, and policies that are new.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::client::{is_unknown, reason};
use super::kinds::discover;
use egress_compile::CompileOptions;
use egress_compile::manifest::Kind;

/// The field manager of the console.
const MANAGER: &str = "osm-egress-console";

/// Writes to a cluster.
#[derive(Clone)]
pub struct ClusterWriter {
    client: Client,
    options: CompileOptions,
}

/// The reason why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is there already.
    #[error("Egress {0} already exists and was not changed")]
    Exists(String),
    /// The API server does not want it, or does not answer.
    #[error("{0}")]
    Server(String),
}

impl std::fmt::Debug for ClusterWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterWriter").finish_non_exhaustive()
    }
}

impl ClusterWriter {
    /// Writes by this client.
    #[must_use]
    pub fn new(client: Client, options: CompileOptions) -> Self {
        Self { client, options }
    }

    /// Switches global egress, with the patch that Open Service Mesh's documents have for kubectl. Gives the
    /// MeshConfig's name.
    ///
    /// # Errors
    /// When there is no MeshConfig, or the API server refuses.
    pub async fn global_egress(&self, on: bool) -> Result<String, Refused> {
        let CompileOptions { mesh_config_namespace: namespace, mesh_config_name: name, .. } = &self.options;
        let object = format!("MeshConfig {namespace}/{name}");
        let resource = self.resource(Kind::MeshConfig).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let patch = json!({ "spec": { "traffic": { "enableEgress": on } } });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(object),
            Err(error) if is_unknown(&error) => Err(Refused::Server(format!("there is no {object}"))),
            Err(error) => Err(Refused::Server(refusal(&error))),
        }
    }

    /// Makes policies, all or none: each is tried before the first is made. What is there already is not touched.
    ///
    /// # Errors
    /// When one exists, or the API server refuses.
    pub async fn create(&self, policies: &[Value]) -> Result<(), Refused> {
        let resource = self.resource(Kind::Egress).await?;
        for dry_run in [true, false] {
            let field_manager = Some(MANAGER.to_owned());
            let params = PostParams { dry_run, field_manager };
            for (done, policy) in policies.iter().enumerate() {
                let text = |key: &str| policy["metadata"][key].as_str().unwrap_or_default();
                let (namespace, name) = (text("namespace"), text("name"));
                let object: DynamicObject = serde_json::from_value(policy.clone())
                    .map_err(|error| Refused::Server(format!("this is no object: {error}")))?;
                let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
                let error = match api.create(&params, &object).await {
                    Ok(_) => continue,
                    Err(error) => error,
                };
                let is_there = matches!(&error, kube::Error::Api(status) if status.code == 409);
                let named = format!("{namespace}/{name}");
                if is_there && (dry_run || done == 0) {
                    return Err(Refused::Exists(named));
                }
                let before = if dry_run || done == 0 {
                    String::new()
                } else {
                    format!("; {done} of {} were made before that", policies.len())
                };
                return Err(Refused::Server(format!("Egress {named}: {}{before}", refusal(&error))));
            }
        }
        Ok(())
    }

    async fn resource(&self, kind: Kind) -> Result<ApiResource, Refused> {
        match discover(&self.client, kind).await {
            Ok(Some(resource)) => Ok(resource),
            Ok(None) => Err(Refused::Server(format!("the API server does not know {kind}"))),
            Err(error) => Err(Refused::Server(reason(&error))),
        }
    }
}

/// The answer of the API server, and advice for the usual mistake.
fn refusal(error: &kube::Error) -> String {
    let message = reason(error);
    let forbidden = matches!(error, kube::Error::Api(status) if status.code == 403);
    if forbidden { format!("{message} (docs/console.md has the role that writing needs)") } else { message }
}
