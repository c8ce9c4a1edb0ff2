//! `install` and `upgrade`: the same, but that an upgrade wants something to be there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::certificates;
use super::cluster::{Cluster, Outcome, wait};
use super::id::Id;
use super::names::{CA_SECRET, NAME, Names};
use super::plan::{Plan, Step, plan};
use super::render::{self, Facts, Input, Secrets};
use super::values::{Given, resolve};
use super::{say, warn};
use crate::crds;

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// Which cluster; else kubectl's.
    pub kubeconfig: Option<PathBuf>,
    /// Name of the mesh, if it was said.
    pub mesh: Option<String>,
    /// Namespace of the control plane, if it was said.
    pub namespace: Option<String>,
    /// Files of values.
    pub files: Vec<PathBuf>,
    /// Settings, as helm's.
    pub settings: Vec<String>,
    /// Whether values of earlier times are forgotten.
    pub reset: bool,
    /// Whether something must be there.
    pub is_upgrade: bool,
    /// What not to do.
    pub dry_run: Option<DryRun>,
    /// Whether objects are printed, rather than what would become of them.
    pub yaml: bool,
    /// Whether grants may stop.
    pub stop_grants: bool,
    /// Whether to wait until the control plane runs.
    pub wait: bool,
    /// How long waiting may take.
    pub timeout: Duration,
}

/// What a dry run may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// The cluster.
    Cluster,
    /// Nothing: objects for a cluster in which nothing is there.
    Client,
}

/// Does it.
///
/// # Errors
/// When something is wrong with the values, or the API server refuses; with what was done so far.
pub async fn run(options: &Options) -> Result<()> {
    let given = Given::read(&options.files, &options.settings)?;
    given.ignored.iter().for_each(warn);
    let own = resolve(&given.tree)?.osm;
    let names = Names::of(
        (options.mesh.as_deref(), options.namespace.as_deref()),
        (&own.mesh_name, &own.osm_namespace),
    )?;
    if options.dry_run == Some(DryRun::Client) {
        return print_for_nobody(&given, &names);
    }
    let cluster = Cluster::connect(options.kubeconfig.as_deref()).await?;
    let plan = plan(&cluster, &names, &given, options.reset).await?;
    if options.is_upgrade && !plan.is_installed {
        bail!(
            "there is no control plane in namespace {} of {}: run `osm-egress install`",
            names.namespace,
            cluster.server
        );
    }
    plan.notes.iter().for_each(warn);
    let lost = &plan.lost_grants;
    if !lost.is_empty() {
        if options.dry_run.is_none() && !options.stop_grants {
            bail!(
                "these grants count now, and would stop:\n  {}\nAn Egress object counts for service accounts of its own \
                 namespace, and a ServiceAccount only tightens its mode. Permit what is meant (`--set \
                 osm.egress.policyNamespaces`, or annotations of the Namespace: docs/policy-reference.md), or pass \
                 `--stop-grants`. Nothing was changed",
                lost.join("\n  ")
            );
        }
        lost.iter().for_each(|line| warn(format!("a grant stops: {line}")));
    }
    match options.dry_run {
        Some(_) if options.yaml => print(&plan),
        Some(_) => pretend(&cluster, &plan).await?,
        None => {
            carry_out(&cluster, &names, &plan, options).await?;
            conclude(&cluster, &names, &plan);
        }
    }
    Ok(())
}

fn print_for_nobody(given: &Given, names: &Names) -> Result<()> {
    let values = resolve(&given.tree)?;
    let authority = certificates::authority(&names.mesh)?;
    let server = certificates::server(&authority, &names.hosts())?;
    let secrets = Secrets::Made { authority: &authority, server: &server };
    let input = Input { values: &values, given: &given.tree, names, cluster: &Facts::default(), secrets };
    print_objects(&render::objects(&input));
    Ok(())
}

fn print(plan: &Plan) {
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
    say(format!(
        "# Holds private keys (Secret {CA_SECRET}). kubectl does not know MeshConfig before the definitions are there:\n\
         # apply those first (`osm-egress crds | kubectl apply -f -`), or this twice."
    ));
    for object in objects {
        say(format!("---\n{}", crds::document(object).trim_end()));
    }
}

/// Says what would become of each object. The API server is asked where it can tell.
async fn pretend(cluster: &Cluster, plan: &Plan) -> Result<()> {
    let mut patched = Vec::new();
    for step in &plan.steps {
        let id = step.id();
        match step {
            Step::Keep(_, word) => say(format!("{id}: {word}")),
            Step::Delete(_) => say(format!("{id}: would be deleted")),
            Step::Patch(..) => {
                say(format!("{id}: would be changed: it would not be converted by a webhook any more"));
                patched.push(id);
            }
            // It could be applied afterwards only.
            Step::Apply(_) if patched.contains(&id) => {}
            Step::Create(_) => say(format!("{id}: would be created")),
            Step::Apply(object) => match cluster.get(&id).await? {
                None => say(format!("{id}: would be created")),
                Some(_) => {
                    let outcome = cluster.apply(object, id.is_definition(), true).await?;
                    say(format!("{id}: would be {outcome}"));
                }
            },
        }
    }
    say("nothing was changed (dry run)");
    Ok(())
}

