//! What there is to do, from what is asked for and what is there.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::certificates::{self, Pair};
use super::cluster::Cluster;
use super::grants;
use super::id::{Id, resource};
use super::names::{CA_SECRET, INSTANCE, MANAGED_BY, NAME, Names, TLS_SECRET, VALUES};
use super::render::{self, Facts, Input, Secrets, decoded};
use super::values::{Given, Values, merge, resolve};

/// What is done with an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Applied. With force where it is a definition: its schema is one thing, or objects would not fit.
    Apply(Value),
    /// Changed before it can be applied.
    Patch(Id, Value),
    /// Made where there is none, and the user's from then on.
    Create(Value),
    /// Left as it is, with a word about it.
    Keep(Id, String),
    /// Deleted: it was ours, and is not wanted any more.
    Delete(Id),
}

impl Step {
    pub(super) fn id(&self) -> Id {
        match self {
            Self::Apply(object) | Self::Create(object) => Id::of(object),
            Self::Patch(id, _) | Self::Keep(id, _) | Self::Delete(id) => id.clone(),
        }
    }
}

/// What is said of images that only a tag names.
pub(super) const WITHOUT_DIGEST: &str = "a tag can name another image tomorrow, on each node anew: name images by \
    digest, as `NAME@sha256:…`";

/// Everything there is to do, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
    /// What came of values.
    pub(super) values: Values,
    /// Whether the control plane is there already.
    pub(super) is_installed: bool,
    /// Whether everything may leave.
    pub(super) is_open: bool,
    /// The grants that count now and would not any more.
    pub(super) lost_grants: Vec<String>,
}

/// Makes a plan. Reads, and changes nothing.
pub(super) async fn plan(cluster: &Cluster, names: &Names, given: &Given, reset: bool) -> Result<Plan> {
    let mut notes = Vec::new();
    let deployment = cluster.get(&Id::within("apps/v1", "Deployment", &names.namespace, NAME)).await?;
    let deployment = deployment.filter(is_ours);
    let mut tree = match &deployment {
        Some(deployment) if !reset => stored(deployment)?,
        Some(_) | None => json!({}),
    };
    merge(&mut tree, given.tree.clone());
    let values = resolve(&tree).context(
        "the values of the last installation and these do not go together; `--reset-values` forgets those",
    )?;
    let facts = look(cluster).await?;
    let kept = Certificates::of(cluster, names, &mut notes).await?;
    let secrets = match &kept {
        Certificates::Made { authority, server } => Secrets::Made { authority, server },
        Certificates::Theirs { authority } => Secrets::Theirs { authority },
    };
    let objects = render::objects(&Input { values: &values, given: &tree, names, cluster: &facts, secrets });
    let mut plan = Plan {
        steps: Vec::new(),
        notes,
        is_installed: deployment.is_some(),
        is_open: values.osm.enable_egress,
        values,
        lost_grants: Vec::new(),
    };
    if let Some(deployment) = &deployment {
        let wanted = plan.values.policy_namespaces(&names.namespace).parse()?;
        match grants::lost(cluster, names, deployment, &wanted).await {
            Ok(lost) => plan.lost_grants = lost,
            Err(why) => plan.notes.push(format!("the grants that would stop cannot be listed: {why:#}")),
        }
    }
    let mut theirs = Vec::new();
    for object in objects {
        let id = Id::of(&object);
        let existing = cluster.get(&id).await?;
        if let Some(existing) = existing.as_ref().filter(|existing| is_ours(existing)) {
            is_of_this_mesh(&id, existing, names)?;
        }
        match (id.kind.as_str(), existing) {
            ("MeshConfig", Some(existing)) => plan.keep(id, given, &existing),
            ("MeshConfig", None) => plan.steps.push(Step::Create(object)),
            ("Namespace", Some(existing)) if !is_ours(&existing) => {
                plan.steps.push(Step::Keep(id, "was there before, and stays as it is".to_owned()));
            }
            ("CustomResourceDefinition", Some(existing)) => plan.take_over(object, &existing),
            (_, Some(existing)) if !is_ours(&existing) => theirs.push(id.to_string()),
            (_, _) => plan.steps.push(Step::Apply(object)),
        }
    }
    if !theirs.is_empty() {
        bail!(
            "these were not made by `osm-egress install`, and have the names that it needs: {}; delete them, or let \
             it take them over by the label {MANAGED_BY}={NAME}. Nothing was changed",
            theirs.join(", ")
        );
    }
    for id in render::ids(names, &facts) {
        let is_left = !plan.steps.iter().any(|step| step.id() == id);
        if is_left && cluster.get(&id).await?.is_some_and(|existing| is_ours(&existing)) {
            plan.steps.push(Step::Delete(id));
        }
    }
    let tagged = plan.values.images_without_digest();
    if !tagged.is_empty() {
        plan.notes.push(format!("{}: {WITHOUT_DIGEST}", tagged.join(", ")));
    }
    plan.notes.extend(others(cluster, names).await?);
    Ok(plan)
}

