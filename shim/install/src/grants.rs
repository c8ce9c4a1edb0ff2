//! Who may grant what in a cluster: modes that are loosened, grants that count for nobody, and grants that an upgrade
//! would stop.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::cluster::Cluster;
use super::names::Names;
use egress_compile::manifest::{Cause, Kind};
use egress_compile::store::Store;
use egress_compile::{CompileOptions, Compiled, ObjectStatus, PolicyNamespaces, compile};
use egress_kubernetes::read_once;

/// How long reading the cluster may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The most lines of a list: a person reads it, and says so to an administrator.
const MAX_LINES: usize = 50;

/// The options of a control plane.
pub(super) fn options(names: &Names, policy_namespaces: PolicyNamespaces) -> CompileOptions {
    CompileOptions {
        mesh_config_namespace: names.namespace.clone(),
        mesh_name: names.mesh.clone(),
        policy_namespaces,
        ..CompileOptions::default()
    }
}

/// The namespaces that a Deployment's control plane was told may grant everywhere; none: it is of a version that
/// knew no such limit.
pub(super) fn in_force(deployment: &Value) -> Option<PolicyNamespaces> {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    let arguments = containers.flat_map(|container| container["args"].as_array().into_iter().flatten());
    let mut lists = arguments.filter_map(|argument| argument.as_str()?.strip_prefix("--policy-namespaces="));
    lists.next()?.parse().ok()
}

/// Reads the objects of a cluster as a control plane does.
pub(super) async fn read(cluster: &Cluster, options: &CompileOptions) -> Result<Store> {
    let state = read_once(&cluster.client, options, READ_TIMEOUT).await?;
    Ok(state.store.as_ref().clone())
}

/// The grants that count now, and will not with other policy namespaces: a line for each object.
pub(super) async fn lost(
    cluster: &Cluster,
    names: &Names,
    deployment: &Value,
    wanted: &PolicyNamespaces,
) -> Result<Vec<String>> {
    let before = in_force(deployment);
    let both = match (&before, wanted) {
        (Some(PolicyNamespaces::Named(before)), PolicyNamespaces::Named(wanted)) => {
            PolicyNamespaces::Named(before.union(wanted).cloned().collect())
        }
        (_, wanted) => wanted.clone(),
    };
    let store = read(cluster, &options(names, both)).await?;
    Ok(stopped(&store, names, before, wanted.clone()))
}

/// The same, of objects that were read.
fn stopped(
    store: &Store,
    names: &Names,
    before: Option<PolicyNamespaces>,
    wanted: PolicyNamespaces,
) -> Vec<String> {
    let is_first = before.is_none();
    let counts = |policy_namespaces| compile(store, &options(names, policy_namespaces), None);
    let (old, new) = (counts(before.unwrap_or(PolicyNamespaces::All)), counts(wanted));
    let mut lines = Vec::new();
    for (object, condition) in &new.statuses {
        let had = old.statuses.get(object).map(|condition| condition.sources.clone()).unwrap_or_default();
        let gone: Vec<String> =
            had.difference(&condition.sources).take(MAX_LINES).map(ToString::to_string).collect();
        if !gone.is_empty() {
            lines.push(format!("{object} no longer counts for {}", gone.join(", ")));
        } else if is_first && object.kind == Kind::ServiceAccount && lacks_permission(condition) {
            lines
                .extend(condition.diagnostics.iter().map(|problem| format!("{object}: {}", problem.message)));
        }
    }
    short(lines)
}

/// What there is to say of modes: every object that loosens one, and who lets it.
pub(super) fn looser(compiled: &Compiled) -> Vec<String> {
    let lines = compiled.looser_modes().into_iter().map(|found| {
        let (mode, usual) = (found.mode.as_str(), found.instead_of.as_str());
        let by = if found.by.kind == Kind::ServiceAccount {
            format!(", which Namespace {} lets it", found.by.namespace)
        } else {
            String::new()
        };
        format!("{}: `{mode}` instead of `{usual}`{by}", found.by)
    });
    short(lines.collect())
}

/// The objects that say more than their authors may grant.
pub(super) fn not_permitted(compiled: &Compiled) -> Vec<String> {
    let conditions = compiled.statuses.values().filter(|condition| lacks_permission(condition));
    let problems = |condition: &ObjectStatus| -> BTreeSet<String> {
        let problems = condition.diagnostics.iter().filter(|problem| problem.cause == Cause::Permission);
        problems.map(|problem| format!("{}: {}", condition.object, problem.message)).collect()
    };
    short(conditions.flat_map(problems).collect())
}

fn lacks_permission(condition: &ObjectStatus) -> bool {
    condition.diagnostics.iter().any(|problem| problem.cause == Cause::Permission)
}

fn short(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use egress_compile::store::FileUpdate;
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        Names { mesh: "osm".to_owned(), namespace: "osm-system".to_owned() }
    }

    fn store() -> Store {
        let text = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
            metadata: {name: theirs, namespace: team-b}\n\
            spec: {sources: [{kind: ServiceAccount, name: app, namespace: a}], ports: [{number: 1, protocol: tcp}]}\n\
            ---\napiVersion: v1\nkind: ServiceAccount\n\
            metadata: {name: app, namespace: a, annotations: {openservicemesh.io/egress-mode: audit}}\n";
        let mut store = Store::default();
        store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
        store
    }

    #[test]
    fn an_upgrade_lists_the_grants_that_stop() {
        let one = |name: &str| PolicyNamespaces::one(name);
        let lines = stopped(&store(), &names(), None, one("osm-system"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("Egress team-b/theirs no longer counts for a/app"), "{lines:?}");
        assert!(lines[1].starts_with("ServiceAccount a/app: "), "{lines:?}");
        // What did not count before does not stop.
        let old = Some(one("osm-system"));
        assert!(stopped(&store(), &names(), old, one("osm-system")).is_empty());
        let lines = stopped(&store(), &names(), Some(one("team-b")), one("osm-system"));
        assert_eq!(lines, ["Egress team-b/theirs no longer counts for a/app"]);
        let lines = stopped(&store(), &names(), None, PolicyNamespaces::All);
        assert!(lines.len() == 1 && lines[0].starts_with("ServiceAccount"), "{lines:?}");
    }

    #[test]
    fn the_flag_of_a_deployment() {
        let deployment =
            |args: Value| json!({"spec": {"template": {"spec": {"containers": [{"args": args}]}}}});
        let with = deployment(json!(["serve", "--policy-namespaces=a,b"]));
        assert_eq!(in_force(&with), "a,b".parse().ok());
        assert_eq!(in_force(&deployment(json!(["serve"]))), None);
    }
}
