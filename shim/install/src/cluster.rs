//! The API server, as far as this needs it, with errors that name the object and what to do.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow, bail};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::Value;

use super::id::{Id, resource};
use super::names::NAME;
use egress_kubernetes::{ConnectError, connect, is_unknown, reason};

/// How often it is asked for what is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// An API server.
pub(super) struct Cluster {
    pub(super) client: Client,
    /// Where it is.
    pub(super) server: String,
    /// What it says of itself, as `v1.30.1`.
    pub(super) version: String,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Created,
    Changed,
    Unchanged,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        })
    }
}

impl Cluster {
    /// Connects, and makes sure that somebody answers.
    pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Self> {
        let connection = connect(kubeconfig).await.map_err(|error| match error {
            ConnectError::Nowhere(why) => {
                anyhow!("there is no cluster to talk to: pass `--kubeconfig FILE`, or set KUBECONFIG ({why})")
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

    fn of(&self, id: &Id) -> Api<DynamicObject> {
        self.api(&id.resource(), id.namespace.as_deref())
    }

    /// An object, if it is there and its kind is.
    pub(super) async fn get(&self, id: &Id) -> Result<Option<Value>> {
        match self.of(id).get(&id.name).await {
            Ok(object) => Ok(Some(serde_json::to_value(object)?)),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(failed("read", id, &error)),
        }
    }

    /// All objects of a kind, of one namespace or of all; none where the kind is not known.
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

    /// Applies an object, and says what became of it. Force takes fields away from other managers.
    ///
    /// The API server is asked first what would become of it: older ones write even what does not change.
    pub(super) async fn apply(&self, object: &Value, force: bool, dry_run: bool) -> Result<Outcome> {
        let id = Id::of(object);
        let before = self.get(&id).await?;
        let patch = async |dry_run| {
            let params = PatchParams { force, dry_run, ..PatchParams::apply(NAME) };
            let after = self.of(&id).patch(&id.name, &params, &Patch::Apply(object)).await;
            after.map_err(|error| failed("apply", &id, &error))
        };
        let outcome = match before {
            None => Outcome::Created,
            Some(before) if same(&before, &serde_json::to_value(patch(true).await?)?) => Outcome::Unchanged,
            Some(_) => Outcome::Changed,
        };
        if !dry_run && outcome != Outcome::Unchanged {
            patch(false).await?;
        }
        Ok(outcome)
    }

    /// Creates an object; false where there is one already.
    pub(super) async fn create(&self, object: &Value) -> Result<bool> {
        let id = Id::of(object);
        let params = PostParams { field_manager: Some(NAME.to_owned()), ..PostParams::default() };
        let data: DynamicObject = serde_json::from_value(object.clone())?;
        match self.of(&id).create(&params, &data).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(false),
            Err(error) => Err(failed("create", &id, &error)),
        }
    }

    /// Asks a question by creating what is stored nowhere, such as a SubjectAccessReview.
    pub(super) async fn ask(&self, question: &Value) -> Result<Value> {
        let id = Id::of(question);
        let data: DynamicObject = serde_json::from_value(question.clone())?;
        let answer = self.of(&id).create(&PostParams::default(), &data).await;
        Ok(serde_json::to_value(answer.map_err(|error| failed("ask for", &id, &error))?)?)
    }

    /// Lays a patch over an object.
    pub(super) async fn patch(&self, id: &Id, patch: &Value) -> Result<()> {
        let params = PatchParams { field_manager: Some(NAME.to_owned()), ..PatchParams::default() };
        let patched = self.of(id).patch(&id.name, &params, &Patch::Merge(patch)).await;
        patched.map(|_| ()).map_err(|error| failed("change", id, &error))
    }

    /// Deletes an object; what hangs on it goes after it.
    pub(super) async fn delete(&self, id: &Id) -> Result<()> {
        match self.of(id).delete(&id.name, &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(error) if is_unknown(&error) => Ok(()),
            Err(error) => Err(failed("delete", id, &error)),
        }
    }

    /// Whether a kind is served.
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

    /// Whether objects of a kind can be asked for.
    pub(super) async fn answers(&self, kind: &ApiResource) -> Result<bool> {
        match self.api(kind, None).list(&ListParams::default().limit(1)).await {
            Ok(_) => Ok(true),
            Err(error) if is_unknown(&error) => Ok(false),
            Err(error) => bail!("cannot list {}: {}{}", kind.plural, reason(&error), advice(&error)),
        }
    }

    /// Every kind whose objects are in namespaces and can be listed and deleted. A kind that goes at this moment
    /// has no objects any more.
    pub(super) async fn kinds(&self) -> Result<Vec<ApiResource>> {
        let failed = |error: kube::Error| anyhow!("cannot list all kinds: {}", reason(&error));
        let mut lists = vec![("v1".to_owned(), self.client.list_core_api_resources("v1").await)];
        for group in self.client.list_api_groups().await.map_err(failed)?.groups {
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
                Err(error) => return Err(failed(error)),
            };
            let can =
                |verbs: &[String]| ["list", "delete"].iter().all(|verb| verbs.iter().any(|v| v == verb));
            for found in list.resources {
                if found.namespaced && can(&found.verbs) && !found.name.contains('/') {
                    kinds.push(ApiResource { plural: found.name, ..resource(&version, &found.kind) });
                }
            }
        }
        Ok(kinds)
    }

    /// Ports of the API server itself, where the cluster says them.
    pub(super) async fn ports(&self) -> Result<Vec<u16>> {
        let id = Id::within("v1", "Endpoints", "default", "kubernetes");
        let endpoints = self.get(&id).await?.unwrap_or_default();
        let subsets = endpoints["subsets"].as_array().into_iter().flatten();
        let ports = subsets.flat_map(|subset| subset["ports"].as_array().into_iter().flatten());
        Ok(ports.filter_map(|port| port["port"].as_u64()?.try_into().ok()).collect())
    }

    /// Pods of the control plane.
    pub(super) async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Value>> {
        self.list(&resource("v1", "Pod"), Some(namespace), labels).await
    }
}

/// Waits until something is so, at most so long.
pub(super) async fn wait<F>(what: &str, patience: Duration, mut is_so: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let start = Instant::now();
    loop {
        if is_so().await? {
            return Ok(());
        }
        if start.elapsed() >= patience {
            bail!("{what}: not within {patience:?}; `--timeout` gives it longer");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an object is the same but for what the API server counts. Who set which field counts too.
fn same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        let metadata = &mut object["metadata"];
        for field in metadata["managedFields"].as_array_mut().into_iter().flatten() {
            field["time"] = Value::Null;
        }
        metadata["resourceVersion"] = Value::Null;
        metadata["generation"] = Value::Null;
        object
    };
    bare(before) == bare(after)
}

fn failed(doing: &str, id: &Id, error: &kube::Error) -> Error {
    anyhow!("cannot {doing} {id}: {}{}", reason(error), advice(error))
}

/// What to do about it.
fn advice(error: &kube::Error) -> String {
    let kube::Error::Api(status) = error else { return String::new() };
    match (status.code, status.reason.as_str()) {
        (401, _) => ": log in again, or pass another `--kubeconfig`".to_owned(),
        (403, _) if status.message.contains("is being terminated") => {
            ": wait until the namespace is gone, and run this again".to_owned()
        }
        (403, _) => ": use an account that may, such as one with the role cluster-admin".to_owned(),
        (409, "Conflict") => {
            ": somebody else set these fields: take them out of what they apply, or delete the object, and run \
             this again"
                .to_owned()
        }
        (404, _) => ": what it is in, or its kind, is not there".to_owned(),
        (500.., _) if status.message.contains("webhook") => {
            ": a webhook does not answer: mend it, or delete its configuration, and run this again".to_owned()
        }
        _ => String::new(),
    }
}
