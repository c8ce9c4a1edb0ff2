//! The plan of an installation: the steps from the objects in the cluster to the wanted ones.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::certificates::{self, PemPair};
use super::cluster::Cluster;
use super::grants;
use super::names::{CA_SECRET, INSTANCE_LABEL, MANAGED_BY_LABEL, NAME, Names, TLS_SECRET, VALUES_ANNOTATION};
use super::nodes;
use super::object_id::{ObjectId, api_resource};
use super::render::{self, ClusterFacts, Input, TlsSecrets, decode_secret_key};
use super::values::{UserValues, Values, merge, resolve};

/// A step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Apply the object. A definition is applied by force, since a schema that is a mix of two versions fits no objects.
    Apply(Value),
    /// Change the object before it can be applied.
    Patch(ObjectId, Value),
    /// Create the object unless it exists. From then on it belongs to the user.
    Create(Value),
    /// Keep the object as it is, and print the note.
    Keep(ObjectId, String),
    /// Delete the object: `install` made it, and the values no longer ask for it.
    Delete(ObjectId),
}

impl Step {
    pub(super) fn id(&self) -> ObjectId {
        match self {
            Self::Apply(object) | Self::Create(object) => ObjectId::from_object(object),
            Self::Patch(id, _) | Self::Keep(id, _) | Self::Delete(id) => id.clone(),
        }
    }
}

/// The advice for images that are referenced by a tag alone.
pub(super) const TAG_ADVICE: &str = "a tag may refer to another image later, or on another node: reference images by \
    digest, as `NAME@sha256:…`";

/// The steps of an installation, in order, and what the user should know about them.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Warnings for the user.
    pub(super) notes: Vec<String>,
    /// The resolved values.
    pub(super) values: Values,
    /// True if the control plane is installed already.
    pub(super) is_installed: bool,
    /// True if global egress is on.
    pub(super) allows_all_egress: bool,
    /// The grants that are in force now and would stop.
    pub(super) lost_grants: Vec<String>,
}

/// Makes a plan. Only reads the cluster.
pub(super) async fn make_plan(
    cluster: &Cluster,
    names: &Names,
    given: &UserValues,
    reset: bool,
) -> Result<Plan> {
    let mut notes = Vec::new();
    let deployment =
        cluster.get(&ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME)).await?;
    let deployment = deployment.filter(is_managed);
    let mut tree = match &deployment {
        Some(deployment) if !reset => read_stored_values(deployment)?,
        Some(_) | None => json!({}),
    };
    merge(&mut tree, given.tree.clone());
    let values = resolve(&tree).context(
        "the stored values of the last installation do not fit these values: pass `--reset-values` to drop the stored ones",
    )?;
    let facts = read_cluster_facts(cluster).await?;
    let certificates = CertificateSource::resolve(cluster, names, &mut notes).await?;
    let secrets = match &certificates {
        CertificateSource::Generated { authority, server } => TlsSecrets::Generated { authority, server },
        CertificateSource::External { authority } => TlsSecrets::External { authority },
    };
    let objects =
        render::render_objects(&Input { values: &values, given: &tree, names, cluster: &facts, secrets });
    let mut plan = Plan {
        steps: Vec::new(),
        notes,
        is_installed: deployment.is_some(),
        allows_all_egress: values.osm.enable_egress,
        values,
        lost_grants: Vec::new(),
    };
    if let Some(deployment) = &deployment {
        let wanted = plan.values.policy_namespaces(&names.namespace).parse()?;
        match grants::find_lost_grants(cluster, names, deployment, &wanted).await {
            Ok(lost) => plan.lost_grants = lost,
            Err(why) => plan.notes.push(format!("cannot list the grants that would stop: {why:#}")),
        }
    }
    let mut unmanaged = Vec::new();
    for object in objects {
        let id = ObjectId::from_object(&object);
        let existing = cluster.get(&id).await?;
        if let Some(existing) = existing.as_ref().filter(|existing| is_managed(existing)) {
            check_mesh(&id, existing, names)?;
        }
        match (id.kind.as_str(), existing) {
            ("MeshConfig", Some(existing)) => plan.keep_mesh_config(id, given, &existing),
            ("MeshConfig", None) => plan.steps.push(Step::Create(object)),
            ("Namespace", Some(existing)) if !is_managed(&existing) => {
                plan.steps.push(Step::Keep(id, "existed before, and stays as it is".to_owned()));
            }
            ("CustomResourceDefinition", Some(existing)) => {
                plan.take_over(cluster, object, &existing).await?
            }
            (_, Some(existing)) if !is_managed(&existing) => unmanaged.push(id.to_string()),
            (_, _) => plan.steps.push(Step::Apply(object)),
        }
    }
    if !unmanaged.is_empty() {
        bail!(
            "these objects have names that `osm-egress install` needs, but it did not make them: {}. Delete them, or let it \
             take them over by the label {MANAGED_BY_LABEL}={NAME}. Nothing was changed",
            unmanaged.join(", ")
        );
    }
    // Last ones first, as `uninstall` deletes them: a DaemonSet before its permissions.
    for id in render::possible_ids(names, &facts).into_iter().rev() {
        let is_unwanted = !plan.steps.iter().any(|step| step.id() == id);
        if is_unwanted && cluster.get(&id).await?.is_some_and(|existing| is_managed(&existing)) {
            plan.steps.push(Step::Delete(id));
        }
    }
    let tagged = plan.values.images_without_digest();
    if !tagged.is_empty() {
        plan.notes.push(format!("{}: {TAG_ADVICE}", tagged.join(", ")));
    }
    plan.notes.extend(nodes::native_note(plan.values.osm.egress.native_sidecar, &facts));
    plan.notes.extend(find_osm_components(cluster, names).await?);
    Ok(plan)
}