impl Plan {
    fn keep(&mut self, id: Id, given: &Given, existing: &Value) {
        self.is_open = existing["spec"]["traffic"]["enableEgress"] == true;
        let mut word = "stays as it is: it is yours once it is there".to_owned();
        if let Some(patch) = render::difference(&given.tree, existing) {
            word += &format!(
                ". To change it as asked for:\n  kubectl patch meshconfig {} -n {} --type=merge -p '{patch}'",
                id.name,
                id.namespace.as_deref().unwrap_or_default(),
            );
        }
        self.steps.push(Step::Keep(id, word));
    }

    /// A definition that is there: its schema becomes ours, its objects stay. One that was there before us does
    /// not become ours to delete.
    fn take_over(&mut self, mut definition: Value, existing: &Value) {
        if !is_ours(existing) {
            for label in [MANAGED_BY, "app.kubernetes.io/part-of"] {
                if let Some(labels) = definition["metadata"]["labels"].as_object_mut() {
                    labels.remove(label);
                }
            }
        }
        let id = Id::of(&definition);
        if existing["spec"]["conversion"]["strategy"] == "Webhook" {
            // Those of Open Service Mesh 1.1: its webhook goes with it. Applying takes no field away that somebody
            // else set.
            let patch = json!({ "spec": { "conversion": { "strategy": "None", "webhook": null } } });
            self.steps.push(Step::Patch(id.clone(), patch));
        }
        let fields = existing["metadata"]["managedFields"].as_array().into_iter().flatten();
        let mut managers: Vec<&str> = fields
            .filter(|field| field["fieldsV1"].get("f:spec").is_some())
            .filter_map(|field| field["manager"].as_str())
            .filter(|manager| ![NAME, "kube-apiserver"].contains(manager))
            .collect();
        managers.dedup();
        if !managers.is_empty() {
            self.notes.push(format!(
                "{id}: its schema is taken over from {} (by force); its objects stay",
                managers.join(", ")
            ));
        }
        self.steps.push(Step::Apply(definition));
    }
}

/// Whether `install` made it.
pub(super) fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY] == NAME
}

fn is_of_this_mesh(id: &Id, existing: &Value, names: &Names) -> Result<()> {
    let mesh = existing["metadata"]["labels"][INSTANCE].as_str();
    if let Some(mesh) = mesh.filter(|mesh| *mesh != names.mesh) {
        bail!(
            "{id} belongs to mesh `{mesh}`: there is one in a cluster; pass `--mesh-name {mesh}`, or uninstall it"
        );
    }
    let namespace = existing["subjects"][0]["namespace"].as_str();
    if let Some(namespace) = namespace.filter(|namespace| *namespace != names.namespace) {
        bail!(
            "{id} is for namespace {namespace}: there is one control plane in a cluster; pass `--osm-namespace \
             {namespace}`, or uninstall it"
        );
    }
    Ok(())
}

/// What was given at earlier times.
fn stored(deployment: &Value) -> Result<Value> {
    let Some(text) = deployment["metadata"]["annotations"][VALUES].as_str() else { return Ok(json!({})) };
    serde_json::from_str(text).map_err(|error| {
        anyhow!(
            "the annotation {VALUES} of the Deployment cannot be read: {error}; `--reset-values` forgets it"
        )
    })
}

