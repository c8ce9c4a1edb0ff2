use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::values::resolve;

const AUTHORITY: &str = "the authority's certificate";

fn render(given: &Value, names: &Names, secrets: TlsSecrets<'_>) -> Vec<Value> {
    let values = resolve(given).expect("valid");
    render_objects(&Input { values: &values, given, names, cluster: &ClusterFacts::default(), secrets })
}

fn names() -> Names {
    Names { mesh: "osm".to_owned(), namespace: "osm-system".to_owned() }
}

fn pem_pair(owner: &str) -> PemPair {
    PemPair { certificate: format!("{owner}'s certificate"), key: format!("{owner}'s key") }
}

fn rendered(given: &Value) -> Vec<Value> {
    let (authority, server) = (pem_pair("the authority"), pem_pair("the server"));
    render(given, &names(), TlsSecrets::Generated { authority: &authority, server: &server })
}

fn find<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

const HEAD: &str = "# The control plane as `osm-egress install` makes it, without definitions (deploy/crds) and certificates.
# To be complete it needs, in this namespace, a Secret `osm-egress-tls` with tls.crt, tls.key and ca.crt for
# osm-egress.osm-system.svc and osm-egress.osm-system.svc.cluster.local, and ca.crt, in base64, as
# `clientConfig.caBundle` of each webhook below. cert-manager fills it in by the annotation
# `cert-manager.io/inject-ca-from`; `osm-egress install` does all of it.
# Rendered: run the test `the_rendered_manifests_are_current` with UPDATE=1.
";

#[test]
fn the_rendered_manifests_are_current() {
    let objects = render(&json!({}), &names(), TlsSecrets::Absent);
    let objects = objects.iter().filter(|object| !ObjectId::from_object(object).is_crd());
    let text: String = objects.map(|object| format!("---\n{}", crds::format_yaml(object))).collect();
    let text = format!("{HEAD}{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/osm-egress.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("a file");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is not current: run this test with UPDATE=1", path.display());
}

/// Every value differs from its default.
#[test]
fn values_reach_their_fields() {
    let mut given = json!({"osm": {
        "enableEgress": true,
        "enablePermissiveTrafficPolicy": false,
        "outboundIPRangeExclusionList": ["10.0.0.0/8"],
        "outboundIPRangeInclusionList": ["192.0.2.0/24"],
        "outboundPortExclusionList": [5432],
        "inboundPortExclusionList": [9100],
        "networkInterfaceExclusionList": ["eth1"],
        "sidecarImage": "registry.example/envoy:1",
        "enablePrivilegedInitContainer": true,
        "envoyLogLevel": "debug",
        "localProxyMode": "PodIP",
        "maxDataPlaneConnections": 9,
        "imagePullSecrets": [{"name": "pull"}],
        "controlPlaneTolerations": [{"operator": "Exists"}],
        "egress": {
            "image": "registry.example/osm-egress:1",
            "imagePullPolicy": "Always",
            "initImage": "registry.example/init:1",
            "replicas": 3,
            "moduleDelivery": "file:/egress_filter.wasm",
            "resources": {"limits": {"cpu": "2"}},
            "nodeSelector": {"a": "b"},
            "httpDenyStatus": 404,
            "neverResolveTo": ["10.1.0.0/16", "10.2.0.0/16"],
            "policyNamespaces": ["platform", "security"],
            "nat64Prefixes": ["2001:db8:64::/96"],
            "podDns": "refuse",
            "dnsResolvers": ["10.96.0.10:53"],
            "ipFamilies": "ipv4",
            "podAnnotations": "tighten",
            "flowLog": true,
            "flowsPerIdentity": 500,
            "apiServerPorts": [8443],
            "apiServerCIDRs": ["192.0.2.1/32", "2001:db8::/64"],
            "webhookTimeoutSeconds": 5,
            "webhookClientCaSecret": "api-server",
            "webhookClientNames": ["api-server-webhook-client"],
            "consoleTokenSecret": "console-token",
        },
    }});
    // The macro has a recursion limit, so the rest is added here.
    for (key, value) in [
        ("idleTimeout", json!("2h")),
        ("upstreamIdleTimeout", json!("30s")),
        ("allowCustomMethods", json!(true)),
        ("nativeSidecar", json!("enabled")),
        ("cni", json!(true)),
        ("cniBinDir", json!("/usr/libexec/cni")),
        ("cniConfDir", json!("/etc/cni/other.d")),
        ("cniExcludeNamespaces", json!(["monitoring", "kube-system"])),
    ] {
        given["osm"]["egress"][key] = value;
    }
    let objects = rendered(&given);
    let chosen: Vec<&Value> = ["MeshConfig", "Deployment", "NetworkPolicy", "DaemonSet"]
        .iter()
        .map(|kind| find(&objects, kind))
        .collect();
    insta::assert_yaml_snapshot!(chosen);
    let without = rendered(&json!({"osm": {"egress": {"networkPolicy": false}}}));
    assert!(without.iter().all(|object| object["kind"] != "NetworkPolicy"));
}