impl Plan {
    /// Keeps an existing MeshConfig, and prints the patch for the values that differ.
    fn keep_mesh_config(&mut self, id: ObjectId, given: &UserValues, existing: &Value) {
        self.allows_all_egress = existing["spec"]["traffic"]["enableEgress"] == true;
        let mut note = "stays as it is: an existing MeshConfig belongs to the user".to_owned();
        if let Some(patch) = render::patch_for(&given.tree, existing) {
            note += &format!(
                ". To apply the new values:\n  kubectl patch meshconfig {} -n {} --type=merge -p '{patch}'",
                id.name,
                id.namespace.as_deref().unwrap_or_default(),
            );
        }
        self.steps.push(Step::Keep(id, note));
    }

    /// Replaces the schema of an existing definition; its objects stay. A definition that existed before the first
    /// installation does not get the label by which `uninstall` would delete it.
    async fn take_over(&mut self, cluster: &Cluster, mut definition: Value, existing: &Value) -> Result<()> {
        if !is_managed(existing) {
            for label in [MANAGED_BY_LABEL, "app.kubernetes.io/part-of"] {
                if let Some(labels) = definition["metadata"]["labels"].as_object_mut() {
                    labels.remove(label);
                }
            }
        }
        let id = ObjectId::from_object(&definition);
        if existing["spec"]["conversion"]["strategy"] == "Webhook" {
            // The conversion webhook of Open Service Mesh 1.1 is gone after its removal. Server-side apply does not remove
            // fields of another manager, so a patch does.
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
        // Others that have set the same fields to the same values stay their owners, and nothing is taken from them.
        if !managers.is_empty() && cluster.has_conflict(&definition).await? {
            self.notes.push(format!(
                "{id}: its schema is taken over from {} (by force); its objects stay",
                managers.join(", ")
            ));
        }
        self.steps.push(Step::Apply(definition));
        Ok(())
    }
}

/// Returns true if `install` made the object.
pub(super) fn is_managed(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY_LABEL] == NAME
}

/// Checks that an existing object belongs to this mesh and control plane.
fn check_mesh(id: &ObjectId, existing: &Value, names: &Names) -> Result<()> {
    let mesh = existing["metadata"]["labels"][INSTANCE_LABEL].as_str();
    if let Some(mesh) = mesh.filter(|mesh| *mesh != names.mesh) {
        bail!(
            "{id} belongs to mesh `{mesh}`, and a cluster has one mesh: pass `--mesh-name {mesh}`, or uninstall it"
        );
    }
    let namespace = existing["subjects"][0]["namespace"].as_str();
    // The role of the CNI plugin is for a service account in a namespace of its own.
    let own = [names.namespace.clone(), names.cni_namespace()];
    if let Some(namespace) = namespace.filter(|namespace| own.iter().all(|own| own != namespace)) {
        bail!(
            "{id} is for namespace {namespace}, and a cluster has one control plane: pass `--osm-namespace {namespace}`, \
             or uninstall it"
        );
    }
    Ok(())
}

/// Reads the values that earlier installations stored.
fn read_stored_values(deployment: &Value) -> Result<Value> {
    let Some(text) = deployment["metadata"]["annotations"][VALUES_ANNOTATION].as_str() else {
        return Ok(json!({}));
    };
    serde_json::from_str(text).map_err(|error| {
        anyhow!(
            "the annotation {VALUES_ANNOTATION} of the Deployment is invalid ({error}): pass `--reset-values` to ignore it"
        )
    })
}

/// The second number of a version such as `v1.30.1-eks-1`.
fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

