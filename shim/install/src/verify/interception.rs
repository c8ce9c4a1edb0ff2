//! The checks of how pods are intercepted: the CNI plugin, native sidecars, and namespaces that refuse injected pods.

use anyhow::Result;
use egress_inject::pod_security::{ENFORCE_LABEL, find_refusal};
use egress_inject::{CNI_ANNOTATION, parse_enabled};
use serde_json::Value;

use super::report::{Report, State};
use crate::cluster::Cluster;
use crate::names::{CNI_NAME, NAME, Names};
use crate::nodes::find_old_nodes;
use crate::object_id::{ObjectId, api_resource};
use crate::render::{CNI_FLAG, NATIVE_FLAG};

/// Flags of the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InjectionFlags {
    /// The CNI plugin intercepts pods.
    pub(crate) cni: bool,
    native: bool,
}

impl InjectionFlags {
    /// Reads the flags of the installed control plane.
    pub(crate) async fn read(cluster: &Cluster, names: &Names) -> Result<Self> {
        let id = ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME);
        let found = cluster.get(&id).await?.unwrap_or_default();
        let arguments = found.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
        let has = |flag: &str| arguments.into_iter().flatten().any(|argument| argument == flag);
        Ok(Self { cni: has(CNI_FLAG), native: has(NATIVE_FLAG) })
    }
}

/// Describes why a namespace refuses injected pods; `None` if it does not.
pub(crate) fn find_namespace_refusal(namespace: &Value, cni: bool) -> Option<String> {
    let metadata = &namespace["metadata"];
    let own = parse_enabled(metadata["annotations"][CNI_ANNOTATION].as_str(), CNI_ANNOTATION);
    // An invalid annotation refuses pods with a message of its own.
    let cni = own.ok().flatten().unwrap_or(cni);
    find_refusal(metadata["labels"][ENFORCE_LABEL].as_str(), cni)
}

/// Reports namespaces that refuse injected pods.
pub(super) fn check_pod_security(namespaces: &[Value], flags: InjectionFlags, report: &mut Report) {
    let found: Vec<String> = namespaces
        .iter()
        .filter_map(|namespace| {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
            find_namespace_refusal(namespace, flags.cni).map(|refusal| format!("namespace {name}: {refusal}"))
        })
        .collect();
    report.add_findings(
        "Pod Security",
        State::Warn,
        &found,
        "every namespace of the mesh accepts injected pods",
    );
}

/// Checks the CNI plugin's DaemonSet, if pods need it.
pub(super) async fn check_plugin(
    cluster: &Cluster,
    names: &Names,
    namespaces: &[Value],
    flags: InjectionFlags,
    report: &mut Report,
) -> Result<()> {
    let id = ObjectId::namespaced("apps/v1", "DaemonSet", &names.cni_namespace(), CNI_NAME);
    let found = cluster.get(&id).await?;
    let by_annotation = namespaces.iter().any(|namespace| {
        let text = namespace["metadata"]["annotations"][CNI_ANNOTATION].as_str();
        matches!(parse_enabled(text, CNI_ANNOTATION), Ok(Some(true)))
    });
    let Some(found) = found else {
        if flags.cni || by_annotation {
            let text = format!(
                "{id} does not exist, so injected pods do not start: run `osm-egress upgrade --set osm.egress.cni=true`"
            );
            report.add("CNI plugin", State::Fail, text);
        }
        return Ok(());
    };
    let number = |field: &str| found["status"][field].as_u64().unwrap_or(0);
    let (wanted, ready) = (number("desiredNumberScheduled"), number("numberReady"));
    let text = format!("{id}: ready on {ready} of {wanted} nodes");
    if ready < wanted {
        let advice = format!(
            "injected pods do not start on the others: see `kubectl -n {} get pods`",
            names.cni_namespace()
        );
        report.add("CNI plugin", State::Warn, format!("{text}; {advice}"));
    } else {
        report.add("CNI plugin", State::Ok, text);
    }
    Ok(())
}

/// Checks that every node runs native sidecars, if there are any.
pub(super) async fn check_native_sidecars(cluster: &Cluster, flags: InjectionFlags, report: &mut Report) {
    if !flags.native {
        report.add(
            "native sidecars",
            State::Note,
            "off: Jobs with a sidecar do not complete, and init containers have no network",
        );
        return;
    }
    let nodes = match cluster.list(&api_resource("v1", "Node"), None, "").await {
        Ok(nodes) => nodes,
        Err(error) => {
            report.add("native sidecars", State::Unknown, format!("{error:#}"));
            return;
        }
    };
    let mut old = find_old_nodes(&nodes);
    if !old.is_empty() {
        old.push(
            "injected pods do not start there: `osm-egress upgrade` turns native sidecars off".to_owned(),
        );
    }
    report.add_findings("native sidecars", State::Warn, &old, "every node runs them");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_that_refuse_pods_are_named_with_the_remedy() {
        let namespace = |labels: Value, annotations: Value| json!({"metadata": {"name": "shop", "labels": labels, "annotations": annotations}});
        let restricted = json!({ENFORCE_LABEL: "restricted"});
        for (namespace, cni, refuses) in [
            (namespace(json!({}), json!({})), false, false),
            (namespace(restricted.clone(), json!({})), false, true),
            (namespace(restricted.clone(), json!({})), true, false),
            (namespace(restricted.clone(), json!({CNI_ANNOTATION: "enabled"})), false, false),
            (namespace(restricted, json!({CNI_ANNOTATION: "disabled"})), true, true),
        ] {
            let mut report = Report::default();
            check_pod_security(
                std::slice::from_ref(&namespace),
                InjectionFlags { cni, native: false },
                &mut report,
            );
            let check = &report.checks[0];
            assert_eq!(check.state == State::Warn, refuses, "{namespace} {cni}");
            assert!(!refuses || check.message.contains("namespace shop: its label"), "{report}");
        }
    }
}
