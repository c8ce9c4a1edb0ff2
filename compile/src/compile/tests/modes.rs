//! MeshConfig and annotations.

use super::*;

fn mesh(spec: &str) -> String {
    format!(
        "---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         metadata: {{name: osm-mesh-config, namespace: osm-system}}\nspec: {spec}\n"
    )
}

fn namespace(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n, annotations: {{{MODE_ANNOTATION}: {mode}}}}}\n"
    )
}

/// A Namespace that lets its service accounts loosen, with another annotation before that.
fn delegated(mode: &str) -> String {
    let mode = if mode.is_empty() { String::new() } else { format!("{MODE_ANNOTATION}: {mode}") };
    format!(
        "---\napiVersion: v1\nkind: Namespace\n\
         metadata: {{name: n, annotations: {{{mode}{MODE_DELEGATION_ANNOTATION}: service-accounts}}}}\n"
    )
}

fn account(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ServiceAccount\n\
         metadata: {{name: app, namespace: n, annotations: {{{MODE_ANNOTATION}: {mode}}}}}\n"
    )
}

#[test]
fn the_nearest_mode_applies() {
    let on = || mesh("{traffic: {enableEgress: true}}");
    let off = || mesh("{traffic: {enableEgress: false}}");
    let (enforce, audit, passthrough) = (Mode::Enforce, Mode::Audit, Mode::Passthrough);
    for (name, text, of_app, of_mesh) in [
        ("no MeshConfig", String::new(), enforce, enforce),
        ("BOOT1: egress on", on(), passthrough, passthrough),
        ("egress off", off(), enforce, enforce),
        ("egress absent", mesh("{traffic: {}}"), enforce, enforce),
        ("egress null", mesh("{traffic: {enableEgress: null}}"), enforce, enforce),
        ("traffic absent", mesh("{sidecar: {logLevel: error}}"), enforce, enforce),
        ("traffic null", mesh("{traffic: null}"), enforce, enforce),
        ("v1alpha1", on().replace("v1alpha2", "v1alpha1"), passthrough, passthrough),
        ("another name", on().replace("osm-mesh-config", "other"), enforce, enforce),
        ("another namespace", on().replace("osm-system", "other"), enforce, enforce),
        ("namespace", on() + &namespace("enforce"), enforce, passthrough),
        ("namespace, the other way", off() + &namespace("passthrough"), passthrough, enforce),
        ("service account tightens", on() + &account("audit"), audit, passthrough),
        ("service account loosens", off() + &account("audit"), enforce, enforce),
        ("service account loosens wholly", off() + &account("passthrough"), enforce, enforce),
        (
            "service account loosens its namespace",
            on() + &namespace("enforce") + &account("audit"),
            enforce,
            passthrough,
        ),
        ("service account halfway", on() + &namespace("audit") + &account("passthrough"), audit, passthrough),
        (
            "service account that may, of its namespace",
            on() + &delegated("enforce, ") + &account("audit"),
            audit,
            passthrough,
        ),
        (
            "service account that may, of the mesh",
            off() + &delegated("") + &account("passthrough"),
            passthrough,
            enforce,
        ),
        (
            "delegated to whom?",
            off() + &delegated("").replace("service-accounts", "all") + &account("audit"),
            enforce,
            enforce,
        ),
        ("unknown word on the namespace", on() + &namespace("Audit"), enforce, passthrough),
        (
            "unknown word on the service account",
            on() + &namespace("audit") + &account("off"),
            enforce,
            passthrough,
        ),
        ("empty word", on() + &account("''"), enforce, passthrough),
        ("unknown word beaten", on() + &namespace("x") + &account("audit"), enforce, passthrough),
    ] {
        let compiled = compiled(&text);
        assert_eq!(compiled.document(&identity("n/app")).mode, of_app, "{name}");
        assert_eq!(compiled.document(&identity("elsewhere/app")).mode, of_mesh, "{name}, elsewhere");
        assert_eq!(compiled.default_mode(), of_mesh, "{name}, default");
    }
}

#[test]
fn passthrough_ignores_policies() {
    let policy = egress("p", "ports: [{number: 22, protocol: tcp}]");
    let on = compiled(&(mesh("{traffic: {enableEgress: true}}") + &policy));
    let document = on.document(&identity("n/app"));
    assert_eq!((document.mode, document.rules.len()), (Mode::Passthrough, 0));
    assert_eq!(status(&on, "Egress n/p").rules, 1);
    // Their diagnostics are still named, so that egress can be switched off without a surprise.
    let bad = egress("p", "ports: [{number: 22, protocol: tcpp}]");
    let on = compiled(&(mesh("{traffic: {enableEgress: true}}") + &bad));
    assert!(!status(&on, "Egress n/p").accepted);
    let audit = compiled(&(delegated("") + &account("audit") + &policy));
    assert_eq!(audit.document(&identity("n/app")).rules.len(), 1);
}

