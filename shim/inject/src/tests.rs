use egress_compile::manifest::spec::{MeshConfig, Sidecar, Traffic};
use egress_compile::manifest::yaml;
use insta::assert_yaml_snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use egress_envoy::IpFamilies;

mod manifests;
mod pod_security;
mod reviews;
mod workloads;

fn settings() -> Settings {
    let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let authority = Authority::from_pem(pem).expect("a certificate");
    Settings {
        sidecar_image: "envoyproxy/envoy:v1.40.0".to_owned(),
        init_image: "osm-egress/init:0.1.0".to_owned(),
        xds_host: "osm-egress.osm-system.svc".to_owned(),
        xds_port: 15128,
        xds_ca: Some(authority),
        token_audience: "osm-egress".to_owned(),
        ip_families: IpFamilies::Dual,
        concurrency: 2,
        native_sidecar: false,
        cni: false,
        pod_annotations: PodAnnotations::All,
        pod_dns: PodDns::Warn,
    }
}

fn value(text: &str) -> Value {
    yaml::parse(text).expect("valid YAML").remove(0).value
}

fn plain() -> Value {
    value(
        "apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: curl, labels: {app: curl}}
spec:
  serviceAccountName: curl
  containers: [{name: curl, image: curlimages/curl}]
",
    )
}

/// A pod and a MeshConfig with all settings.
fn everything() -> (Value, MeshConfig) {
    let pod = value(
        "apiVersion: v1
kind: Pod
metadata:
  generateName: batch-
  annotations:
    openservicemesh.io/outbound-port-exclusion-list: 6060, 7070,1
    openservicemesh.io/inbound-port-exclusion-list: '9000'
    openservicemesh.io/outbound-ip-range-exclusion-list: 10.0.0.0/8, 2.2.2.2/32, fd00::/8
    openservicemesh.io/outbound-ip-range-inclusion-list: 3.3.3.0/24
spec:
  restartPolicy: OnFailure
  initContainers: [{name: first, image: first}]
  containers:
  - {name: one, image: one, securityContext: {runAsUser: 1000, capabilities: {add: [NET_ADMIN]}}}
  - {name: two, image: two}
  volumes: [{name: work, emptyDir: {}}]
",
    );
    let mesh = value(
        "traffic:
  outboundPortExclusionList: [1, 2, 7070]
  outboundIPRangeExclusionList: [2.2.2.2/32, 1.1.1.1/32]
  outboundIPRangeInclusionList: [3.3.3.0/24, 4.4.4.4/32]
  networkInterfaceExclusionList: [eth1]
sidecar:
  enablePrivilegedInitContainer: true
  logLevel: debug
  envoyImage: registry.example/envoy:v1.39.1
  initContainerImage: registry.example/init:1
  resources: {limits: {memory: 256Mi}}
  localProxyMode: PodIP
",
    );
    (pod, serde_json::from_value(mesh).expect("a MeshConfig"))
}

/// The injected pod, with a placeholder for the long bootstrap.
fn injected(pod: &Value, settings: &Settings, mesh: &MeshConfig) -> Value {
    let mut pod = inject_sidecar(pod, settings, mesh).expect("injected").pod;
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"][list].as_array_mut().into_iter().flatten();
        for sidecar in containers.filter(|container| container["name"] == SIDECAR_CONTAINER) {
            sidecar["args"][1] = json!("BOOTSTRAP");
        }
    }
    pod
}

#[test]
fn a_plain_pod_is_injected_as_recorded() {
    assert_yaml_snapshot!(injected(&plain(), &settings(), &MeshConfig::default()));
}

#[test]
fn a_pod_with_all_settings_is_injected_as_recorded() {
    let (pod, mesh) = everything();
    assert_yaml_snapshot!(injected(&pod, &settings(), &mesh));
    let warnings = inject_sidecar(&pod, &settings(), &mesh).expect("injected").warnings;
    assert_yaml_snapshot!("warnings_of_a_pod_with_all_settings", warnings);
}

