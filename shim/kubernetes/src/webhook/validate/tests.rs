//! Refusals, warnings and their texts. The numbers VAL are Open Service Mesh's own test cases (reference §10.1).

use kube::core::admission::AdmissionReview;
use serde_json::json;

use super::*;

const POLICY: &str = "policy.openservicemesh.io/v1alpha1";
const ROUTES: &str = "specs.smi-spec.io/v1alpha4";
const MESH: &str = "config.openservicemesh.io/v1alpha2";

/// Builds a review as an API server sends it.
pub(crate) fn review_of(api_version: &str, kind: &str, object: Value, old: Option<Value>) -> Value {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let whole = |mut object: Value| {
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        object
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "the-uid",
            "kind": { "group": group, "version": version, "kind": kind },
            "resource": { "group": group, "version": version, "resource": "things" },
            "name": object["metadata"]["name"].as_str().unwrap_or_default(),
            "namespace": "n",
            "operation": if old.is_some() { "UPDATE" } else { "CREATE" },
            "userInfo": {},
            "oldObject": old.map(whole),
            "object": whole(object),
        },
    })
}

fn validate(store: &Store, review: Value) -> AdmissionResponse {
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(review).expect("a review");
    let options = CompileOptions::default();
    let compiled = compile(store, &options, None);
    let known = ReviewContext { options: &options, store, compiled: &compiled };
    super::review(&review.try_into().expect("a request"), &known)
}

fn object(spec: Value) -> Value {
    json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec })
}

fn create(api_version: &str, kind: &str, spec: Value) -> AdmissionResponse {
    validate(&Store::default(), review_of(api_version, kind, object(spec), None))
}

/// Returns the text of a refusal; panics if the answer is none.
fn refusal(answer: &AdmissionResponse) -> &str {
    assert!(!answer.allowed, "{answer:?}");
    assert_eq!(answer.uid, "the-uid");
    &answer.result.message
}

fn warnings(answer: &AdmissionResponse) -> Vec<&str> {
    answer.warnings.iter().flatten().map(String::as_str).collect()
}

