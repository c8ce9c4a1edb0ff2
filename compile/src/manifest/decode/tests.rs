use serde_json::json;

use super::*;
use crate::manifest::spec::{HeaderPattern, PortSpec};

fn file() -> Arc<str> {
    Arc::from("a.yaml")
}

fn objects(text: &str) -> Vec<Arc<Object>> {
    match parse(&file(), text.as_bytes()) {
        Ok(parsed) => parsed.objects,
        Err(diagnostics) => {
            panic!("{}\n{text}", diagnostics.iter().map(ToString::to_string).collect::<String>())
        }
    }
}

const EGRESS: &str =
    "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: p, namespace: n}\n";
const GROUP: &str =
    "apiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\nmetadata: {name: g, namespace: n}\n";
const MESH: &str = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nmetadata: {name: osm-mesh-config, namespace: osm-system}\n";

#[test]
fn an_egress_object_is_decoded() {
    let text = format!(
        "{EGRESS}spec:\n  sources: [{{kind: ServiceAccount, name: a, namespace: b}}]\n  hosts: []\n  ipAddresses:\n  ports: [{{number: 70000, protocol: HTTP}}]\n"
    );
    let objects = objects(&text);
    assert_eq!(objects[0].reference.to_string(), "Egress n/p");
    let Body::Egress(egress) = &objects[0].body else { panic!("{objects:?}") };
    assert_eq!(egress.ports, [PortSpec { number: 70000, protocol: "HTTP".to_owned() }]);
    // Written without a value, absent, and empty are three things here.
    assert_eq!(egress.ip_addresses, Some(vec![]));
    assert_eq!(egress.hosts, Some(vec![]));
    assert_eq!(egress.matches, None);
}

#[test]
fn headers_are_decoded_from_a_list_or_a_map() {
    for (headers, expected) in [
        ("[{a: x}, {b: y}]", vec![("a", "x", Some(0)), ("b", "y", Some(1))]),
        ("{a: x, b: y}", vec![("a", "x", None), ("b", "y", None)]),
        ("[]", vec![]),
        ("", vec![]),
    ] {
        let objects = objects(&format!("{GROUP}spec:\n  matches:\n  - name: m\n    headers: {headers}\n"));
        let Body::HttpRouteGroup(group) = &objects[0].body else { panic!("{objects:?}") };
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, value, item)| HeaderPattern { name: name.to_owned(), value: value.to_owned(), item })
            .collect();
        let found = group.matches[0].headers.as_ref().map(|headers| headers.0.clone());
        assert_eq!(found.as_deref(), Some(&expected[..]), "{headers}");
    }
}

#[test]
fn a_mesh_config_is_strict_only_in_traffic() {
    for version in ["v1alpha1", "v1alpha2"] {
        let text = format!(
            "apiVersion: config.openservicemesh.io/{version}\nkind: MeshConfig\nmetadata: {{name: m}}\nspec:\n  \
             traffic:\n    enableEgress: false\n    enablePermissiveTrafficPolicyMode: true\n    \
             outboundIPRangeExclusionList: [1.1.1.1/32]\n    outboundIPRangeInclusionList: []\n    \
             outboundPortExclusionList: [22]\n    inboundPortExclusionList: []\n    \
             networkInterfaceExclusionList: []\n    inboundExternalAuthorization: {{enable: false, timeout: 1s}}\n  \
             sidecar: {{logLevel: error, anything: [1]}}\n  featureFlags: {{enableEgressPolicy: true}}\n"
        );
        let objects = objects(&text);
        assert_eq!(objects[0].reference.to_string(), "MeshConfig default/m");
        let Body::MeshConfig(mesh) = &objects[0].body else { panic!("{objects:?}") };
        assert_eq!(mesh.traffic.as_ref().and_then(|t| t.enable_egress), Some(false));
        assert_eq!(mesh.other["featureFlags"], json!({"enableEgressPolicy": true}));
    }
}