#[test]
fn a_native_sidecar_is_injected_as_recorded() {
    let (mut pod, mesh) = everything();
    pod["metadata"]["annotations"][NATIVE_ANNOTATION] = json!("enabled");
    let settings = Settings { ip_families: IpFamilies::Ipv4, xds_ca: None, ..settings() };
    let found = injected(&pod, &settings, &mesh);
    assert_yaml_snapshot!(found);
    let names = |list: &str| -> Vec<String> {
        let containers = found["spec"][list].as_array().expect("a list");
        containers.iter().map(|container| container["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["osm-init", "envoy", "first"]);
    assert_eq!(names("containers"), ["one", "two"]);
}

#[test]
fn the_bootstrap_is_as_recorded() {
    let text = bootstrap::render(&settings(), "1.40".parse().expect("a version"));
    insta::assert_snapshot!(text);
    // Kubernetes would expand variables.
    assert!(!text.contains('$'), "{text}");
}

#[test]
fn only_the_sidecar_has_the_token() {
    let (pod, mesh) = everything();
    let pod = inject_sidecar(&pod, &settings(), &mesh).expect("injected").pod;
    let all = ["initContainers", "containers"].into_iter().flat_map(|list| pod["spec"][list].as_array());
    for container in all.flatten() {
        let has_mount = container["volumeMounts"]
            .as_array()
            .is_some_and(|mounts| mounts.iter().any(|mount| mount["name"] == TOKEN_VOLUME));
        assert_eq!(has_mount, container["name"] == SIDECAR_CONTAINER, "{container}");
    }
}

/// INJ4: texts and merging are Open Service Mesh's.
#[test]
fn annotation_lists_are_parsed_and_merged_like_open_service_mesh() {
    let init_of = |annotation: &str, text: &str, mesh: &MeshConfig| {
        let mut pod = plain();
        pod["metadata"]["annotations"] = json!({ format!("openservicemesh.io/{annotation}"): text });
        inject_sidecar(&pod, &settings(), mesh)
            .map(|injected| injected.pod["spec"]["initContainers"][0]["args"].clone())
            .map_err(|refusal| refusal.to_string())
    };
    let none = MeshConfig::default();
    let ports = "outbound-port-exclusion-list";
    let blocks = "outbound-ip-range-exclusion-list";
    assert_eq!(init_of(ports, "6060, 7070", &none), Ok(json!(["iptables", "--exclude-ports", "6060,7070"])));
    assert_eq!(
        init_of(blocks, "10.0.0.0/8, 2.2.2.2/32", &none),
        Ok(json!(["iptables", "--exclude-cidrs", "10.0.0.0/8,2.2.2.2/32"]))
    );
    for (annotation, text, value, what) in [
        (ports, "6060, -7070", "-7070", "port value"),
        (ports, "0", "0", "port value"),
        (ports, "65536", "65536", "port value"),
        (ports, "", "", "port value"),
        (ports, "80,", "", "port value"),
        ("inbound-port-exclusion-list", "x", "x", "port value"),
        (blocks, "10.0.0.0/8, 1.1.1.1", "1.1.1.1", "IP range"),
        (blocks, "10.0.0.0/33", "10.0.0.0/33", "IP range"),
        ("outbound-ip-range-inclusion-list", "all", "all", "IP range"),
    ] {
        assert_eq!(
            init_of(annotation, text, &none),
            Err(format!(
                "Invalid {what} '{value}' specified for annotation 'openservicemesh.io/{annotation}'"
            ))
        );
    }
    // The mesh's ports come first, the pod's blocks come first.
    let mesh = MeshConfig {
        traffic: Some(Traffic {
            outbound_port_exclusion_list: Some(vec![7070, 8080]),
            outbound_ip_range_exclusion_list: Some(vec!["2.2.2.2/32".into(), "3.3.3.3/32".into()]),
            ..Traffic::default()
        }),
        ..MeshConfig::default()
    };
    assert_eq!(init_of(ports, "6060, 7070", &mesh).expect("a list")[2], "7070,8080,6060");
    assert_eq!(
        init_of(blocks, "10.0.0.0/8, 2.2.2.2/32", &mesh).expect("a list")[4],
        "10.0.0.0/8,2.2.2.2/32,3.3.3.3/32"
    );
}

/// Authors of pods may change interception as far as an administrator permits it.
#[test]
fn annotations_change_only_what_is_permitted() {
    use PodAnnotations::{All, None, Tighten};
    let mesh = |inclusions: &[&str]| MeshConfig {
        traffic: Some(Traffic {
            outbound_port_exclusion_list: Some(vec![7070]),
            outbound_ip_range_exclusion_list: Some(vec!["2.2.2.2/32".into()]),
            outbound_ip_range_inclusion_list: Some(inclusions.iter().map(ToString::to_string).collect()),
            ..Traffic::default()
        }),
        ..MeshConfig::default()
    };
    let any: &[PodAnnotations] = &[All, Tighten, None];
    for (annotation, text, inclusions, permitted) in [
        ("outbound-port-exclusion-list", "7070", &[][..], any),
        ("outbound-port-exclusion-list", "7070, 80", &[], &any[..1]),
        ("outbound-ip-range-exclusion-list", "2.2.2.2/32", &[], any),
        ("outbound-ip-range-exclusion-list", "0.0.0.0/0", &[], &any[..1]),
        // Interception limited to these blocks, where it was not limited.
        ("outbound-ip-range-inclusion-list", "3.3.3.3/32", &[], &any[..1]),
        // And extended by these, where it was limited.
        ("outbound-ip-range-inclusion-list", "3.3.3.3/32", &["4.4.4.4/32"], &any[..2]),
        ("outbound-ip-range-inclusion-list", "4.4.4.4/32", &["4.4.4.4/32"], any),
        ("inbound-port-exclusion-list", "80", &[], any),
        ("native-sidecar", "enabled", &[], any),
    ] {
        for pod_annotations in [All, Tighten, None] {
            let mut pod = plain();
            pod["metadata"]["annotations"] = json!({ format!("openservicemesh.io/{annotation}"): text });
            let settings = Settings { pod_annotations, ..settings() };
            let found = inject_sidecar(&pod, &settings, &mesh(inclusions));
            let what = format!("{annotation}: {text} with {pod_annotations}");
            match (&found, permitted.contains(&pod_annotations)) {
                (Ok(injected), true) => {
                    let warned = injected.warnings.iter().any(|warning| warning.contains(" interception"));
                    assert_eq!(warned, permitted.len() == 1, "{what}: {:?}", injected.warnings);
                }
                (Err(refusal), false) => {
                    let message = refusal.to_string();
                    let value = if permitted.len() == 1 { "all" } else { "tighten" };
                    let remedy = format!("annotate it with `openservicemesh.io/pod-annotations: {value}`");
                    assert!(message.contains(annotation) && message.ends_with(&remedy), "{message}");
                }
                _ => panic!("{what}: {found:?}"),
            }
        }
    }
}

#[test]
fn an_invalid_mesh_config_is_refused_with_the_field() {
    let refusal = |traffic: Traffic| {
        let mesh = MeshConfig { traffic: Some(traffic), ..MeshConfig::default() };
        inject_sidecar(&plain(), &settings(), &mesh).expect_err("refused").to_string()
    };
    let traffic = Traffic { outbound_port_exclusion_list: Some(vec![1, 70000]), ..Traffic::default() };
    assert_eq!(
        refusal(traffic),
        "MeshConfig spec.traffic.outboundPortExclusionList[1]: `70000` is not a port"
    );
    let list = Some(vec!["999.9.9.9/99".to_owned()]);
    assert_eq!(
        refusal(Traffic { outbound_ip_range_inclusion_list: list, ..Traffic::default() }),
        "MeshConfig spec.traffic.outboundIPRangeInclusionList[0]: `999.9.9.9/99` is not an address block, such as 10.0.0.0/8"
    );
    let list = Some(vec!["eth0 -j ACCEPT".to_owned()]);
    assert_eq!(
        refusal(Traffic { network_interface_exclusion_list: list, ..Traffic::default() }),
        "MeshConfig spec.traffic.networkInterfaceExclusionList[0]: `eth0 -j ACCEPT` is not a network interface name"
    );
    let sidecar = Sidecar { envoy_image: Some("envoy:v1.22.2".to_owned()), ..Sidecar::default() };
    let mesh = MeshConfig { sidecar: Some(Box::new(sidecar)), ..MeshConfig::default() };
    assert!(matches!(
        inject_sidecar(&plain(), &settings(), &mesh),
        Err(InjectionError::UnsupportedImage { .. })
    ));
}

#[test]
fn pods_that_cannot_have_a_sidecar_are_refused() {
    let with = |pointer: &str, value: Value| {
        let mut pod = plain();
        let (parent, field) = pointer.rsplit_once('/').expect("a field");
        pod.pointer_mut(parent).expect("a parent")[field] = value;
        inject_sidecar(&pod, &settings(), &MeshConfig::default()).expect_err(pointer)
    };
    assert_eq!(with("/spec/hostNetwork", json!(true)), InjectionError::HostNetwork);
    assert_eq!(with("/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})), InjectionError::Windows);
    let account = InjectionError::DottedServiceAccount("a.b".to_owned());
    assert_eq!(with("/spec/serviceAccountName", json!("a.b")), account);
    assert_eq!(with("/spec/os", json!({"name": "windows"})), InjectionError::Windows);
    let taken = |what, name: &str| InjectionError::NameTaken { what, name: name.to_owned() };
    assert_eq!(with("/spec/initContainers", json!([{"name": "envoy"}])), taken("container", "envoy"));
    assert_eq!(with("/spec/initContainers", json!([{"name": "osm-init"}])), taken("container", "osm-init"));
    assert_eq!(with("/spec/volumes", json!([{"name": TOKEN_VOLUME}])), taken("volume", TOKEN_VOLUME));
    assert_eq!(with("/spec/volumes", json!([{"name": HOSTS_VOLUME}])), taken("volume", HOSTS_VOLUME));
    // The volume does not exist yet, but it will.
    for volume in [TOKEN_VOLUME, HOSTS_VOLUME] {
        let thief = json!([{"name": "a", "volumeMounts": [{"name": volume, "mountPath": "/mine"}]}]);
        let mount = InjectionError::ForbiddenMount { container: "a".to_owned(), volume: volume.to_owned() };
        assert_eq!(with("/spec/containers", thief.clone()), mount);
        assert_eq!(with("/spec/initContainers", thief), mount);
    }
    let uid = json!({"runAsUser": 1500});
    assert_eq!(with("/spec/securityContext", uid.clone()), InjectionError::ProxyUid("curl".to_owned()));
    let root =
        json!([{"name": "a", "securityContext": {"runAsUser": 0}}, {"name": "b", "securityContext": uid}]);
    assert_eq!(with("/spec/initContainers", root.clone()), InjectionError::ProxyUid("b".to_owned()));
    assert_eq!(with("/spec/ephemeralContainers", root), InjectionError::ProxyUid("b".to_owned()));
    for uid in [json!(1500.0), json!(1.5e3), json!("1500"), json!("1.5e3")] {
        let user = json!({"runAsUser": uid});
        assert_eq!(with("/spec/securityContext", user), InjectionError::ProxyUid("curl".to_owned()), "{uid}");
    }
    let shape = InjectionError::InvalidField("securityContext.runAsUser");
    assert_eq!(with("/spec/securityContext", json!({"runAsUser": "0x5dc"})), shape);
    for (pointer, field) in [
        ("/spec/containers", "spec.containers"),
        ("/spec/volumes", "spec.volumes"),
        ("/metadata/labels", "metadata.labels"),
    ] {
        assert_eq!(with(pointer, json!("x")), InjectionError::InvalidField(field));
    }
    assert_eq!(
        inject_sidecar(&json!(null), &settings(), &MeshConfig::default()),
        Err(InjectionError::InvalidField("spec.containers"))
    );
}

/// A pod whose author writes the label by hand still gets a sidecar.
#[test]
fn the_label_alone_does_not_prevent_injection() {
    let mut pod = plain();
    pod["metadata"]["labels"][INJECTED_LABEL] = json!("injected");
    let fake = json!({"name": "envoy", "image": "mine", "securityContext": {"runAsUser": 1500}});
    pod["spec"]["containers"].as_array_mut().expect("a list").push(fake);
    let found = inject_sidecar(&pod, &settings(), &MeshConfig::default()).expect("injected").pod;
    let expected = inject_sidecar(&plain(), &settings(), &MeshConfig::default()).expect("injected").pod;
    assert_eq!(found, expected);
}

/// Generates pods with any combination of parts.
fn any_pod() -> impl Strategy<Value = Value> {
    let containers = |names: [&'static str; 3]| {
        prop::sample::subsequence(names.to_vec(), 0..=3).prop_map(|names| {
            names.into_iter().map(|name| json!({"name": name, "image": name})).collect::<Vec<_>>()
        })
    };
    (
        containers(["a", "b", "c"]),
        prop::option::of(containers(["d", "e", "f"])),
        prop::option::of(Just(json!([{"name": "work", "emptyDir": {}}]))),
        prop::option::of(Just(json!({"app": "x"}))),
        prop::option::of(prop::sample::select(vec!["enabled", "no"])),
        any::<bool>(),
    )
        .prop_map(|(more, init, volumes, labels, native, has_metadata)| {
            let mut containers = vec![json!({"name": "main", "image": "main"})];
            containers.extend(more);
            let mut pod = json!({"spec": {"containers": containers}});
            if let Some(init) = init {
                pod["spec"]["initContainers"] = Value::Array(init);
            }
            if let Some(volumes) = volumes {
                pod["spec"]["volumes"] = volumes;
            }
            if has_metadata {
                pod["metadata"] = json!({"labels": labels});
                if let Some(native) = native {
                    pod["metadata"]["annotations"] = json!({ NATIVE_ANNOTATION: native });
                }
            }
            pod
        })
}

proptest! {
    /// Injection is idempotent, even with other settings in between; and applying the patch gives the injected pod.
    #[test]
    fn injection_is_idempotent(pod in any_pod(), native: bool, tls: bool) {
        let mesh = MeshConfig::default();
        let other = Settings { native_sidecar: native, xds_ca: settings().xds_ca.filter(|_| tls), ..settings() };
        let once = inject_sidecar(&pod, &settings(), &mesh).expect("injected");
        let twice = inject_sidecar(&once.pod, &settings(), &mesh).expect("injected");
        prop_assert_eq!(&twice.pod, &once.pod);
        prop_assert!(twice.patch.0.is_empty());
        prop_assert_eq!(&twice.warnings, &once.warnings);
        let changed = inject_sidecar(&once.pod, &other, &mesh).expect("injected");
        let back = inject_sidecar(&changed.pod, &settings(), &mesh).expect("injected");
        prop_assert_eq!(&back.pod["spec"]["containers"], &once.pod["spec"]["containers"]);
        prop_assert_eq!(&back.pod["spec"]["initContainers"], &once.pod["spec"]["initContainers"]);
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &once.patch).expect("a patch of this pod");
        prop_assert_eq!(&patched, &once.pod);
        // The pod's own containers stay, in order.
        for list in ["containers", "initContainers"] {
            let own: Vec<_> = once.pod["spec"][list].as_array().into_iter().flatten()
                .filter(|container| container["name"] != SIDECAR_CONTAINER && container["name"] != INIT_CONTAINER).collect();
            let before: Vec<_> = pod["spec"][list].as_array().into_iter().flatten().collect();
            prop_assert_eq!(own, before);
        }
    }
}

/// The kubelet mounts the pod's hosts file into every container that mounts nothing there.
#[test]
fn the_sidecar_has_a_hosts_file_of_its_own() {
    for native in [false, true] {
        let settings = Settings { native_sidecar: native, ..settings() };
        let pod = inject_sidecar(&plain(), &settings, &MeshConfig::default()).expect("injected").pod;
        let spec = &pod["spec"];
        let named = |list: &str, name: &str| {
            let items = spec[list].as_array().into_iter().flatten();
            items.into_iter().find(|item| item["name"] == name).cloned().unwrap_or_default()
        };
        let sidecar = named(if native { "initContainers" } else { "containers" }, SIDECAR_CONTAINER);
        let mounts = sidecar["volumeMounts"].as_array().expect("a list");
        let hosts = mounts.iter().find(|mount| mount["mountPath"] == HOSTS_PATH).expect("a mount");
        assert_eq!(hosts["readOnly"], true);
        let volume = named("volumes", HOSTS_VOLUME);
        let item = &volume["downwardAPI"]["items"][0];
        assert_eq!(
            (&item["path"], &item["fieldRef"]["fieldPath"]),
            (&hosts["subPath"], &json!("metadata.uid"))
        );
        // Other containers keep the pod's hosts file.
        let others = named("containers", "curl");
        assert!(others["volumeMounts"].is_null(), "{others}");
    }
}