#[test]
fn everything_is_in_the_namespace_of_the_mesh() {
    let names = Names { mesh: "other".to_owned(), namespace: "elsewhere".to_owned() };
    let objects = render(&json!({}), &names, TlsSecrets::External { authority: AUTHORITY });
    let text = serde_json::to_string(&objects).expect("JSON");
    assert!(!text.contains("osm-system"), "{text}");
    assert_eq!(find(&objects, "MutatingWebhookConfiguration")["metadata"]["name"], "osm-egress-other");
    assert!(objects.iter().all(|object| object["kind"] != "Secret"));
    for object in objects.iter().filter(|object| !ObjectId::from_object(object).is_crd()) {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], "other", "{object}");
    }
}

#[test]
fn objects_refer_to_earlier_ones_only() {
    let objects = rendered(&json!({}));
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    let at = |kind: &str| kinds.iter().position(|k| *k == kind).unwrap_or_else(|| panic!("no {kind}"));
    let order = [
        "Namespace",
        "CustomResourceDefinition",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
        "Secret",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "MeshConfig",
        "Deployment",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{kinds:?}");
    assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), order.len(), "{kinds:?}");
    let ids: BTreeSet<ObjectId> = objects.iter().map(ObjectId::from_object).collect();
    assert_eq!(ids.len(), objects.len());
    let possible: BTreeSet<ObjectId> =
        super::possible_ids(&names(), &ClusterFacts::default()).into_iter().collect();
    assert!(possible.is_superset(&ids));
    // With every optional object.
    let given = json!({"osm": {"egress": {"consoleTokenSecret": "a", "cni": true}}});
    let values = resolve(&given).expect("valid");
    let cluster = &ClusterFacts { has_admission_policies: true, ..ClusterFacts::default() };
    let (authority, server) = (pem_pair("the authority"), pem_pair("the server"));
    let secrets = TlsSecrets::Generated { authority: &authority, server: &server };
    let all = render_objects(&Input { values: &values, given: &given, names: &names(), cluster, secrets });
    assert_eq!(all.iter().map(ObjectId::from_object).collect::<BTreeSet<_>>(), possible);
}

/// The control plane may write the objects of the console only if the console writes.
#[test]
fn write_permissions_need_a_writing_console() {
    let allows = |given: &Value| -> Vec<String> {
        let verbs = |rule: &Value| {
            let of = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
            let resources = of("resources");
            of("verbs").into_iter().flat_map(move |verb| {
                resources.clone().into_iter().map(move |resource| {
                    format!("{} {}", verb.as_str().unwrap_or_default(), resource.as_str().unwrap_or_default())
                })
            })
        };
        let objects = rendered(given);
        let rules = objects.iter().flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default());
        let allowed = rules.flat_map(|rule| verbs(&rule).collect::<Vec<_>>());
        allowed.filter(|rule| rule.ends_with(" meshconfigs") || rule.ends_with(" egresses")).collect()
    };
    let usual = ["list meshconfigs", "watch meshconfigs", "list egresses", "watch egresses"];
    assert_eq!(allows(&json!({})), usual);
    let writes = allows(&json!({"osm": {"egress": {"consoleTokenSecret": "a"}}}));
    assert_eq!(writes, [&usual[..], &["patch meshconfigs", "create egresses"]].concat());
    let text = serde_json::to_string(&rendered(&json!({}))).expect("JSON");
    assert!(!text.contains("console"), "{text}");
}