/// What the cluster is like.
pub(super) async fn look(cluster: &Cluster) -> Result<Facts> {
    let budget = if cluster.serves("policy/v1", "PodDisruptionBudget").await? {
        "policy/v1"
    } else {
        "policy/v1beta1"
    };
    Ok(Facts { budget, api_server_ports: cluster.ports().await? })
}

/// Where the certificate comes from.
enum Certificates {
    Made { authority: Pair, server: Pair },
    Theirs { authority: String },
}

impl Certificates {
    /// Keeps what is there for as long as it is of use.
    async fn of(cluster: &Cluster, names: &Names, notes: &mut Vec<String>) -> Result<Self> {
        let secret = |name: &str| Id::within("v1", "Secret", &names.namespace, name);
        let tls = cluster.get(&secret(TLS_SECRET)).await?;
        let hosts = names.hosts();
        if let Some(theirs) = tls.as_ref().filter(|secret| !is_ours(secret)) {
            let authority = decoded(theirs, "ca.crt").with_context(|| {
                format!(
                    "Secret {}/{TLS_SECRET} has no ca.crt: the API server must know who signed it",
                    names.namespace
                )
            })?;
            if let Err(why) =
                certificates::try_server(&pair(theirs, "tls.crt", "tls.key"), &authority, &hosts)
            {
                notes.push(format!("Secret {}/{TLS_SECRET}, which you keep: {why:#}", names.namespace));
            }
            return Ok(Self::Theirs { authority });
        }
        let authority =
            cluster.get(&secret(CA_SECRET)).await?.filter(is_ours).map(|ca| pair(&ca, "ca.crt", "ca.key"));
        let usable = authority.map(|pair| {
            match certificates::look(&pair.certificate).and(certificates::try_key(&pair)) {
                Ok(()) => Ok(pair),
                Err(why) => Err(why),
            }
        });
        let authority = match usable {
            Some(Ok(pair)) => pair,
            lost => {
                if tls.is_some() || lost.is_some() {
                    let why =
                        lost.and_then(Result::err).map_or("it is gone".to_owned(), |why| why.to_string());
                    notes.push(format!(
                        "a new authority is made, since the one of the control plane is of no use ({why}): sidecars \
                         that run know the old one; restart their workloads"
                    ));
                }
                certificates::authority(&names.mesh)?
            }
        };
        if let Some(tls) = &tls {
            let server = pair(tls, "tls.crt", "tls.key");
            match certificates::try_server(&server, &authority.certificate, &hosts) {
                Ok(facts) if !facts.is_old => return Ok(Self::Made { authority, server }),
                Ok(facts) => notes
                    .push(format!("the certificate is renewed: it would end in {} days", facts.days_left)),
                Err(why) => notes.push(format!("the certificate is made anew: {why:#}")),
            }
        }
        let server = certificates::server(&authority, &hosts)?;
        Ok(Self::Made { authority, server })
    }
}

/// A certificate and its key in a secret; what is missing is empty.
pub(super) fn pair(secret: &Value, certificate: &str, key: &str) -> Pair {
    Pair {
        certificate: decoded(secret, certificate).unwrap_or_default(),
        key: decoded(secret, key).unwrap_or_default(),
    }
}

/// What of Open Service Mesh is still there: both would inject, and validate.
pub(super) async fn others(cluster: &Cluster, names: &Names) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for deployment in cluster.list(&resource("apps/v1", "Deployment"), Some(&names.namespace), "").await? {
        let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
        if ["osm-controller", "osm-injector", "osm-bootstrap"].contains(&name) {
            found.push(format!("Deployment {}/{name}", names.namespace));
        }
    }
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        for configuration in
            cluster.list(&resource("admissionregistration.k8s.io/v1", kind), None, "").await?
        {
            let name = configuration["metadata"]["name"].as_str().unwrap_or_default();
            if name.starts_with("osm-webhook") || name.starts_with("osm-validator") {
                found.push(format!("{kind} {name}"));
            }
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "Open Service Mesh is still there, and would inject and validate as well: {}; uninstall it, or do not add \
         the same namespaces",
        found.join(", ")
    )])
}