#[test]
fn other_kinds_are_ignored_and_lists_are_expanded() {
    let text = "apiVersion: v1\nkind: List\nitems:\n\
                - {apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: ignored, annotations: {x: y}, finalizers: []}, spec: {finalizers: [k]}}\n\
                - {apiVersion: v1, kind: ServiceAccount, metadata: {name: b}, automountServiceAccountToken: false}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: c, labels: null}, spec: {ports: [{port: 80}]}}\n\
                - {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {}}\n\
                - {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: f}, spec: {}}\n\
                - {apiVersion: policy.flomesh.io/v1alpha1, kind: Egress, metadata: {name: f}, spec: {}}\n\
                ---\napiVersion: v1\nkind: ServiceAccountList\nitems: [{metadata: {name: e}}]\n\
                ---\napiVersion: v1\nkind: List\nitems: []\n";
    let parsed = parse(&file(), text.as_bytes()).expect("valid");
    let names: Vec<String> = parsed.objects.iter().map(|o| o.reference.to_string()).collect();
    assert_eq!(
        names,
        [
            "Namespace a",
            "ServiceAccount default/b",
            "Service default/c",
            "Deployment default/d",
            "ServiceAccount default/e"
        ]
    );
    assert_eq!(parsed.objects[0].metadata.annotation("x"), Some("y"));
    assert_eq!(parsed.objects[0].position(&super::super::annotation_path("x")).map(|p| p.line), Some(4));
    let notes: Vec<String> = parsed.notes.iter().map(ToString::to_string).collect();
    let [replica_set, fsm] = notes.as_slice() else { panic!("{notes:?}") };
    assert_eq!(replica_set, "a.yaml:8:3: info: `ReplicaSet` of `apps/v1` is ignored");
    let expected = "a.yaml:9:3: warning: `Egress` of `policy.flomesh.io/v1alpha1` belongs to Flomesh Service Mesh and is ignored";
    assert!(fsm.starts_with(expected) && fsm.contains("policy.openservicemesh.io/v1alpha1"), "{fsm}");
}

/// An API server drops a list whose entries are all commented out when it is applied with `kubectl apply`; only
/// the applied manifest still shows it.
#[test]
fn empty_lists_are_restored_from_the_applied_manifest() {
    for (applied, spec, expected) in [
        ("{\"spec\":{\"hosts\":null}}", "", Some(vec![])),
        ("{\"spec\":{\"hosts\":null}}", "  hosts: [a.org]\n", Some(vec!["a.org".to_owned()])),
        ("{\"spec\":{\"hosts\":[]}}", "", None),
        ("{\"spec\":{\"ports\":null}}", "", None),
        ("null", "", None),
        ("{null", "", None),
    ] {
        let text = format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata:\n  name: e\n  annotations:\n    \
             kubectl.kubernetes.io/last-applied-configuration: '{applied}'\nspec:\n  sources: []\n  ports: []\n{spec}"
        );
        let objects = objects(&text);
        let Body::Egress(egress) = &objects[0].body else { panic!("{objects:?}") };
        assert_eq!(egress.hosts, expected, "{applied} {spec}");
    }
}

