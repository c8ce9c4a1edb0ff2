//! Whether the control plane is there and can do its work.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::certificates;
use super::super::cluster::Cluster;
use super::super::id::Id;
use super::super::names::{CA_SECRET, NAME, Names, TLS_SECRET};
use super::super::plan::{is_ours, pair};
use super::super::render::{self, decoded};
use super::images;
use super::report::{Report, State};

pub(super) async fn definitions(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let mut missing = Vec::new();
    let mut old = Vec::new();
    let mut count = 0;
    for definition in render::definitions() {
        let id = Id::of(&definition);
        count += 1;
        match cluster.get(&id).await? {
            None => missing.push(id.name),
            Some(found) => {
                let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
                if !conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True") {
                    missing.push(format!("{} (not established)", id.name));
                } else if let Some(place) = missing_at(&found["spec"], &definition["spec"], "spec") {
                    old.push(format!("{} (at {place})", id.name));
                }
            }
        }
    }
    if !missing.is_empty() {
        let text = format!("not there: {}; `osm-egress upgrade` makes them", missing.join(", "));
        report.add("definitions", State::Fail, text);
    } else if !old.is_empty() {
        let text = format!("not those of this version: {}; `osm-egress upgrade` mends them", old.join(", "));
        report.add("definitions", State::Warn, text);
    } else {
        report.add("definitions", State::Ok, format!("all {count} are there and current"));
    }
    Ok(())
}

/// Where something that is wanted is not there; the API server adds defaults.
fn missing_at(found: &Value, wanted: &Value, path: &str) -> Option<String> {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().find_map(|(key, wanted)| {
            missing_at(found.get(key).unwrap_or(&Value::Null), wanted, &format!("{path}.{key}"))
        }),
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            let pairs = found.iter().zip(wanted).enumerate();
            pairs
                .into_iter()
                .find_map(|(i, (found, wanted))| missing_at(found, wanted, &format!("{path}[{i}]")))
        }
        // The API server leaves out what is empty.
        (Value::Null, Value::Object(wanted)) if wanted.is_empty() => None,
        // The API server writes some whole numbers as others.
        (Value::Number(found), Value::Number(wanted)) if found.as_f64() == wanted.as_f64() => None,
        (found, wanted) => (found != wanted).then(|| path.to_owned()),
    }
}

pub(super) async fn role(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let user = format!("system:serviceaccount:{}:{NAME}", names.namespace);
    let groups = [
        "system:authenticated".to_owned(),
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", names.namespace),
    ];
    let mut denied = Vec::new();
    let rules = render::rules(names);
    for rule in &rules {
        let (resource, part) = rule.resource.split_once('/').unwrap_or((&rule.resource, ""));
        let question = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {
                "user": user, "groups": groups,
                "resourceAttributes": {
                    "namespace": rule.namespace.as_deref().unwrap_or_default(),
                    "verb": rule.verb, "group": rule.group, "resource": resource, "subresource": part,
                    "name": rule.name.as_deref().unwrap_or_default(),
                },
            },
        });
        let answer = cluster.ask(&question).await.context("cannot ask what the service account may do")?;
        if answer["status"]["allowed"] != true {
            denied.push(rule.to_string());
        }
    }
    if denied.is_empty() {
        report.add("role", State::Ok, format!("{user} may do all {} things that it needs", rules.len()));
    } else {
        let text = format!("{user} may not {}; `osm-egress upgrade` mends it", denied.join(", "));
        report.add("role", State::Fail, text);
    }
    Ok(())
}

pub(super) async fn deployment(
    cluster: &Cluster,
    names: &Names,
    config: Option<&Value>,
    report: &mut Report,
) -> Result<()> {
    let id = Id::within("apps/v1", "Deployment", &names.namespace, NAME);
    let Some(found) = cluster.get(&id).await? else {
        report.add("Deployment", State::Fail, format!("{id} is not there: `osm-egress install` makes it"));
        return Ok(());
    };
    let wanted = found["spec"]["replicas"].as_u64().unwrap_or(1);
    let available = found["status"]["availableReplicas"].as_u64().unwrap_or(0);
    let state = match available {
        0 => State::Fail,
        some if some < wanted => State::Warn,
        _ => State::Ok,
    };
    let advice = if available < wanted {
        format!(": see `kubectl -n {} get pods`", names.namespace)
    } else {
        String::new()
    };
    report.add("Deployment", state, format!("{id}: {available} of {wanted} are available{advice}"));
    images::look(&found, config, report);
    Ok(())
}

