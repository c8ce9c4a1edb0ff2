//! The API client of the installation, with errors that name the object and the remedy.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, bail};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use super::names::NAME;
use super::object_id::{ObjectId, api_resource};
use egress_kubernetes::{ConnectError, connect, is_unknown, reason};

/// The time between two requests while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A client of an API server.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// The address of the API server.
    pub(super) server: String,
    /// The version of the API server, as in `v1.30.1`.
    pub(super) version: String,
}

/// The result of applying an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApplyOutcome {
    Created,
    Changed,
    Unchanged,
}

impl std::fmt::Display for ApplyOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        })
    }
}

impl Cluster {
    /// Connects, and checks that the API server answers.
    pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Self> {
        let connection = connect(kubeconfig).await.map_err(|error| match error {
            ConnectError::Nowhere(why) => {
                anyhow!("no cluster is configured ({why}): pass `--kubeconfig FILE`, or set KUBECONFIG")
            }
            other
            @ (ConnectError::Kubeconfig { .. } | ConnectError::Pod(_) | ConnectError::Client { .. }) => {
                other.into()
            }
        })?;
        let version = connection.client.apiserver_version().await.map_err(|error| {
            anyhow!("{}: {}: is this the right cluster, and is it up?", connection.server, reason(&error))
        })?;
        Ok(Self { client: connection.client, server: connection.server, version: version.git_version })
    }

