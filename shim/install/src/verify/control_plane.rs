//! The checks of the control plane's objects.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::certificates;
use super::super::cluster::Cluster;
use super::super::names::{CA_SECRET, NAME, Names, TLS_SECRET};
use super::super::object_id::ObjectId;
use super::super::plan::{is_managed, read_pem_pair};
use super::super::render::{self, decode_secret_key};
use super::images;
use super::report::{Report, State};

pub(super) async fn check_definitions(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let mut missing = Vec::new();
    let mut old = Vec::new();
    let mut count = 0;
    for definition in render::definitions() {
        let id = ObjectId::from_object(&definition);
        count += 1;
        match cluster.get(&id).await? {
            None => missing.push(id.name),
            Some(found) => {
                let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
                if !conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True") {
                    missing.push(format!("{} (not established)", id.name));
                } else if let Some(place) = find_difference(&found["spec"], &definition["spec"], "spec") {
                    old.push(format!("{} (at {place})", id.name));
                }
            }
        }
    }
    if !missing.is_empty() {
        let text = format!("missing: {}; `osm-egress upgrade` creates them", missing.join(", "));
        report.add("definitions", State::Fail, text);
    } else if !old.is_empty() {
        let text = format!("not of this version: {}; `osm-egress upgrade` updates them", old.join(", "));
        report.add("definitions", State::Warn, text);
    } else {
        report.add("definitions", State::Ok, format!("all {count} exist and are current"));
    }
    Ok(())
}

/// Finds the path of the first wanted field that differs. Fields that the API server adds as defaults do not count.
fn find_difference(found: &Value, wanted: &Value, path: &str) -> Option<String> {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().find_map(|(key, wanted)| {
            find_difference(found.get(key).unwrap_or(&Value::Null), wanted, &format!("{path}.{key}"))
        }),
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            let pairs = found.iter().zip(wanted).enumerate();
            pairs
                .into_iter()
                .find_map(|(i, (found, wanted))| find_difference(found, wanted, &format!("{path}[{i}]")))
        }
        // The API server drops empty objects.
        (Value::Null, Value::Object(wanted)) if wanted.is_empty() => None,
        // The API server returns some integers as floats.
        (Value::Number(found), Value::Number(wanted)) if found.as_f64() == wanted.as_f64() => None,
        (found, wanted) => (found != wanted).then(|| path.to_owned()),
    }
}