fn egress(more: Value) -> Value {
    let mut spec = json!({
        "sources": [{ "kind": "ServiceAccount", "name": "a", "namespace": "n" }],
        "hosts": ["a.org"], "ports": [{ "number": 80, "protocol": "http" }],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

fn by(api_group: &str, kind: &str, name: &str) -> Value {
    json!({ "apiGroup": api_group, "kind": kind, "name": name })
}

fn store(texts: &[&str]) -> Store {
    let mut store = Store::default();
    for text in texts {
        let update = FileUpdate::read("".into(), text.as_bytes());
        let Change::Read(parsed) = &update.change else { panic!("{update:?}") };
        let file = parsed.objects[0].reference.to_string().into();
        store.apply(FileUpdate { file, ..update });
    }
    store
}

#[test]
fn open_service_meshs_rules_refuse_in_its_words() {
    let settings = |name| by(POLICY, "UpstreamTrafficSetting", name);
    let group = |name| by(ROUTES, "HTTPRouteGroup", name);
    for (case, matches, expected) in [
        (
            "VAL1",
            json!([by("invalid", "Name", "Name")]),
            Some(
                "Expected 'matches.apiGroup' to be one of [specs.smi-spec.io/v1alpha4 policy.openservicemesh.io/v1alpha1], got: invalid",
            ),
        ),
        ("VAL2", json!([group("g")]), None),
        ("VAL3", json!([settings("s")]), None),
        (
            "VAL4",
            json!([settings("s"), settings("t")]),
            Some("Cannot have more than 1 UpstreamTrafficSetting match"),
        ),
        (
            "a kind of SMI",
            json!([by(ROUTES, "TCPRoute", "x")]),
            Some("Expected 'matches.kind' for match 'x' to be 'HTTPRouteGroup', got: TCPRoute"),
        ),
        (
            "a kind of OSM",
            json!([by(POLICY, "Retry", "x")]),
            Some("Expected 'matches.kind' for match 'x' to be 'UpstreamTrafficSetting', got: Retry"),
        ),
    ] {
        let answer = create(POLICY, "Egress", egress(json!({ "matches": matches })));
        match expected {
            Some(expected) => assert_eq!(refusal(&answer), expected, "{case}"),
            None => assert!(answer.allowed, "{case}: {answer:?}"),
        }
    }
}

/// VAL5: the kinds of Open Service Mesh's webhook, without ingress.
#[test]
fn unknown_kinds_are_refused() {
    for (api_version, kind) in [
        (POLICY, "Egress"),
        (POLICY, "UpstreamTrafficSetting"),
        (ROUTES, "HTTPRouteGroup"),
        (MESH, "MeshConfig"),
        ("config.openservicemesh.io/v1alpha1", "MeshConfig"),
        ("access.smi-spec.io/v1alpha3", "TrafficTarget"),
    ] {
        let answer = create(api_version, kind, json!({ "nothing": {} }));
        assert!(!answer.result.message.contains("unknown gvk"), "{kind}: {answer:?}");
    }
    for (api_version, kind) in
        [(POLICY, "IngressBackend"), (POLICY, "Nothing"), ("specs.smi-spec.io/v1alpha3", "HTTPRouteGroup")]
    {
        let answer = create(api_version, kind, json!({}));
        assert_eq!(refusal(&answer), format!("unknown gvk: {api_version}, Kind={kind}"));
    }
}

#[test]
fn open_service_meshs_rules_come_first_in_its_order() {
    let mut matches = vec![by(POLICY, "UpstreamTrafficSetting", "s"); 2];
    matches.resize(12, by(ROUTES, "HTTPRouteGroup", "g"));
    matches[11] = by("b", "B", "b");
    matches[2] = by(ROUTES, "A", "a");
    let answer = create(POLICY, "Egress", egress(json!({ "matches": matches, "hosts": ["not a name"] })));
    let parts: Vec<&str> = refusal(&answer).split("; ").collect();
    let expected = [
        "Expected 'matches.kind' for match 'a' to be 'HTTPRouteGroup'",
        "Expected 'matches.apiGroup' to be one of",
        "Cannot have more than 1 UpstreamTrafficSetting match",
        "spec.hosts[0]: ",
    ];
    assert_eq!(parts.len(), expected.len(), "{parts:#?}");
    for (part, expected) in parts.iter().zip(expected) {
        assert!(part.starts_with(expected), "{parts:#?}");
    }
}

#[test]
fn problems_are_refused_with_their_fields() {
    let annotated = |name: &str, value: &str| {
        let mut object = object(egress(json!({})));
        object["metadata"]["annotations"] = json!({ name: value });
        object
    };
    let matches = |part: Value| {
        let mut one = json!({ "name": "m" });
        for (key, value) in part.as_object().into_iter().flatten() {
            one[key] = value.clone();
        }
        object(json!({ "matches": [one] }))
    };
    let mesh = |traffic: Value| {
        let metadata = json!({ "name": "osm-mesh-config", "namespace": "osm-system" });
        json!({ "metadata": metadata, "spec": { "traffic": traffic } })
    };
    let cases = [
        (
            POLICY,
            "Egress",
            object(egress(json!({ "hosts": ["a.org", "https://b.org/x"] }))),
            "spec.hosts[1]: ",
        ),
        (POLICY, "Egress", object(egress(json!({ "ipAddresses": ["10.0.0.1"] }))), "spec.ipAddresses[0]: "),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "ports": [{ "number": 80, "protocol": "udp" }] }))),
            "spec.ports[0].protocol: ",
        ),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "ports": [{ "number": 0, "protocol": "tcp" }] }))),
            "spec.ports[0].number: ",
        ),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "hosts": null }))),
            "spec.hosts: the list is present but empty",
        ),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "matches": [] }))),
            "spec.matches: the list is present but empty",
        ),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "sources": [{ "kind": "User", "name": "a", "namespace": "n" }] }))),
            "spec.sources[0].kind: ",
        ),
        (
            POLICY,
            "Egress",
            object(egress(json!({ "host": "a.org" }))),
            "spec.host: unknown field `host` (did you mean `hosts`?)",
        ),
        (
            POLICY,
            "Egress",
            annotated("openservicemesh.io/egress-upgrades", "h2c"),
            "metadata.annotations[\"openservicemesh.io/egress-upgrades\"]: ",
        ),
        (
            POLICY,
            "Egress",
            annotated("openservicemesh.io/egress-ech", "yes"),
            "metadata.annotations[\"openservicemesh.io/egress-ech\"]: ",
        ),
        (ROUTES, "HTTPRouteGroup", matches(json!({ "pathRegex": "(" })), "spec.matches[0].pathRegex: "),
        (ROUTES, "HTTPRouteGroup", matches(json!({ "methods": ["GETT"] })), "spec.matches[0].methods[0]: "),
        (
            ROUTES,
            "HTTPRouteGroup",
            matches(json!({ "headers": [{ "x-a": "[" }] })),
            "spec.matches[0].headers[0]: ",
        ),
        (
            ROUTES,
            "HTTPRouteGroup",
            matches(json!({ "headers": [{ "x-a": "b", "x-c": "d" }] })),
            "spec.matches[0].headers",
        ),
        (
            POLICY,
            "UpstreamTrafficSetting",
            object(json!({ "host": "a.org", "connectionSettings": { "tcp": { "connectTimeout": "soon" } } })),
            "spec.connectionSettings.tcp.connectTimeout: ",
        ),
        (
            MESH,
            "MeshConfig",
            mesh(json!({ "outboundPortExclusionList": [0] })),
            "spec.traffic.outboundPortExclusionList[0]: ",
        ),
        (
            MESH,
            "MeshConfig",
            mesh(json!({ "outboundIPRangeExclusionList": ["x"] })),
            "spec.traffic.outboundIPRangeExclusionList[0]: ",
        ),
    ];
    for (api_version, kind, object, expected) in cases {
        let answer = validate(&Store::default(), review_of(api_version, kind, object, None));
        let text = refusal(&answer);
        assert!(text.starts_with(expected) && !text.contains("until then"), "{expected}: {text}");
    }
}