async fn carry_out(cluster: &Cluster, names: &Names, plan: &Plan, options: &Options) -> Result<()> {
    for (done, step) in plan.steps.iter().enumerate() {
        if let Err(error) = carry_out_one(cluster, names, step, options).await {
            return Err(anyhow!(
                "{error:#}\n{done} of {} steps are done and stay. Mend this and run the same command again, which \
                 goes on from there; `osm-egress uninstall` takes back what was made",
                plan.steps.len()
            ));
        }
    }
    Ok(())
}

async fn carry_out_one(cluster: &Cluster, names: &Names, step: &Step, options: &Options) -> Result<()> {
    let id = step.id();
    match step {
        Step::Keep(_, word) => say(format!("{id}: {word}")),
        Step::Delete(_) => {
            cluster.delete(&id).await?;
            say(format!("{id}: deleted"));
        }
        Step::Patch(_, patch) => {
            cluster.patch(&id, patch).await?;
            say(format!("{id}: is not converted by a webhook any more"));
        }
        Step::Create(object) => {
            // The definition was established a moment ago.
            let made = cluster.create(object).await?;
            say(format!("{id}: {}", if made { Outcome::Created } else { Outcome::Unchanged }));
        }
        Step::Apply(object) => {
            // Webhooks are the last: whoever waits does so before the API server asks the control plane.
            if options.wait && id.kind == "ValidatingWebhookConfiguration" {
                until_available(cluster, names, options.timeout).await?;
            }
            let outcome = cluster.apply(object, id.is_definition(), false).await?;
            say(format!("{id}: {outcome}"));
            if id.is_definition() {
                until_served(cluster, &id, object, options.timeout).await?;
            }
        }
    }
    Ok(())
}

/// Waits until objects of a definition can be written.
async fn until_served(cluster: &Cluster, id: &Id, definition: &Value, patience: Duration) -> Result<()> {
    let spec = &definition["spec"];
    let served = spec["versions"].as_array().into_iter().flatten().find(|version| version["served"] == true);
    let version = served.and_then(|version| version["name"].as_str()).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let api_version = format!("{group}/{version}");
    wait(&format!("{id} is not served"), patience, || async {
        let Some(found) = cluster.get(id).await? else { return Ok(false) };
        let is = |condition: &str, status: &str| {
            let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().find(|c| c["type"] == condition && c["status"] == status)
        };
        let is_established = is("Established", "True").is_some();
        // One that is established is served, whatever became of a new short name.
        if let Some(refused) = is("NamesAccepted", "False").filter(|_| !is_established) {
            bail!("{id}: the API server does not take its names: {}", text(&refused["message"]));
        }
        // It is said a moment before it is so.
        Ok(is_established
            && cluster.serves(&api_version, &kind).await?
            && cluster.answers(&super::id::resource(&api_version, &kind)).await?)
    })
    .await
}

async fn until_available(cluster: &Cluster, names: &Names, patience: Duration) -> Result<()> {
    let id = Id::within("apps/v1", "Deployment", &names.namespace, NAME);
    say(format!("{id}: waiting until it is available, at most {patience:?}"));
    wait(
        &format!("{id} is not available: see `kubectl -n {} get pods`", names.namespace),
        patience,
        || async {
            let found = cluster.get(&id).await?.unwrap_or_default();
            Ok(found["status"]["observedGeneration"].as_u64() >= found["metadata"]["generation"].as_u64()
                && found["status"]["availableReplicas"].as_u64().unwrap_or(0) > 0)
        },
    )
    .await
}

fn conclude(cluster: &Cluster, names: &Names, plan: &Plan) {
    let Names { mesh, namespace } = names;
    let done = if plan.is_installed { "up to date" } else { "installed" };
    say(format!("{done}: mesh {mesh} in namespace {namespace} of {} ({})", cluster.server, cluster.version));
    if plan.is_open {
        say("egress: open (enableEgress is true): everything may leave, and policies are not looked at");
    } else {
        say(
            "egress: closed (enableEgress is false): only what an Egress policy allows may leave. Open Service Mesh \
             1.2 opens it by default; `--set osm.enableEgress=true` does so where there is no MeshConfig yet",
        );
    }
    let (egress, usual) = (&plan.values.osm.egress, super::values::Egress::default());
    for (key, image, usual) in
        [("image", &egress.image, usual.image), ("initImage", &egress.init_image, usual.init_image)]
    {
        if *image == usual {
            say(format!(
                "image: {image}, which no registry has: put it where your nodes find it, or name yours by `--set \
                 osm.egress.{key}=IMAGE`"
            ));
        }
    }
    let flag = |name: &str, value: &str, usual: &str| {
        if value == usual { String::new() } else { format!(" --{name} {value}") }
    };
    let mesh_flag = flag("mesh-name", mesh, "osm");
    let all = format!("{mesh_flag}{}", flag("osm-namespace", namespace, "osm-system"));
    say(format!("next: `osm-egress namespace add NAMESPACE{mesh_flag}`, and `osm-egress verify{all}`"));
}