pub(super) async fn check_role(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let user = format!("system:serviceaccount:{}:{NAME}", names.namespace);
    let groups = [
        "system:authenticated".to_owned(),
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", names.namespace),
    ];
    let mut denied = Vec::new();
    let rules = render::list_permissions(names);
    for rule in &rules {
        let (resource, part) = rule.resource.split_once('/').unwrap_or((&rule.resource, ""));
        let review = json!({
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
        let answer = cluster
            .submit_review(&review)
            .await
            .context("cannot review the permissions of the service account")?;
        if answer["status"]["allowed"] != true {
            denied.push(rule.to_string());
        }
    }
    if denied.is_empty() {
        report.add("role", State::Ok, format!("{user} has all {} permissions that it needs", rules.len()));
    } else {
        let text = format!("{user} may not {}; `osm-egress upgrade` repairs the role", denied.join(", "));
        report.add("role", State::Fail, text);
    }
    Ok(())
}

pub(super) async fn check_deployment(
    cluster: &Cluster,
    names: &Names,
    config: Option<&Value>,
    report: &mut Report,
) -> Result<()> {
    let id = ObjectId::namespaced("apps/v1", "Deployment", &names.namespace, NAME);
    let Some(found) = cluster.get(&id).await? else {
        report.add(
            "Deployment",
            State::Fail,
            format!("{id} does not exist: `osm-egress install` creates it"),
        );
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
    images::check_images(&found, config, report);
    Ok(())
}

pub(super) async fn check_certificate(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let secret = |name: &str| ObjectId::namespaced("v1", "Secret", &names.namespace, name);
    let id = secret(TLS_SECRET);
    let Some(tls) = cluster.get(&id).await? else {
        report.add(
            "certificate",
            State::Fail,
            format!("{id} does not exist: `osm-egress upgrade` creates it"),
        );
        return Ok(());
    };
    let authority = decode_secret_key(&tls, "ca.crt").unwrap_or_default();
    match certificates::check_server(&read_pem_pair(&tls, "tls.crt", "tls.key"), &authority, &names.hosts()) {
        Err(why) => {
            let text = format!("{id}: {why:#}; `osm-egress upgrade` creates a new one");
            report.add("certificate", State::Fail, text);
        }
        Ok(facts) => {
            let (state, advice) = if facts.is_due_for_renewal && is_managed(&tls) {
                (State::Warn, ": `osm-egress upgrade` renews it")
            } else if facts.is_due_for_renewal {
                (State::Warn, ": less than a third of its validity is left")
            } else {
                (State::Ok, "")
            };
            let text = format!("{id}: for {}, until {}{advice}", facts.hosts.join(" and "), facts.ends);
            report.add("certificate", state, text);
        }
    }
    match certificates::check_validity(&authority) {
        Err(why) => report.add("authority", State::Fail, format!("{id}: ca.crt: {why:#}")),
        Ok(facts) if facts.is_due_for_renewal => {
            let text = format!(
                "it expires at {}: delete the Secrets {CA_SECRET} and {TLS_SECRET}, run `osm-egress upgrade`, and restart \
                 the workloads of the mesh",
                facts.ends
            );
            report.add("authority", State::Warn, text);
        }
        Ok(facts) => report.add("authority", State::Ok, format!("valid until {}", facts.ends)),
    }
    Ok(())
}

pub(super) async fn check_webhooks(cluster: &Cluster, names: &Names, report: &mut Report) -> Result<()> {
    let tls = cluster.get(&ObjectId::namespaced("v1", "Secret", &names.namespace, TLS_SECRET)).await?;
    let authority = tls.and_then(|tls| decode_secret_key(&tls, "ca.crt")).unwrap_or_default();
    let mut wrong = Vec::new();
    let mut open = Vec::new();
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let id =
            ObjectId::cluster_scoped("admissionregistration.k8s.io/v1", kind, &names.webhook_configuration());
        let Some(found) = cluster.get(&id).await? else {
            wrong.push(format!("{id} does not exist"));
            continue;
        };
        let webhooks = found["webhooks"].as_array().cloned().unwrap_or_default();
        if webhooks.is_empty() {
            wrong.push(format!("{id} has no webhook"));
        }
        for webhook in webhooks {
            let name = webhook["name"].as_str().unwrap_or_default();
            let client = &webhook["clientConfig"];
            let bundle = decode_secret_key(&json!({ "data": { "bundle": client["caBundle"] } }), "bundle");
            if bundle.is_none_or(|bundle| bundle.trim() != authority.trim()) {
                wrong.push(format!("{id}: {name} does not have the authority of the certificate"));
            }
            if client["service"]["namespace"] != names.namespace.as_str() || client["service"]["name"] != NAME
            {
                wrong.push(format!("{id}: {name} calls another service"));
            }
            // The advisory ones give warnings, and refuse only what the compiler refuses as well.
            if webhook["failurePolicy"] != "Fail" && !render::ADVISORY_WEBHOOKS.contains(&name) {
                open.push(format!("{id}: {name} admits everything while the control plane does not answer"));
            }
        }
    }
    if wrong.is_empty() {
        report.add_findings("webhooks", State::Warn, &open, "both exist, with the right authority");
    } else {
        wrong.push("`osm-egress upgrade` repairs it".to_owned());
        report.add("webhooks", State::Fail, wrong.join("\n"));
    }
    Ok(())
}