/// Problems that other objects may resolve, and oddities, cause warnings.
#[test]
fn problems_of_other_objects_only_warn() {
    let named = |name| egress(json!({ "matches": [by(ROUTES, "HTTPRouteGroup", name)] }));
    let routes = |regex: &str| {
        format!(
            "apiVersion: {ROUTES}\nkind: HTTPRouteGroup\nmetadata: {{name: g, namespace: n}}\nspec: {{matches: [{{name: m, pathRegex: '{regex}'}}]}}"
        )
    };
    let of = |store: &Store, spec| validate(store, review_of(POLICY, "Egress", object(spec), None));
    let (good, bad) = (store(&[&routes("/a")]), store(&[&routes("(")]));
    for (case, answer, expected) in [
        (
            "missing",
            of(&Store::default(), named("g")),
            &["spec.matches[0]: there is no HTTPRouteGroup n/g"][..],
        ),
        ("there", of(&good, named("g")), &[]),
        ("wrong", of(&bad, named("g")), &["spec.matches[0]: HTTPRouteGroup n/g is invalid"]),
        (
            "hosts of tcp",
            of(&good, egress(json!({ "ports": [{ "number": 1, "protocol": "tcp" }] }))),
            &["spec.ports[0].protocol: hosts are ignored for protocol `tcp`"],
        ),
    ] {
        assert!(answer.allowed, "{case}: {answer:?}");
        assert_eq!(warnings(&answer), expected, "{case}");
    }
    // An API server may cut what is longer.
    let long = create(
        POLICY,
        "Egress",
        egress(json!({ "matches": [by(ROUTES, "HTTPRouteGroup", &"g".repeat(500))] })),
    );
    assert!(warnings(&long)[0].chars().count() == MAX_WARNING_LENGTH, "{long:?}");
}

#[test]
fn global_egress_warns_of_the_policies_it_overrides() {
    let policy = |name: &str, host: &str| {
        format!(
            "apiVersion: {POLICY}\nkind: Egress\nmetadata: {{name: {name}, namespace: n}}\nspec: {{sources: [{{kind: ServiceAccount, name: a, namespace: n}}], hosts: ['{host}'], ports: [{{number: 80, protocol: http}}]}}"
        )
    };
    let known = store(&[&policy("p", "a.org"), &policy("q", "b.org"), &policy("bad", "not a name")]);
    let config = |namespace: &str, open: bool| json!({ "metadata": { "name": "osm-mesh-config", "namespace": namespace }, "spec": { "traffic": { "enableEgress": open } } });
    let patched = |namespace: &str, old: bool, new: bool| {
        let review = review_of(MESH, "MeshConfig", config(namespace, new), Some(config(namespace, old)));
        let answer = validate(&known, review);
        assert!(answer.allowed, "{answer:?}");
        warnings(&answer).join("; ")
    };
    let expected =
        "spec.traffic.enableEgress: all egress is allowed: 2 Egress policies do not apply while this is true";
    assert_eq!(patched("osm-system", false, true), expected);
    assert_eq!(patched("osm-system", true, false), "");
    assert_eq!(patched("other", false, true), "metadata.name: this MeshConfig is ignored");
}

