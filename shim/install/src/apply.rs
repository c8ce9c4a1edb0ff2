//! `install` and `upgrade`. An upgrade does the same, and requires an installed control plane.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::certificates;
use super::cluster::{ApplyOutcome, Cluster, wait_until};
use super::names::{CA_SECRET, NAME, Names};
use super::object_id::ObjectId;
use super::plan::{Plan, Step, make_plan};
use super::render::{self, ClusterFacts, Input, TlsSecrets};
use super::values::{UserValues, resolve};
use super::{print_line, print_warning};
use crate::crds;

/// The options of `install` and `upgrade`.
#[derive(Debug)]
pub struct Options {
    /// The kubeconfig of the cluster; kubectl's if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The name of the mesh, from its flag.
    pub mesh: Option<String>,
    /// The namespace of the control plane, from its flag.
    pub namespace: Option<String>,
    /// Files of values.
    pub files: Vec<PathBuf>,
    /// Settings, as in helm's `--set`.
    pub settings: Vec<String>,
    /// Drops the stored values of earlier installations.
    pub reset_values: bool,
    /// Requires an installed control plane.
    pub is_upgrade: bool,
    /// Changes nothing.
    pub dry_run: Option<DryRun>,
    /// In a dry run, prints the objects instead of the changes.
    pub print_yaml: bool,
    /// Goes on if grants would stop.
    pub stop_grants: bool,
    /// Waits until the control plane is available.
    pub wait: bool,
    /// The longest time to wait for a condition.
    pub timeout: Duration,
}

/// The kind of a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// Compares with the objects of the cluster.
    Cluster,
    /// Does not contact a cluster: prints the objects of a new installation.
    Client,
}

/// Installs or upgrades the control plane.
///
/// # Errors
/// Fails when the values are invalid, or the API server refuses a step. The error has the number of steps that are done.
pub async fn run(options: &Options) -> Result<()> {
    let given = UserValues::read(&options.files, &options.settings)?;
    given.ignored.iter().for_each(print_warning);
    let own = resolve(&given.tree)?.osm;
    let names = Names::resolve(
        (options.mesh.as_deref(), options.namespace.as_deref()),
        (&own.mesh_name, &own.osm_namespace),
    )?;
    if options.dry_run == Some(DryRun::Client) {
        return print_new_installation(&given, &names);
    }
    let cluster = Cluster::connect(options.kubeconfig.as_deref()).await?;
    let plan = make_plan(&cluster, &names, &given, options.reset_values).await?;
    if options.is_upgrade && !plan.is_installed {
        bail!(
            "there is no control plane in namespace {} of {}: run `osm-egress install`",
            names.namespace,
            cluster.server
        );
    }
    plan.notes.iter().for_each(print_warning);
    let lost = &plan.lost_grants;
    if !lost.is_empty() {
        if options.dry_run.is_none() && !options.stop_grants {
            bail!(
                "these grants are in force now, and would stop:\n  {}\nAn Egress object counts for service accounts of its own \
                 namespace, and a ServiceAccount only tightens its mode. Permit the intended ones (`--set \
                 osm.egress.policyNamespaces`, or annotations of the Namespace: docs/policy-reference.md), or pass \
                 `--stop-grants`. Nothing was changed",
                lost.join("\n  ")
            );
        }
        lost.iter().for_each(|line| print_warning(format!("a grant stops: {line}")));
    }
    match options.dry_run {
        Some(_) if options.print_yaml => print_plan_objects(&plan),
        Some(_) => preview_plan(&cluster, &plan).await?,
        None => {
            apply_plan(&cluster, &names, &plan, options).await?;
            print_summary(&cluster, &names, &plan);
        }
    }
    Ok(())
}

/// Prints the objects of a new installation, without asking a cluster.
fn print_new_installation(given: &UserValues, names: &Names) -> Result<()> {
    let values = resolve(&given.tree)?;
    let authority = certificates::create_authority(&names.mesh)?;
    let server = certificates::sign_server(&authority, &names.hosts())?;
    let secrets = TlsSecrets::Generated { authority: &authority, server: &server };
    let input =
        Input { values: &values, given: &given.tree, names, cluster: &ClusterFacts::default(), secrets };
    print_objects(&render::render_objects(&input));
    Ok(())
}

/// Prints the objects that a plan applies or creates.
fn print_plan_objects(plan: &Plan) {
    let objects: Vec<Value> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Apply(object) | Step::Create(object) => Some(object.clone()),
            Step::Patch(..) | Step::Keep(..) | Step::Delete(_) => None,
        })
        .collect();
    print_objects(&objects);
}

fn print_objects(objects: &[Value]) {
    print_line(format!(
        "# Contains private keys (Secret {CA_SECRET}). kubectl knows MeshConfig only after the definitions are applied:\n\
         # apply those first (`osm-egress crds | kubectl apply -f -`), or apply this file twice."
    ));
    for object in objects {
        print_line(format!("---\n{}", crds::format_yaml(object).trim_end()));
    }
}

/// Prints the change of each object that a plan would make, by dry runs of the API server.
async fn preview_plan(cluster: &Cluster, plan: &Plan) -> Result<()> {
    let mut patched = Vec::new();
    for step in &plan.steps {
        let id = step.id();
        match step {
            Step::Keep(_, note) => print_line(format!("{id}: {note}")),
            Step::Delete(_) => print_line(format!("{id}: would be deleted")),
            Step::Patch(..) => {
                print_line(format!("{id}: would be changed: its conversion webhook would be removed"));
                patched.push(id);
            }
            // The API server can evaluate this step only after the patch.
            Step::Apply(_) if patched.contains(&id) => {}
            Step::Create(_) => print_line(format!("{id}: would be created")),
            Step::Apply(object) => match cluster.get(&id).await? {
                None => print_line(format!("{id}: would be created")),
                Some(_) => {
                    let outcome = cluster.apply(object, id.is_crd(), true).await?;
                    print_line(format!("{id}: would be {outcome}"));
                }
            },
        }
    }
    print_line("nothing was changed (dry run)");
    Ok(())
}

