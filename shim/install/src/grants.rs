//! Grants in a cluster: loosened modes, grants without permission, and grants that an upgrade would stop.

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

/// The longest time to read the cluster.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The most lines of a list, which a person reads.
const MAX_LINES: usize = 50;

/// The compile options of a control plane.
pub(super) fn compile_options(names: &Names, policy_namespaces: PolicyNamespaces) -> CompileOptions {
    CompileOptions {
        mesh_config_namespace: names.namespace.clone(),
        mesh_name: names.mesh.clone(),
        policy_namespaces,
        ..CompileOptions::default()
    }
}

/// Reads the policy namespaces from a Deployment's flags. Returns `None` for a version without that flag.
pub(super) fn read_policy_namespaces(deployment: &Value) -> Option<PolicyNamespaces> {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    let arguments = containers.flat_map(|container| container["args"].as_array().into_iter().flatten());
    let mut lists = arguments.filter_map(|argument| argument.as_str()?.strip_prefix("--policy-namespaces="));
    lists.next()?.parse().ok()
}

/// Reads the objects of a cluster as a control plane does.
pub(super) async fn read_objects(cluster: &Cluster, options: &CompileOptions) -> Result<Store> {
    let state = read_once(&cluster.client, options, READ_TIMEOUT).await?;
    Ok(state.store.as_ref().clone())
}

/// Finds the grants that other policy namespaces would stop: a line for each object.
pub(super) async fn find_lost_grants(
    cluster: &Cluster,
    names: &Names,
    deployment: &Value,
    wanted: &PolicyNamespaces,
) -> Result<Vec<String>> {
    let before = read_policy_namespaces(deployment);
    let both = match (&before, wanted) {
        (Some(PolicyNamespaces::Named(before)), PolicyNamespaces::Named(wanted)) => {
            PolicyNamespaces::Named(before.union(wanted).cloned().collect())
        }
        (_, wanted) => wanted.clone(),
    };
    let store = read_objects(cluster, &compile_options(names, both)).await?;
    Ok(list_lost_grants(&store, names, before, wanted.clone()))
}

/// Lists the grants that stop between two compilations of the same objects.
fn list_lost_grants(
    store: &Store,
    names: &Names,
    before: Option<PolicyNamespaces>,
    wanted: PolicyNamespaces,
) -> Vec<String> {
    let is_first = before.is_none();
    let compile_with = |policy_namespaces| compile(store, &compile_options(names, policy_namespaces), None);
    let (old, new) = (compile_with(before.unwrap_or(PolicyNamespaces::All)), compile_with(wanted));
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
    truncate_list(lines)
}

/// Lists the objects that loosen a mode, each with the Namespace that permits it.
pub(super) fn list_loosened_modes(compiled: &Compiled) -> Vec<String> {
    let lines = compiled.looser_modes().into_iter().map(|found| {
        let (mode, default) = (found.mode.as_str(), found.instead_of.as_str());
        let by = if found.by.kind == Kind::ServiceAccount {
            format!(", permitted by Namespace {}", found.by.namespace)
        } else {
            String::new()
        };
        format!("{}: `{mode}` instead of `{default}`{by}", found.by)
    });
    truncate_list(lines.collect())
}

/// Lists the objects that grant more than their authors may.
pub(super) fn list_unpermitted_grants(compiled: &Compiled) -> Vec<String> {
    let conditions = compiled.statuses.values().filter(|condition| lacks_permission(condition));
    let problems = |condition: &ObjectStatus| -> BTreeSet<String> {
        let problems = condition.diagnostics.iter().filter(|problem| problem.cause == Cause::Permission);
        problems.map(|problem| format!("{}: {}", condition.object, problem.message)).collect()
    };
    truncate_list(conditions.flat_map(problems).collect())
}

fn lacks_permission(condition: &ObjectStatus) -> bool {
    condition.diagnostics.iter().any(|problem| problem.cause == Cause::Permission)
}

fn truncate_list(mut lines: Vec<String>) -> Vec<String> {
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
        let lines = list_lost_grants(&store(), &names(), None, one("osm-system"));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("Egress team-b/theirs no longer counts for a/app"), "{lines:?}");
        assert!(lines[1].starts_with("ServiceAccount a/app: "), "{lines:?}");
        // A grant that was not in force does not stop.
        let old = Some(one("osm-system"));
        assert!(list_lost_grants(&store(), &names(), old, one("osm-system")).is_empty());
        let lines = list_lost_grants(&store(), &names(), Some(one("team-b")), one("osm-system"));
        assert_eq!(lines, ["Egress team-b/theirs no longer counts for a/app"]);
        let lines = list_lost_grants(&store(), &names(), None, PolicyNamespaces::All);
        assert!(lines.len() == 1 && lines[0].starts_with("ServiceAccount"), "{lines:?}");
    }

    #[test]
    fn policy_namespaces_are_read_from_a_deployment() {
        let deployment =
            |args: Value| json!({"spec": {"template": {"spec": {"containers": [{"args": args}]}}}});
        let with = deployment(json!(["serve", "--policy-namespaces=a,b"]));
        assert_eq!(read_policy_namespaces(&with), "a,b".parse().ok());
        assert_eq!(read_policy_namespaces(&deployment(json!(["serve"]))), None);
    }
}