/// An object that was invalid before the webhook existed can still be labelled and deleted.
#[test]
fn unchanged_specs_are_not_judged() {
    let bad = object(egress(json!({ "hosts": ["not a name"] })));
    let with = |path: &[&str], value: Value| {
        let mut object = bad.clone();
        let mut slot = &mut object;
        for key in path {
            slot = &mut slot[*key];
        }
        *slot = value;
        object
    };
    let updated =
        |new: Value| validate(&Store::default(), review_of(POLICY, "Egress", new, Some(bad.clone())));
    for (case, new) in [
        ("a label", with(&["metadata", "labels"], json!({ "a": "b" }))),
        ("no finalizers", with(&["metadata", "finalizers"], json!([]))),
        ("another's annotation", with(&["metadata", "annotations"], json!({ "a": "b" }))),
        ("a status", with(&["status"], json!({ "conditions": [] }))),
        ("on its way out", with(&["metadata", "deletionTimestamp"], json!("2024-01-01T00:00:00Z"))),
    ] {
        assert!(updated(new).allowed, "{case}");
    }
    assert!(!updated(with(&["spec", "hosts"], json!(["still not a name"]))).allowed);
    assert!(
        !updated(with(&["metadata", "annotations"], json!({ "openservicemesh.io/egress-ech": "x" }))).allowed
    );
    for (operation, part) in [("DELETE", ""), ("CONNECT", ""), ("UPDATE", "status")] {
        let mut review = review_of(POLICY, "Egress", bad.clone(), None);
        review["request"]["operation"] = json!(operation);
        review["request"]["subResource"] = json!(part);
        assert!(validate(&Store::default(), review).allowed, "{operation} {part}");
    }
}

#[test]
fn an_object_without_a_generated_name_is_judged() {
    let mut nameless = object(egress(json!({})));
    nameless["metadata"] = json!({ "generateName": "p-" });
    let answer = validate(&Store::default(), review_of(POLICY, "Egress", nameless, None));
    assert!(answer.allowed, "{answer:?}");
}