    fn api(&self, kind: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
            None => Api::all_with(self.client.clone(), kind),
        }
    }

    fn api_of(&self, id: &ObjectId) -> Api<DynamicObject> {
        self.api(&id.api_resource(), id.namespace.as_deref())
    }

    /// Reads an object. Returns `None` if the object or its kind does not exist.
    pub(super) async fn get(&self, id: &ObjectId) -> Result<Option<Value>> {
        match self.api_of(id).get(&id.name).await {
            Ok(object) => Ok(Some(serde_json::to_value(object)?)),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(request_error("read", id, &error)),
        }
    }

    /// Lists all objects of a kind, in one namespace or in all. Returns none if the kind does not exist.
    pub(super) async fn list(
        &self,
        kind: &ApiResource,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(500);
        if !labels.is_empty() {
            params = params.labels(labels);
        }
        loop {
            let page = match self.api(kind, namespace).list(&params).await {
                Ok(page) => page,
                Err(error) if is_unknown(&error) => return Ok(all),
                Err(error) => {
                    bail!("cannot list {}: {}{}", kind.plural, reason(&error), advice(&error));
                }
            };
            for object in page.items {
                all.push(serde_json::to_value(object)?);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Applies an object. With `force` it takes fields over from other managers.
    ///
    /// A dry run comes first, because older API servers write even unchanged objects.
    pub(super) async fn apply(&self, object: &Value, force: bool, dry_run: bool) -> Result<ApplyOutcome> {
        let id = ObjectId::from_object(object);
        let before = self.get(&id).await?;
        let patch = async |dry_run| {
            let params = PatchParams { force, dry_run, ..PatchParams::apply(NAME) };
            let after = self.api_of(&id).patch(&id.name, &params, &Patch::Apply(object)).await;
            after.map_err(|error| request_error("apply", &id, &error))
        };
        let outcome = match before {
            None => ApplyOutcome::Created,
            Some(before) if is_equal(&before, &serde_json::to_value(patch(true).await?)?) => {
                ApplyOutcome::Unchanged
            }
            Some(_) => ApplyOutcome::Changed,
        };
        if !dry_run && outcome != ApplyOutcome::Unchanged {
            patch(false).await?;
        }
        Ok(outcome)
    }

    /// Returns true if applying the object takes fields over from other managers.
    pub(super) async fn has_conflict(&self, object: &Value) -> Result<bool> {
        let id = ObjectId::from_object(object);
        let params = PatchParams { force: false, dry_run: true, ..PatchParams::apply(NAME) };
        match self.api_of(&id).patch(&id.name, &params, &Patch::Apply(object)).await {
            Ok(_) => Ok(false),
            Err(kube::Error::Api(status)) if status.reason == "Conflict" => Ok(true),
            // Such as a definition whose conversion webhook is removed first.
            Err(kube::Error::Api(status)) if status.reason == "Invalid" => Ok(true),
            Err(error) => Err(request_error("apply", &id, &error)),
        }
    }

    /// Creates an object. Returns false if it exists already.
    pub(super) async fn create(&self, object: &Value) -> Result<bool> {
        let id = ObjectId::from_object(object);
        let params = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        let data: DynamicObject = serde_json::from_value(object.clone())?;
        match self.api_of(&id).create(&params, &data).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(false),
            Err(error) => Err(request_error("create", &id, &error)),
        }
    }

    /// Submits a review, such as a SubjectAccessReview, and returns the API server's answer.
    pub(super) async fn submit_review(&self, review: &Value) -> Result<Value> {
        let id = ObjectId::from_object(review);
        let data: DynamicObject = serde_json::from_value(review.clone())?;
        let answer = self.api_of(&id).create(&PostParams::default(), &data).await;
        Ok(serde_json::to_value(answer.map_err(|error| request_error("submit", &id, &error))?)?)
    }

    /// Applies a merge patch to an object.
    pub(super) async fn patch(&self, id: &ObjectId, patch: &Value) -> Result<()> {
        let params = PatchParams { field_manager: Some(NAME.to_owned()), ..PatchParams::default() };
        let patched = self.api_of(id).patch(&id.name, &params, &Patch::Merge(patch)).await;
        patched.map(|_| ()).map_err(|error| request_error("change", id, &error))
    }

    /// Deletes an object. The garbage collector deletes its dependents.
    pub(super) async fn delete(&self, id: &ObjectId) -> Result<()> {
        match self.api_of(id).delete(&id.name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(error) if is_unknown(&error) => Ok(()),
            Err(error) => Err(request_error("delete", id, &error)),
        }
    }

    /// Returns true if the API server serves a kind.
    pub(super) async fn serves(&self, api_version: &str, kind: &str) -> Result<bool> {
        let list = if api_version.contains('/') {
            self.client.list_api_group_resources(api_version).await
        } else {
            self.client.list_core_api_resources(api_version).await
        };
        match list {
            Ok(list) => Ok(list.resources.iter().any(|resource| resource.kind == kind)),
            Err(error) if is_unknown(&error) => Ok(false),
            Err(error) => bail!("cannot list the kinds of {api_version}: {}", reason(&error)),
        }
    }

    /// Returns true if objects of a kind can be listed.
    pub(super) async fn can_list(&self, kind: &ApiResource) -> Result<bool> {
        match self.api(kind, None).list(&ListParams::default().limit(1)).await {
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => Ok(false),
            Err(error) => bail!("cannot list {}: {}{}", kind.plural, reason(&error), advice(&error)),
        }
    }

    /// Lists every namespaced kind whose objects can be listed and deleted. A kind that is deleted meanwhile has no
    /// objects any more.
    pub(super) async fn list_kinds(&self) -> Result<Vec<ApiResource>> {
        let list_error = |error: kube::Error| anyhow!("cannot list all kinds: {}", reason(&error));
        let mut lists = vec![("v1".to_owned(), self.client.list_core_api_resources("v1").await)];
        for group in self.client.list_api_groups().await.map_err(list_error)?.groups {
            let version = group.preferred_version.or_else(|| group.versions.first().cloned());
            if let Some(version) = version.map(|version| version.group_version) {
                let list = self.client.list_api_group_resources(&version).await;
                lists.push((version, list));
            }
        }
        let mut kinds = Vec::new();
        for (version, list) in lists {
            let list = match list {
                Ok(list) => list,
                Err(error) if is_unknown(&error) => continue,
                Err(error) => return Err(list_error(error)),
            };
            let can =
                |verbs: &[String]| ["list", "delete"].iter().all(|verb| verbs.iter().any(|v| v == verb));
            for found in list.resources {
                if found.namespaced && can(&found.verbs) && !found.name.contains('/') {
                    kinds.push(ApiResource { plural: found.name, ..api_resource(&version, &found.kind) });
                }
            }
        }
        Ok(kinds)
    }

    /// The ports of the API server, if the cluster publishes them: in EndpointSlices since Kubernetes 1.21, and in Endpoints
    /// before, which newer versions warn of.
    pub(super) async fn api_server_ports(&self) -> Result<Vec<u16>> {
        let port = |port: &Value| -> Option<u16> { port["port"].as_u64()?.try_into().ok() };
        for version in ["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"] {
            let kind = api_resource(version, "EndpointSlice");
            let slices = self.list(&kind, Some("default"), "kubernetes.io/service-name=kubernetes").await?;
            let ports = slices.iter().flat_map(|slice| slice["ports"].as_array().into_iter().flatten());
            let ports: BTreeSet<u16> = ports.filter_map(port).collect();
            if !ports.is_empty() {
                return Ok(ports.into_iter().collect());
            }
        }
        let id = ObjectId::namespaced("v1", "Endpoints", "default", "kubernetes");
        let endpoints = self.get(&id).await?.unwrap_or_default();
        let subsets = endpoints["subsets"].as_array().into_iter().flatten();
        let ports = subsets.flat_map(|subset| subset["ports"].as_array().into_iter().flatten());
        Ok(ports.filter_map(port).collect())
    }

    /// Lists the pods with these labels.
    pub(super) async fn list_pods(&self, namespace: &str, labels: &str) -> Result<Vec<Value>> {
        self.list(&api_resource("v1", "Pod"), Some(namespace), labels).await
    }
}

/// Waits until a condition holds. `pending` states the condition that does not hold yet, for the error.
pub(super) async fn wait_until<F>(
    pending: &str,
    timeout: Duration,
    mut is_met: impl FnMut() -> F,
) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let start = Instant::now();
    loop {
        if is_met().await? {
            return Ok(());
        }
        if start.elapsed() >= timeout {
            bail!("{pending} after {timeout:?}: raise `--timeout` to wait longer");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns true if two versions of an object differ only in fields that the API server updates by itself. The managers of
/// fields count as content.
fn is_equal(before: &Value, after: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        let metadata = &mut object["metadata"];
        for field in metadata["managedFields"].as_array_mut().into_iter().flatten() {
            field["time"] = Value::Null;
        }
        metadata["resourceVersion"] = Value::Null;
        metadata["generation"] = Value::Null;
        object
    };
    strip(before) == strip(after)
}

fn request_error(action: &str, id: &ObjectId, error: &kube::Error) -> Error {
    anyhow!("cannot {action} {id}: {}{}", reason(error), advice(error))
}

/// The remedy for an error of the API server.
fn advice(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else { return String::new() };
    match (status.code, status.reason.as_str()) {
        (401, _) => ": log in again, or pass another `--kubeconfig`".to_owned(),
        (403, _) if status.message.contains("is being terminated") => {
            ": wait until the namespace is gone, and run this again".to_owned()
        }
        (403, _) => ": use an account with the permission, such as one with the role cluster-admin".to_owned(),
        (409, "Conflict") => {
            ": another field manager set these fields: remove them from its manifest, or delete the object, and run \
             this again"
                .to_owned()
        }
        (404, _) => ": its namespace or its kind does not exist".to_owned(),
        (500.., _) if status.message.contains("webhook") => {
            ": a webhook does not answer: repair it, or delete its configuration, and run this again".to_owned()
        }
        _ => String::new(),
    }
}