/// Reads the facts about the cluster that rendering needs.
pub(super) async fn read_cluster_facts(cluster: &Cluster) -> Result<ClusterFacts> {
    let budget = if cluster.serves("policy/v1", "PodDisruptionBudget").await? {
        "policy/v1"
    } else {
        "policy/v1beta1"
    };
    let has_admission_policies =
        cluster.serves(render::ADMISSION_POLICIES, "ValidatingAdmissionPolicy").await?;
    Ok(ClusterFacts {
        budget,
        api_server_ports: cluster.api_server_ports().await?,
        // Whoever may not list nodes knows nothing of them, and may choose.
        native_sidecars: nodes::run_native_sidecars(cluster).await.unwrap_or(false),
        has_admission_policies,
        // Rules exist since 1.25. Before 1.30 they would also stop the labelling of objects from before the rules.
        has_validation_rules: minor_version(&cluster.version).is_some_and(|minor| minor >= 30),
    })
}

/// The source of the control plane's certificate.
enum CertificateSource {
    Generated { authority: PemPair, server: PemPair },
    External { authority: String },
}

impl CertificateSource {
    /// Keeps the existing certificate while it is usable, else makes a new one.
    async fn resolve(cluster: &Cluster, names: &Names, notes: &mut Vec<String>) -> Result<Self> {
        let secret = |name: &str| ObjectId::namespaced("v1", "Secret", &names.namespace, name);
        let tls = cluster.get(&secret(TLS_SECRET)).await?;
        let hosts = names.hosts();
        if let Some(external) = tls.as_ref().filter(|secret| !is_managed(secret)) {
            let authority = decode_secret_key(external, "ca.crt").with_context(|| {
                format!(
                    "Secret {}/{TLS_SECRET} has no ca.crt: add the authority that signed it, which the API server needs",
                    names.namespace
                )
            })?;
            if let Err(why) =
                certificates::check_server(&read_pem_pair(external, "tls.crt", "tls.key"), &authority, &hosts)
            {
                notes.push(format!(
                    "Secret {}/{TLS_SECRET}, which `install` does not manage: {why:#}",
                    names.namespace
                ));
            }
            return Ok(Self::External { authority });
        }
        let authority = cluster
            .get(&secret(CA_SECRET))
            .await?
            .filter(is_managed)
            .map(|ca| read_pem_pair(&ca, "ca.crt", "ca.key"));
        let usable = authority.map(|pair| {
            match certificates::check_validity(&pair.certificate).and(certificates::check_key(&pair)) {
                Ok(()) => Ok(pair),
                Err(why) => Err(why),
            }
        });
        let authority = match usable {
            Some(Ok(pair)) => pair,
            lost => {
                if tls.is_some() || lost.is_some() {
                    let why =
                        lost.and_then(Result::err).map_or("it is missing".to_owned(), |why| why.to_string());
                    notes.push(format!(
                        "a new certificate authority is made, since the old one is unusable ({why}): running sidecars \
                         trust the old one, so restart their workloads"
                    ));
                }
                certificates::create_authority(&names.mesh)?
            }
        };
        if let Some(tls) = &tls {
            let server = read_pem_pair(tls, "tls.crt", "tls.key");
            match certificates::check_server(&server, &authority.certificate, &hosts) {
                Ok(facts) if !facts.is_due_for_renewal => return Ok(Self::Generated { authority, server }),
                Ok(facts) => notes
                    .push(format!("the certificate is renewed: it would expire in {} days", facts.days_left)),
                Err(why) => notes.push(format!("a new certificate is made: {why:#}")),
            }
        }
        let server = certificates::sign_server(&authority, &hosts)?;
        Ok(Self::Generated { authority, server })
    }
}

/// Reads a certificate and its key from a Secret; a missing key is read as empty.
pub(super) fn read_pem_pair(secret: &Value, certificate: &str, key: &str) -> PemPair {
    PemPair {
        certificate: decode_secret_key(secret, certificate).unwrap_or_default(),
        key: decode_secret_key(secret, key).unwrap_or_default(),
    }
}

/// Finds running components of Open Service Mesh, which would inject and validate as well.
pub(super) async fn find_osm_components(cluster: &Cluster, names: &Names) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for deployment in cluster.list(&api_resource("apps/v1", "Deployment"), Some(&names.namespace), "").await?
    {
        let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
        if ["osm-controller", "osm-injector", "osm-bootstrap"].contains(&name) {
            found.push(format!("Deployment {}/{name}", names.namespace));
        }
    }
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        for configuration in
            cluster.list(&api_resource("admissionregistration.k8s.io/v1", kind), None, "").await?
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
        "Open Service Mesh is still there, and would inject and validate as well: {}. Uninstall it, or add \
         other namespaces",
        found.join(", ")
    )])
}