#[test]
fn the_control_plane_has_least_privileges() {
    let objects = rendered(&json!({}));
    let pod = &find(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert!(pod.get("hostNetwork").is_none() && pod.get("hostPID").is_none());
    for container in pod["containers"].as_array().expect("containers") {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
        assert!(container["resources"]["limits"]["memory"].is_string());
        assert!(
            container["volumeMounts"]
                .as_array()
                .expect("mounts")
                .iter()
                .all(|mount| mount["readOnly"] == true)
        );
    }
    // The authority's key is in a secret that no pod mounts.
    assert!(!pod.to_string().contains(CA_SECRET));
    for object in &objects {
        let everything = |list: &Value| list.as_array().is_some_and(|list| list.contains(&json!("*")));
        for rule in object["rules"].as_array().into_iter().flatten() {
            assert!(!["verbs", "resources", "apiGroups"].iter().any(|key| everything(&rule[key])), "{rule}");
            assert!(!rule["resources"].as_array().expect("resources").contains(&json!("secrets")), "{rule}");
        }
    }
}

#[test]
fn webhooks_fail_closed_and_trust_the_authority() {
    let objects = rendered(&json!({}));
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        for webhook in find(&objects, kind)["webhooks"].as_array().expect("webhooks") {
            // The advisory webhooks fail open: service accounts, deletions of policies and workloads must not wait for them.
            let name = webhook["name"].as_str().unwrap_or_default();
            let is_advice = ADVISORY_WEBHOOKS.contains(&name);
            assert_eq!(webhook["failurePolicy"], if is_advice { "Ignore" } else { "Fail" });
            let rules = webhook["rules"].to_string();
            let wide = ["serviceaccounts", "DELETE", "deployments"];
            assert_eq!(wide.iter().any(|word| rules.contains(word)), is_advice, "{rules}");
            assert_eq!(webhook["sideEffects"], "None");
            let bundle = json!({ "data": { "bundle": webhook["clientConfig"]["caBundle"] } });
            assert_eq!(decode_secret_key(&bundle, "bundle").as_deref(), Some(AUTHORITY));
        }
    }
}

/// Only where the API server has them, and never more than is asked for.
#[test]
fn admission_policies_deny_what_is_asked_for() {
    let policies = |mode: &str, has_admission_policies: bool| -> Vec<Value> {
        let given = json!({"osm": {"egress": {"admissionPolicy": mode}}});
        let values = resolve(&given).expect("valid");
        let cluster = &ClusterFacts { has_admission_policies, ..ClusterFacts::default() };
        let secrets = TlsSecrets::External { authority: AUTHORITY };
        let input = Input { values: &values, given: &given, names: &names(), cluster, secrets };
        let objects = render_objects(&input).into_iter();
        objects
            .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.contains("AdmissionPolicy")))
            .collect()
    };
    assert_eq!(policies("explicit", false), [] as [Value; 0]);
    assert_eq!(policies("off", true), [] as [Value; 0]);
    for (mode, expected) in
        [("warn", ["Warn", "Warn"]), ("explicit", ["Deny", "Warn"]), ("strict", ["Deny", "Deny"])]
    {
        let objects = policies(mode, true);
        let actions: Vec<&Value> =
            objects.iter().filter_map(|object| object["spec"].get("validationActions")).collect();
        assert_eq!(actions, [&json!([expected[0]]), &json!([expected[1]])], "{mode}");
        for object in &objects {
            let expressions = object["spec"]["validations"].as_array().cloned().unwrap_or_default();
            for expression in expressions.iter().filter_map(|rule| rule["expression"].as_str()) {
                for (open, close) in [('(', ')'), ('[', ']')] {
                    let count = |c: char| expression.matches(c).count();
                    assert_eq!(count(open), count(close), "{expression}");
                }
                assert!(!expression.contains('\n') && !expression.contains("  "), "{expression}");
            }
        }
    }
}

#[test]
fn a_patch_holds_the_given_values_that_differ() {
    let existing = json!({"spec": {"traffic": {"enableEgress": false, "outboundPortExclusionList": [1]}}});
    let given = json!({"osm": {"enableEgress": true, "outboundPortExclusionList": [1], "envoyLogLevel": "off",
        "sidecarImage": "x"}});
    assert_eq!(
        patch_for(&given, &existing),
        Some(json!({"spec": {"traffic": {"enableEgress": true}, "sidecar": {"logLevel": "off"}}}))
    );
    assert_eq!(patch_for(&json!({"osm": {"enableEgress": false}}), &existing), None);
}

#[test]
fn permissions_of_the_role_are_listed() {
    let rules = list_permissions(&names());
    assert!(rules.iter().any(|rule| rule.to_string() == "patch egresses/status.policy.openservicemesh.io"));
    assert!(rules.iter().any(|rule| rule.name.as_deref() == Some("osm-mesh-config")));
    assert!(rules.len() > 10, "{rules:?}");
}

/// The Deployment's user, entry point and files are those of the Dockerfile.
#[test]
fn the_deployment_matches_the_dockerfile() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Dockerfile");
    let text = std::fs::read_to_string(path).expect("Dockerfile");
    let (_, shim) = text.split_once(" AS shim\n").expect("a target shim");
    let (shim, _) = shim.split_once("\nFROM").expect("an end");
    let objects = rendered(&json!({}));
    let pod = &find(&objects, "Deployment")["spec"]["template"]["spec"];
    let user = &pod["securityContext"]["runAsUser"];
    assert!(shim.contains(&format!("USER {user}:{user}")), "{shim}");
    assert!(
        shim.contains("ENTRYPOINT [\"/osm-egress\"]") && shim.contains("/egress_filter.wasm /\n"),
        "{shim}"
    );
    assert!(pod["containers"][0]["args"].to_string().contains("--wasm=/egress_filter.wasm"));
    assert!(text.contains(" AS init\n"));
}

