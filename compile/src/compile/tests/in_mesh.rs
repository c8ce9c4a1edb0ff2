//! Services of the mesh.

use egress_policy::{InMesh, Port};

use super::*;
use crate::manifest::spec::Backends;
use crate::manifest::{self, Body};
use crate::store::Change;

const MESH: &str = "---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {openservicemesh.io/monitored-by: another-mesh}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00::1']
  selector: {app: cart}
  ports: [{name: web, port: 80, targetPort: 8080}, {port: 9090}, {port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: pods, namespace: shop}
spec: {clusterIP: None, selector: {app: till}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pods-x, namespace: shop, labels: {kubernetes.io/service-name: pods}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.7], statuses: {ready: true}}, {addresses: [10.244.0.8]}]
ports: [{port: 8080, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: other}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {replicas: 1, template: {metadata: {labels: {app: cart, v: '1'}}, spec: {serviceAccountName: cart, containers: []}}}
---
apiVersion: v1
kind: Pod
metadata: {name: till, namespace: shop, labels: {app: till}}
spec: {containers: []}
";

fn mesh_config(permissive: bool) -> String {
    format!(
        "---\napiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
         metadata: {{name: osm-mesh-config, namespace: osm-system}}\n\
         spec: {{traffic: {{enablePermissiveTrafficPolicyMode: {permissive}}}}}\n"
    )
}

fn target(destination: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\n\
         metadata: {{name: t, namespace: shop}}\n\
         spec: {{destination: {{kind: ServiceAccount, {destination}}}, \
         sources: [{{kind: ServiceAccount, name: app, namespace: n}}], rules: [{rules}]}}\n"
    )
}

fn seen(text: &str) -> Vec<String> {
    let compiled = compiled(text);
    compiled.document(&identity("n/app")).in_mesh.iter().map(entry).collect()
}

fn entry(service: &InMesh) -> String {
    let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
    let ports: Vec<_> = service.ports.iter().map(ToString::to_string).collect();
    let verdict = if service.allowed { "allowed" } else { "refused" };
    format!("{} {} {} {verdict}", service.service, addresses.join(","), ports.join(","))
}

#[test]
fn permissive_mode_allows_every_service() {
    for (text, verdict) in [
        (MESH.to_owned() + &mesh_config(true), "allowed"),
        (MESH.to_owned() + &mesh_config(false), "refused"),
    ] {
        let expected = [
            format!("shop/cart 10.96.0.1,fd00::1 80,9090 {verdict}"),
            format!("shop/pods 10.244.0.7,10.244.0.8 8080 {verdict}"),
        ];
        assert_eq!(seen(&text), expected);
    }
    assert!(seen("").is_empty());
}

#[test]
fn traffic_targets_allow_by_account_and_port() {
    const ROUTES: &str = "{kind: HTTPRouteGroup, name: any, matches: [all]}";
    let refused = ["shop/cart 10.96.0.1,fd00::1 80,9090 refused"];
    for (destination, rules, expected) in [
        ("name: cart, namespace: shop", ROUTES, vec!["shop/cart 10.96.0.1,fd00::1 80,9090 allowed"]),
        ("name: cart", ROUTES, vec!["shop/cart 10.96.0.1,fd00::1 80,9090 allowed"]),
        (
            "name: cart, namespace: shop, port: 80",
            ROUTES,
            vec!["shop/cart 10.96.0.1,fd00::1 80 allowed", "shop/cart 10.96.0.1,fd00::1 9090 refused"],
        ),
        ("name: cart, namespace: shop", "", refused.to_vec()),
        ("name: till, namespace: shop", ROUTES, refused.to_vec()),
        ("name: cart, namespace: shop, port: 0", ROUTES, refused.to_vec()),
    ] {
        let found = seen(&(MESH.to_owned() + &target(destination, rules)));
        assert_eq!(found[..found.len() - 1], expected, "{destination}: {rules}");
    }
    // Pods that name no service account have the one called `default`.
    let found = seen(&(MESH.to_owned() + &target("name: default", ROUTES)));
    assert_eq!(found[1], "shop/pods 10.244.0.7,10.244.0.8 8080 allowed");
}

#[test]
fn invalid_traffic_targets_grant_nothing() {
    let rules = "{kind: HTTPRouteGroup, name: any}";
    for (text, expected) in [
        (target("name: cart, port: 70000", rules), "`70000` is not a port"),
        (target("name: Cart", rules), "`Cart` is not a Kubernetes name"),
        (
            target("name: cart, namespace: other", rules),
            "spec.destination.namespace: `other/cart` is in another namespace, so the target grants nothing",
        ),
        (target("name: cart", ""), "there are no rules, so the target grants nothing"),
        (
            target("name: cart", rules).replace("sources: [{kind: ServiceAccount", "sources: [{kind: Pod"),
            "subject kind `Pod` is not supported",
        ),
    ] {
        let output = diagnostics(&compiled(&text));
        assert!(output.contains(expected), "{output}");
    }
}