/// Nothing over a budget is compiled, so the answer comes at once.
#[test]
fn too_large_objects_are_refused_at_once() {
    let hosts: Vec<String> = (0..3000).map(|n| format!("h{n}.org")).collect();
    let ports: Vec<Value> = (1..=3000).map(|n| json!({ "number": n, "protocol": "https" })).collect();
    let start = std::time::Instant::now();
    let square = create(POLICY, "Egress", egress(json!({ "hosts": hosts, "ports": ports })));
    assert_eq!(
        refusal(&square),
        "spec: 9000000 names and address blocks (counted per port) exceed the limit of 250000 \
         (list fewer ports or hosts, or use a wildcard such as `*.example.com`)"
    );
    let source = |n: usize| json!({ "kind": "ServiceAccount", "name": format!("a{n}"), "namespace": "n" });
    let sources: Vec<Value> = (0..1000).map(source).collect();
    let ports: Vec<Value> = (1..4097).map(|n| json!({ "number": n, "protocol": "tcp" })).collect();
    let wide = create(POLICY, "Egress", egress(json!({ "sources": sources, "ports": ports })));
    assert_eq!(
        refusal(&wide),
        "spec: 4096000 rules (counted per source; a cluster counts as four) exceed the limit of 300000 \
         (list fewer sources, ports or hosts)"
    );
    let long = "a?".repeat(4096);
    let group = create(ROUTES, "HTTPRouteGroup", json!({ "matches": [{ "name": "m", "pathRegex": long }] }));
    assert_eq!(
        refusal(&group),
        "spec.matches[0].pathRegex: 8192 bytes in one pattern exceed the limit of 4096 \
         (split the pattern into several matches)"
    );
    let bad: Vec<String> = (0..100_000).map(|n| format!("!{n}")).collect();
    let many = create(POLICY, "Egress", egress(json!({ "hosts": bad })));
    assert!(refusal(&many).len() < 20_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

fn annotated(name: &str, namespace: &str, annotations: Value) -> Value {
    json!({ "metadata": { "name": name, "namespace": namespace, "annotations": annotations } })
}

/// Users who may edit a namespace may annotate its service accounts, and must not open a workload by that.
#[test]
fn a_service_account_only_tightens_its_mode() {
    let mesh = |on: bool| {
        format!(
            "apiVersion: {MESH}\nkind: MeshConfig\nmetadata: {{name: osm-mesh-config, namespace: osm-system}}\n\
             spec: {{traffic: {{enableEgress: {on}}}}}"
        )
    };
    let namespace = |annotations: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n, annotations: {{{annotations}}}}}")
    };
    let delegation = "openservicemesh.io/egress-mode-delegation: service-accounts";
    for (case, known, mode, allowed) in [
        ("nothing is known", vec![], "passthrough", false),
        ("as strict as the mesh", vec![mesh(true)], "passthrough", true),
        ("stricter than the mesh", vec![mesh(true)], "enforce", true),
        ("looser than the mesh", vec![mesh(false)], "audit", false),
        (
            "looser than its namespace",
            vec![mesh(true), namespace("openservicemesh.io/egress-mode: enforce")],
            "audit",
            false,
        ),
        ("its namespace lets it", vec![mesh(false), namespace(delegation)], "passthrough", true),
        ("no mode", vec![mesh(true)], "off", false),
    ] {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let object = annotated("a", "n", json!({ "openservicemesh.io/egress-mode": mode }));
        let answer = validate(&store(&known), review_of("v1", "ServiceAccount", object, None));
        assert_eq!(answer.allowed, allowed, "{case}: {answer:?}");
    }
    let object = annotated("a", "n", json!({ "openservicemesh.io/egress-mode": "audit" }));
    let answer = validate(&Store::default(), review_of("v1", "ServiceAccount", object.clone(), None));
    let message = refusal(&answer);
    assert!(
        message.contains("`audit` is looser than the `enforce`") && message.contains(delegation),
        "{message}"
    );
    // What was stored before can be changed in other ways, and its mode taken away.
    let mut labelled = object.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    for new in [labelled, annotated("a", "n", json!({}))] {
        assert!(
            validate(&Store::default(), review_of("v1", "ServiceAccount", new, Some(object.clone()))).allowed
        );
    }
}

#[test]
fn a_namespace_is_judged_by_its_annotations_alone() {
    let validate = |annotations: Value| {
        let mut review = review_of("v1", "Namespace", annotated("n", "", annotations), None);
        if let Some(metadata) = review["request"]["object"]["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        validate(&Store::default(), review)
    };
    assert!(validate(json!({})).allowed);
    assert!(validate(json!({ "openservicemesh.io/egress-mode": "audit", "a": "b" })).allowed);
    assert!(
        refusal(&validate(json!({ "openservicemesh.io/egress-mode": "Audit" })))
            .contains("`Audit` is not a mode")
    );
    let answer = validate(json!({ "openservicemesh.io/egress-policy-namespaces": "a,B" }));
    assert!(refusal(&answer).contains("`B` is not a namespace name"), "{answer:?}");
}

/// A Namespace may later permit it, so it is a warning.
#[test]
fn a_source_in_a_foreign_namespace_only_warns() {
    let sources = json!([{ "kind": "ServiceAccount", "name": "a", "namespace": "other" }]);
    let create = |known: &Store| {
        let spec = egress(json!({ "sources": sources }));
        validate(known, review_of(POLICY, "Egress", object(spec), None))
    };
    let answer = create(&Store::default());
    assert!(answer.allowed, "{answer:?}");
    let warned = warnings(&answer).join("; ");
    assert!(warned.starts_with("spec.sources[0]: `other/a` is in another namespace"), "{warned}");
    let permitting = "apiVersion: v1\nkind: Namespace\n\
        metadata: {name: other, annotations: {openservicemesh.io/egress-policy-namespaces: n}}";
    assert_eq!(warnings(&create(&store(&[permitting]))), [""; 0]);
}