pub(super) async fn certificate(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let secret = |name: &str| Id::within("v1", "Secret", &names.namespace, name);
    let id = secret(TLS_SECRET);
    let Some(tls) = cluster.get(&id).await? else {
        report.add("certificate", State::Fail, format!("{id} is not there: `osm-egress upgrade` makes it"));
        return Ok(());
    };
    let authority = decoded(&tls, "ca.crt").unwrap_or_default();
    match certificates::try_server(&pair(&tls, "tls.crt", "tls.key"), &authority, &names.hosts()) {
        Err(why) => {
            let text = format!("{id}: {why:#}; `osm-egress upgrade` makes a new one");
            report.add("certificate", State::Fail, text);
        }
        Ok(facts) => {
            let (state, advice) = if facts.is_old && is_ours(&tls) {
                (State::Warn, ": `osm-egress upgrade` renews it")
            } else if facts.is_old {
                (State::Warn, ": less than a third of its time is left")
            } else {
                (State::Ok, "")
            };
            let text = format!("{id}: for {}, until {}{advice}", facts.hosts.join(" and "), facts.ends);
            report.add("certificate", state, text);
        }
    }
    match certificates::look(&authority) {
        Err(why) => report.add("authority", State::Fail, format!("{id}: ca.crt: {why:#}")),
        Ok(facts) if facts.is_old => {
            let text = format!(
                "it ends at {}: delete the secrets {CA_SECRET} and {TLS_SECRET}, run `osm-egress upgrade`, and restart \
                 the workloads of the mesh",
                facts.ends
            );
            report.add("authority", State::Warn, text);
        }
        Ok(facts) => report.add("authority", State::Ok, format!("valid until {}", facts.ends)),
    }
    Ok(())
}

pub(super) async fn webhooks(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let tls = cluster.get(&Id::within("v1", "Secret", &names.namespace, TLS_SECRET)).await?;
    let authority = tls.and_then(|tls| decoded(&tls, "ca.crt")).unwrap_or_default();
    let mut wrong = Vec::new();
    let mut open = Vec::new();
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let id = Id::global("admissionregistration.k8s.io/v1", kind, &names.webhooks());
        let Some(found) = cluster.get(&id).await? else {
            wrong.push(format!("{id} is not there"));
            continue;
        };
        let webhooks = found["webhooks"].as_array().cloned().unwrap_or_default();
        if webhooks.is_empty() {
            wrong.push(format!("{id} has no webhook"));
        }
        for webhook in webhooks {
            let name = webhook["name"].as_str().unwrap_or_default();
            let client = &webhook["clientConfig"];
            let bundle = decoded(&json!({ "data": { "bundle": client["caBundle"] } }), "bundle");
            if bundle.is_none_or(|bundle| bundle.trim() != authority.trim()) {
                wrong.push(format!("{id}: {name} does not know the authority of the certificate"));
            }
            if client["service"]["namespace"] != names.namespace.as_str() || client["service"]["name"] != NAME
            {
                wrong.push(format!("{id}: {name} asks another service"));
            }
            // That one only advises: the compiler grants no more without it.
            if webhook["failurePolicy"] != "Fail" && name != render::GRANTS {
                open.push(format!("{id}: {name} lets everything in while the control plane does not answer"));
            }
        }
    }
    if wrong.is_empty() {
        report.sum("webhooks", State::Warn, &open, "both are there, and know the authority");
    } else {
        wrong.push("`osm-egress upgrade` mends it".to_owned());
        report.add("webhooks", State::Fail, wrong.join("; "));
    }
    Ok(())
}