/// The services of a text with the backends that a cluster's source found for one of them.
fn seen_with(name: &str, backends: &Backends) -> (Vec<String>, String) {
    let text = MESH.to_owned() + &mesh_config(true);
    let mut parsed = manifest::parse(&"a.yaml".into(), text.as_bytes()).expect("manifests");
    for object in &mut parsed.objects {
        let mut changed = Object::clone(object);
        if let Body::Service(service) = &mut changed.body
            && object.reference.name == name
        {
            service.backends = Some(backends.clone());
        }
        *object = Arc::new(changed);
    }
    let mut store = Store::default();
    store.apply(FileUpdate { file: "a.yaml".into(), change: Change::Read(parsed) });
    let compiled = compile(&store, &CompileOptions::default(), None);
    let document = compiled.document(&identity("n/app"));
    (document.in_mesh.iter().map(entry).collect(), diagnostics(&compiled))
}

/// Nodes route the address of a service to its endpoints, so it is in the mesh only if all of them are.
#[test]
fn a_service_with_untrusted_endpoints_is_egress() {
    let pods = "shop/pods 10.244.0.7,10.244.0.8 8080 allowed";
    let untrusted_reason = || Some("EndpointSlice `x` has `198.51.100.7`".to_owned());
    let own = Backends::default();
    assert_eq!(seen_with("cart", &own).0, ["shop/cart 10.96.0.1,fd00::1 80,9090 allowed", pods]);
    let (services, output) =
        seen_with("cart", &Backends { untrusted_reason: untrusted_reason(), ..own.clone() });
    assert_eq!(services, [pods]);
    let expected = "its cluster address is not in the mesh, so egress policy applies to connections there: \
                    EndpointSlice `x` has `198.51.100.7`";
    assert!(output.contains("Service shop/cart") && output.contains(expected), "{output}");
    // The pods among the endpoints of a headless service are in the mesh all the same.
    let address = "10.244.0.7".parse().expect("an address");
    let endpoints = vec![(vec![address], vec![Port::new(8080).expect("a port")])];
    let (services, output) =
        seen_with("pods", &Backends { untrusted_reason: untrusted_reason(), endpoints, ..own });
    assert_eq!(services[1], "shop/pods 10.244.0.7 8080 allowed");
    assert!(
        output.contains("Service shop/pods") && output.contains("some of its endpoints are not"),
        "{output}"
    );
}

#[test]
fn an_alias_is_not_a_destination() {
    let alias = MESH.replace("type: ClusterIP", "type: ExternalName");
    assert_eq!(seen(&(alias + &mesh_config(true))), ["shop/pods 10.244.0.7,10.244.0.8 8080 allowed"]);
}

/// The author of a service must not fill the sidecars of others.
#[test]
fn a_service_with_too_many_destinations_is_egress() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\n\
                     metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}\n";
    let service = |name: &str, address: &str, count: u16| {
        let ports: Vec<String> = (1..=count).map(|port| format!("{{port: {port}}}")).collect();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: {address}, ports: [{}]}}\n",
            ports.join(", ")
        )
    };
    let names = |text: &str| {
        let compiled = compiled(text);
        let document = compiled.document(&identity("n/app"));
        let names: Vec<String> = document.in_mesh.iter().map(|service| service.service.clone()).collect();
        (names, diagnostics(&compiled))
    };
    let text = namespace.to_owned() + &service("a", "10.96.0.1", 10_000) + &service("b", "10.96.0.2", 10_001);
    let (found, output) = names(&text);
    assert_eq!(found, ["shop/a"]);
    assert!(
        output.contains(
            "its 10001 destinations (addresses times ports) exceed the limit of 10000 for a service"
        ),
        "{output}"
    );
    let mut text = namespace.to_owned();
    for n in 0..7 {
        text += &service(&format!("s{n}"), &format!("10.96.0.{n}"), if n == 6 { 1 } else { 9_999 });
    }
    let (found, output) = names(&text);
    assert_eq!(found, ["shop/s0", "shop/s1", "shop/s2", "shop/s3", "shop/s4", "shop/s6"]);
    assert!(output.contains("exceed the limit of 50000 for a namespace"), "{output}");
}

/// One TrafficTarget with thousands of sources costs one view of the services.
#[test]
fn sources_of_a_target_share_one_view() {
    let source = |n: usize| format!("{{kind: ServiceAccount, name: a{n}, namespace: n}}");
    let sources: Vec<String> = (0..1000).map(source).collect();
    let rules = "{kind: HTTPRouteGroup, name: any}";
    let target = target("name: cart", rules)
        .replace("{kind: ServiceAccount, name: app, namespace: n}", &sources.join(", "));
    let compiled = compiled(&(MESH.to_owned() + &target));
    let services = |name: &str| Arc::clone(&compiled.document(&identity(name)).in_mesh);
    assert!(services("n/a0")[0].allowed);
    assert!(Arc::ptr_eq(&services("n/a0"), &services("n/a999")));
    assert!(!services("n/other")[0].allowed);
}