/// The pods satisfy the profile `restricted` of the Pod Security Standards, which the namespace enforces.
#[test]
fn the_pods_satisfy_the_restricted_profile() {
    let everything = json!({"osm": {"egress": {"flowLog": true, "consoleTokenSecret": "console-token"}}});
    for given in [json!({}), everything] {
        let objects = rendered(&given);
        let labels = &find(&objects, "Namespace")["metadata"]["labels"];
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
        let spec = &find(&objects, "Deployment")["spec"]["template"]["spec"];
        for shared in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
            assert!(spec[shared].is_null());
        }
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_ne!(spec["securityContext"]["runAsUser"], 0);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for volume in spec["volumes"].as_array().expect("a list") {
            let kinds = volume.as_object().expect("a volume").keys().filter(|key| *key != "name");
            assert!(
                kinds.into_iter().all(|kind| ["secret", "emptyDir"].contains(&kind.as_str())),
                "{volume}"
            );
        }
        assert!(spec["initContainers"].is_null());
        for container in spec["containers"].as_array().expect("a list") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
            assert!(context["privileged"].is_null() && context["runAsUser"].is_null());
            let ports = container["ports"].as_array().expect("a list");
            assert!(ports.iter().all(|port| port["hostPort"].is_null()));
        }
    }
}

#[test]
fn images_can_be_referenced_by_digest() {
    let sum = "0123456789abcdef".repeat(4);
    let image = |name: &str| format!("registry.example/{name}:1@sha256:{sum}");
    let given = json!({"osm": {"sidecarImage": image("envoy"), "egress": {
        "image": image("shim"), "initImage": image("init"),
    }}});
    let values = crate::values::resolve(&given).expect("valid");
    assert_eq!(values.images_without_digest(), [""; 0]);
    let objects = rendered(&given);
    let container = &find(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], image("shim"));
    let arguments = container["args"].to_string();
    assert!(arguments.contains(&image("envoy")) && arguments.contains(&image("init")), "{arguments}");
    let values = crate::values::resolve(&json!({})).expect("valid");
    assert_eq!(values.images_without_digest().len(), 3);
}

/// The plugin's permissions are the least that work: it runs on every node.
#[test]
fn the_cni_plugin_gets_what_it_needs_and_no_more() {
    let objects = rendered(&json!({"osm": {"egress": {"cni": true}}}));
    let of = |kind: &str| -> Vec<&Value> {
        let own = |object: &&Value| {
            object["kind"] == kind
                && object["metadata"]["name"].as_str().unwrap_or_default().ends_with("-cni")
        };
        objects.iter().filter(own).collect()
    };
    assert_eq!(
        of("ClusterRole")[0]["rules"],
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
    );
    assert_eq!(of("Namespace")[0]["metadata"]["name"], "osm-system-cni");
    let spec = &of("DaemonSet")[0]["spec"]["template"]["spec"];
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(spec[shared].is_null());
    }
    let context = &spec["containers"][0]["securityContext"];
    assert_eq!(
        (&context["privileged"], &context["capabilities"]),
        (&json!(false), &json!({"drop": ["ALL"]}))
    );
    let arguments = spec["containers"][0]["args"].to_string();
    assert!(
        arguments.contains(
            "--exclude-namespaces=kube-system,kube-public,kube-node-lease,osm-system,osm-system-cni"
        ),
        "{arguments}"
    );
    // The namespace of the control plane stays restricted.
    let labels = &find(&objects, "Namespace")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    let without = rendered(&json!({}));
    assert!(without.iter().all(|object| object["kind"] != "DaemonSet"));
}

#[test]
fn native_sidecars_follow_the_nodes_unless_chosen() {
    for (chosen, nodes, expected) in
        [("auto", true, true), ("auto", false, false), ("enabled", false, true), ("disabled", true, false)]
    {
        let given = json!({"osm": {"egress": {"nativeSidecar": chosen}}});
        let cluster = ClusterFacts { native_sidecars: nodes, ..ClusterFacts::default() };
        let values = resolve(&given).expect("valid");
        let secrets = TlsSecrets::External { authority: AUTHORITY };
        let objects = render_objects(&Input {
            values: &values,
            given: &given,
            names: &names(),
            cluster: &cluster,
            secrets,
        });
        let arguments = &find(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
        let found = arguments.as_array().is_some_and(|all| all.contains(&json!(NATIVE_FLAG)));
        assert_eq!(found, expected, "{chosen} {nodes}");
    }
}