#[test]
fn invalid_objects_are_refused_with_a_remedy() {
    let egress = |spec: &str| format!("{EGRESS}spec:\n  sources: []\n  ports: []\n{spec}");
    let mesh = |traffic: &str| format!("{MESH}spec:\n  traffic:\n    {traffic}\n");
    let group = |matches: &str| format!("{GROUP}spec:\n  matches:\n  - name: m\n    {matches}\n");
    let mut out = String::new();
    for (name, text) in [
        ("unknown field", egress("  host: [a.org]\n")),
        ("unknown field, nothing near", egress("  priority: 1\n")),
        (
            "unknown field in a list",
            format!(
                "{EGRESS}spec:\n  sources: []\n  ports:\n  - number: 80\n    protocol: http\n    name: x\n"
            ),
        ),
        ("missing field", format!("{EGRESS}spec:\n  ports: []\n")),
        ("missing field in a list", format!("{EGRESS}spec:\n  sources: []\n  ports:\n  - number: 80\n")),
        (
            "number in quotes",
            format!("{EGRESS}spec:\n  sources: []\n  ports:\n  - {{number: \"80\", protocol: http}}\n"),
        ),
        (
            "number with a point",
            format!("{EGRESS}spec:\n  sources: []\n  ports:\n  - {{number: 80.5, protocol: http}}\n"),
        ),
        ("text for a list", egress("  hosts: a.org\n")),
        ("mapping for a list", egress("  hosts: {a: b}\n")),
        ("number for a text", egress("  hosts: [123]\n")),
        ("null in a list", egress("  hosts: [a.org, ]\n  ipAddresses: [null]\n")),
        ("no spec", EGRESS.to_owned()),
        ("spec without a value", format!("{EGRESS}spec:\n")),
        ("spec of the wrong type", format!("{EGRESS}spec: x\n")),
        ("spec beside spec", format!("{EGRESS}specs: {{}}\nspec: {{sources: [], ports: []}}\n")),
        ("yes for a boolean", mesh("enableEgress: yes")),
        ("on for a boolean", mesh("enableEgress: on")),
        ("text for a boolean", mesh("enableEgress: \"true\"")),
        ("number for a boolean", mesh("enableEgress: 1")),
        ("unknown field in traffic", mesh("enableEgres: true")),
        ("port that is a text", mesh("outboundPortExclusionList: [ssh]")),
        ("two headers in an item", group("headers: [{a: x, b: y}]")),
        ("header that is a number", group("headers: [{x-count: 1}]")),
        ("headers that are a text", group("headers: host")),
        ("match without a name", format!("{GROUP}spec:\n  matches:\n  - pathRegex: /\n")),
        ("no kind", "metadata: {name: a}\n".to_owned()),
        ("kind without version", "kind: Egress\nmetadata: {name: a}\n".to_owned()),
        ("kind in lower case", EGRESS.replace("Egress", "egress")),
        ("another version", GROUP.replace("v1alpha4", "v1alpha3")),
        ("another version of the core", "apiVersion: v2\nkind: Namespace\nmetadata: {name: a}\n".to_owned()),
        ("no name", EGRESS.replace("name: p, ", "")),
        ("no metadata", "apiVersion: v1\nkind: Namespace\n".to_owned()),
        ("name in upper case", EGRESS.replace("name: p", "name: P")),
        ("namespace with a slash", EGRESS.replace("namespace: n", "namespace: a/b")),
        (
            "annotation that is a boolean",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {x.y/z: true}}\n".to_owned(),
        ),
        ("not an object", "- a\n- b\n".to_owned()),
        (
            "item of a list",
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace}\n- 5\n".to_owned(),
        ),
        ("not YAML", "a: [\n".to_owned()),
    ] {
        let diagnostics = parse(&file(), text.as_bytes()).expect_err(name);
        out.push_str(&format!("## {name}\n"));
        for diagnostic in diagnostics {
            out.push_str(&format!("{diagnostic}\n"));
        }
    }
    insta::assert_snapshot!(out);
}

#[test]
fn every_unreadable_object_is_named() {
    let bad = |name: &str| format!("{}spec: {{}}\n", EGRESS.replace("name: p", &format!("name: {name}")));
    let text = [bad("first"), bad("second")].join("---\n");
    let diagnostics = parse(&file(), text.as_bytes()).expect_err("invalid");
    let named: Vec<_> = diagnostics
        .iter()
        .map(|diagnostic| {
            let object = diagnostic.object.as_ref().map(ToString::to_string);
            (object.unwrap_or_default(), diagnostic.position.map(|at| at.line))
        })
        .collect();
    assert_eq!(named, [("Egress n/first".to_owned(), Some(4)), ("Egress n/second".to_owned(), Some(9))]);
}