#[test]
fn loosened_modes_are_listed() {
    let text = mesh("{traffic: {enableEgress: false}}") + &delegated("audit, ") + &account("passthrough");
    let compiled = compiled(&text);
    let found: Vec<String> = compiled
        .looser_modes()
        .iter()
        .map(|found| format!("{} {} {}", found.by, found.mode.as_str(), found.instead_of.as_str()))
        .collect();
    assert_eq!(found, ["Namespace n audit enforce", "ServiceAccount n/app passthrough audit"]);
    for (name, by) in [
        ("n/app", "ServiceAccount n/app"),
        ("n/other", "Namespace n"),
        ("m/app", "MeshConfig osm-system/osm-mesh-config"),
    ] {
        let decided = compiled.mode_source(&identity(name)).map(|object| object.to_string());
        assert_eq!(decided.as_deref(), Some(by));
    }
    assert!(super::compiled(&account("passthrough")).looser_modes().is_empty());
}

#[test]
fn msg1_only_relevant_changes_change_a_document() {
    let policy = egress("p", "ports: [{number: 22, protocol: tcp}]");
    let off = mesh("{traffic: {enableEgress: false}, sidecar: {logLevel: error}}");
    let version = |text: &str| compiled(text).document(&identity("n/app")).version.clone();
    let base = version(&(off.clone() + &policy));
    for (name, text, same) in [
        ("log level", off.replace("error", "debug") + &policy, true),
        (
            "another namespace object",
            off.clone() + &policy + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: z}\n",
            true,
        ),
        (
            "a policy for somebody else",
            off.clone()
                + &policy
                + &egress("q", "ports: [{number: 1, protocol: tcp}]").replace("name: app", "name: other"),
            true,
        ),
        ("egress on", off.replace("false", "true") + &policy, false),
        ("a policy", off.clone() + &policy + &egress("q", "ports: [{number: 1, protocol: tcp}]"), false),
        ("no policy", off.clone(), false),
        ("a mode", off.clone() + &policy + &namespace("audit"), false),
    ] {
        assert_eq!(version(&text) == base, same, "{name}");
    }
}

#[test]
fn modes_are_reported() {
    let mut out = String::new();
    for (name, text) in [
        ("no MeshConfig", String::new()),
        ("another MeshConfig", mesh("{}").replace("osm-mesh-config", "other")),
        ("words", namespace("Audit") + &account("off")),
        ("a mode that is not the author's to give", namespace("enforce") + &account("audit")),
        (
            "words about others",
            delegated("")
                .replace("service-accounts", "all, openservicemesh.io/egress-policy-namespaces: 'a,B'"),
        ),
        (
            "sections and flags",
            mesh("{trafic: {enableEgress: true}, featureFlags: {enableEgressPolicy: false}}"),
        ),
        (
            "lists",
            mesh(
                "{traffic: {outboundIPRangeExclusionList: [10.0.0.1], outboundIPRangeInclusionList: [10.0.0.1/8], outboundPortExclusionList: [22, 0], inboundPortExclusionList: [70000]}}",
            ),
        ),
    ] {
        let compiled = compiled(&text);
        let notes: String = compiled.notes.iter().map(|note| format!("{note}\n")).collect();
        out.push_str(&format!("## {name}\n{notes}{}", diagnostics(&compiled)));
    }
    insta::assert_snapshot!(out);
}

#[test]
fn the_mesh_config_can_have_another_name() {
    let options = CompileOptions {
        mesh_config_namespace: "m".to_owned(),
        mesh_config_name: "c".to_owned(),
        ..CompileOptions::default()
    };
    let text =
        mesh("{traffic: {enableEgress: true}}").replace("osm-mesh-config", "c").replace("osm-system", "m");
    assert_eq!(compile(&store(&text), &options, None).default_mode(), Mode::Passthrough);
}

#[test]
fn the_limit_of_proxies_is_read() {
    for (sidecar, most, accepted) in [
        ("", None, true),
        ("sidecar: {}", None, true),
        ("sidecar: {maxDataPlaneConnections: 0}", None, true),
        ("sidecar: {maxDataPlaneConnections: 7}", Some(7), true),
        ("sidecar: {maxDataPlaneConnections: -1}", None, false),
    ] {
        let text = format!(
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
             metadata: {{name: osm-mesh-config, namespace: osm-system}}\nspec:\n  traffic: {{}}\n  {sidecar}\n"
        );
        let compiled = compiled(&text);
        assert_eq!(compiled.max_proxies(), most, "{sidecar}");
        assert_eq!(compiled.statuses.values().all(|status| status.accepted), accepted, "{sidecar}");
    }
}