/// Applies a plan, step by step.
async fn apply_plan(cluster: &Cluster, names: &Names, plan: &Plan, options: &Options) -> Result<()> {
    for (done, step) in plan.steps.iter().enumerate() {
        if let Err(error) = apply_step(cluster, names, step, options).await {
            return Err(anyhow!(
                "{error:#}\n{done} of {} steps are done and stay. Fix the problem and run the same command again to \
                 continue, or run `osm-egress uninstall` to undo them",
                plan.steps.len()
            ));
        }
    }
    Ok(())
}

async fn apply_step(cluster: &Cluster, names: &Names, step: &Step, options: &Options) -> Result<()> {
    let id = step.id();
    match step {
        Step::Keep(_, note) => print_line(format!("{id}: {note}")),
        Step::Delete(_) => {
            cluster.delete(&id).await?;
            print_line(format!("{id}: deleted"));
        }
        Step::Patch(_, patch) => {
            cluster.patch(&id, patch).await?;
            print_line(format!("{id}: its conversion webhook was removed"));
        }
        Step::Create(object) => {
            let made = cluster.create(object).await?;
            print_line(format!(
                "{id}: {}",
                if made { ApplyOutcome::Created } else { ApplyOutcome::Unchanged }
            ));
        }
        Step::Apply(object) => {
            // Webhooks come last, so with `--wait` the control plane is available before the API server asks it.
            if options.wait && id.kind == "ValidatingWebhookConfiguration" {
                wait_until_available(cluster, names, options.timeout).await?;
            }
            let outcome = cluster.apply(object, id.is_crd(), false).await?;
            print_line(format!("{id}: {outcome}"));
            if id.is_crd() {
                wait_until_served(cluster, &id, object, options.timeout).await?;
            }
        }
    }
    Ok(())
}

/// Waits until the API server serves the objects of a definition.
async fn wait_until_served(
    cluster: &Cluster,
    id: &ObjectId,
    definition: &Value,
    timeout: Duration,
) -> Result<()> {
    let spec = &definition["spec"];
    let served = spec["versions"].as_array().into_iter().flatten().find(|version| version["served"] == true);
    let version = served.and_then(|version| version["name"].as_str()).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let api_version = format!("{group}/{version}");
    wait_until(&format!("{id} is not served"), timeout, || async {
        let Some(found) = cluster.get(id).await? else { return Ok(false) };
        let find_condition = |condition: &str, status: &str| {
            let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().find(|c| c["type"] == condition && c["status"] == status)
        };
        let is_established = find_condition("Established", "True").is_some();
        // An established definition is served, even if a new short name is refused.
        if let Some(refused) = find_condition("NamesAccepted", "False").filter(|_| !is_established) {
            bail!("{id}: the API server refuses its names: {}", text(&refused["message"]));
        }
        // The condition is set a moment before the objects are served.
        Ok(is_established
            && cluster.serves(&api_version, &kind).await?
            && cluster.can_list(&super::object_id::api_resource(&api_version, &kind)).await?)
    })
    .await
}

/// Waits until the control plane's Deployment is available.
async fn wait_until_available(cluster: &Cluster, names: &Names, timeout: Duration) -> Result<()> {
    let id = ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME);
    print_line(format!("{id}: waiting until it is available, at most {timeout:?}"));
    wait_until(
        &format!("{id} is not available: see `kubectl -n {} get pods`", names.namespace),
        timeout,
        || async {
            let found = cluster.get(&id).await?.unwrap_or_default();
            Ok(found["status"]["observedGeneration"].as_u64() >= found["metadata"]["generation"].as_u64()
                && found["status"]["availableReplicas"].as_u64().unwrap_or(0) > 0)
        },
    )
    .await
}

/// Prints the state after the installation, and the next commands.
fn print_summary(cluster: &Cluster, names: &Names, plan: &Plan) {
    let Names { mesh, namespace } = names;
    let done = if plan.is_installed { "up to date" } else { "installed" };
    print_line(format!(
        "{done}: mesh {mesh} in namespace {namespace} of {} ({})",
        cluster.server, cluster.version
    ));
    if plan.allows_all_egress {
        print_line(
            "egress: open (enableEgress is true): all destinations are allowed, and policies have no effect",
        );
    } else {
        print_line(
            "egress: closed (enableEgress is false): only destinations of Egress policies are allowed. Open Service \
             Mesh 1.2 opens it by default: `--set osm.enableEgress=true` does so while there is no MeshConfig yet",
        );
    }
    let (egress, defaults) = (&plan.values.osm.egress, super::values::Egress::default());
    for (key, image, default) in
        [("image", &egress.image, defaults.image), ("initImage", &egress.init_image, defaults.init_image)]
    {
        if *image == default {
            print_line(format!(
                "image: {image} is in no registry: load it on your nodes, or name your own image by `--set \
                 osm.egress.{key}=IMAGE`"
            ));
        }
    }
    let flag = |name: &str, value: &str, default: &str| {
        if value == default { String::new() } else { format!(" --{name} {value}") }
    };
    let mesh_flag = flag("mesh-name", mesh, "osm");
    let all = format!("{mesh_flag}{}", flag("osm-namespace", namespace, "osm-system"));
    print_line(format!(
        "next: `osm-egress namespace add NAMESPACE{mesh_flag}`, and `osm-egress verify{all}`"
    ));
}
