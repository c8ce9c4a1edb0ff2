use std::path::PathBuf;

use super::*;

fn user_values(settings: &[&str]) -> Result<UserValues> {
    let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
    UserValues::read(&[] as &[PathBuf], &settings)
}

fn values(settings: &[&str]) -> Values {
    resolve(&user_values(settings).expect("valid").tree).expect("valid")
}

fn error(settings: &[&str]) -> String {
    user_values(settings).expect_err("an error").to_string()
}

#[test]
fn settings_are_read_as_helm_reads_them() {
    let tree = |settings: &[&str]| user_values(settings).expect("valid").tree;
    for (settings, expected) in [
        (&["osm.enableEgress=true"][..], json!({"osm": {"enableEgress": true}})),
        (
            &["osm.enableEgress=true,osm.maxDataPlaneConnections=7"],
            json!({"osm": {"enableEgress": true, "maxDataPlaneConnections": 7}}),
        ),
        (&["osm.enableEgress=true", "osm.enableEgress=false"], json!({"osm": {"enableEgress": false}})),
        (
            &["osm.outboundPortExclusionList={80,443}"],
            json!({"osm": {"outboundPortExclusionList": [80, 443]}}),
        ),
        (
            &["osm.outboundIPRangeExclusionList={10.0.0.0/8,192.168.0.0/16},osm.enableEgress=true"],
            json!({"osm": {"enableEgress": true,
                "outboundIPRangeExclusionList": ["10.0.0.0/8", "192.168.0.0/16"]}}),
        ),
        (&["osm.outboundPortExclusionList={}"], json!({"osm": {"outboundPortExclusionList": []}})),
        (
            &["osm.imagePullSecrets[0].name=a,osm.imagePullSecrets[1].name=b"],
            json!({"osm": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}}),
        ),
        (
            &[r"osm.egress.nodeSelector.kubernetes\.io/os=linux"],
            json!({"osm": {"egress": {"nodeSelector": {"kubernetes.io/os": "linux"}}}}),
        ),
        (&[r"osm.sidecarImage=a\,b"], json!({"osm": {"sidecarImage": "a,b"}})),
        (&["osm.sidecarImage=0123"], json!({"osm": {"sidecarImage": "0123"}})),
    ] {
        assert_eq!(tree(settings), expected, "{settings:?}");
    }
}

#[test]
fn errors_name_the_key() {
    for (setting, expected) in [
        ("osm.enableEgress", "write it as `key=value`"),
        ("osm..enableEgress=true", "a key has an empty part"),
        ("=true", "a key has an empty part"),
        ("osm.enableEgress=true,", "ends with a comma"),
        ("osm.outboundPortExclusionList={80", "`{` without `}`"),
        ("osm.outboundPortExclusionList={80}x", "`x` after a list"),
        ("osm.imagePullSecrets[1].name=a", "index 1, but the ones before it are not set"),
        ("osm.imagePullSecrets[x].name=a", "an index is a number"),
        (
            "osm.enableEgress=yes",
            "value `osm.enableEgress`: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "osm.outboundPortExclusionList=80",
            "value `osm.outboundPortExclusionList`: invalid type: integer `80`",
        ),
        ("osm.outboundPortExclusionList=80", "write a list as `{a,b}`"),
        ("osm.outboundPortExclusionList={80,http}", "value `osm.outboundPortExclusionList[1]`"),
        ("osm.outboundPortExclusionList={0}", "value `osm.outboundPortExclusionList[0]`"),
        ("osm.outboundPortExclusionList={65536}", "value `osm.outboundPortExclusionList[0]`"),
        ("osm.outboundIPRangeExclusionList={999.1.1.1/8}", "value `osm.outboundIPRangeExclusionList[0]`"),
        ("osm.envoyLogLevel=loud", "value `osm.envoyLogLevel`: unknown variant `loud`"),
        ("osm.maxDataPlaneConnections=-1", "value `osm.maxDataPlaneConnections`"),
        ("osm.egress.replicas=0", "value `osm.egress.replicas`"),
        ("osm.egress.httpDenyStatus=200", "200 is not 400 to 599"),
        ("osm.egress.idleTimeout=0s", "value `osm.egress.idleTimeout`: \"0s\": it must be 1s to 168h"),
        ("osm.egress.upstreamIdleTimeout=", "value `osm.egress.upstreamIdleTimeout`: \"\": write it as"),
        (
            "osm.egress.podAnnotations=some",
            "unknown variant `some`, expected one of `none`, `tighten`, `all`",
        ),
        ("osm.egress.webhookTimeoutSeconds=31", "31 is not 1 to 30"),
        ("osm.egress.dnsResolvers={10.0.0.1}", "write it as `ADDRESS:PORT`"),
        ("osm.egress.image=", "value `osm.egress.image`: `` is not an image reference"),
        (
            "osm.egress.initImage=a@sha256:12",
            "value `osm.egress.initImage`: `a@sha256:12` has no valid digest",
        ),
        ("osm.egress.nat64Prefixes={64:ff9b::/95}", "value `osm.egress.nat64Prefixes[0]`: `64:ff9b::/95`"),
        ("osm.egress.podDns=never", "value `osm.egress.podDns`: unknown variant `never`"),
        ("osm.imagePullSecrets[0].nam=a", "write it as `{name: SECRET}`"),
        ("osm.enableEgres=true", "value `osm.enableEgres` is unknown; did you mean `osm.enableEgress`?"),
        ("osm.outboundIpRangeExclusionList={}", "did you mean `osm.outboundIPRangeExclusionList`?"),
        ("osm.egress.replica=3", "did you mean `osm.egress.replicas`?"),
        ("enableEgress=true", "value `enableEgress` is unknown; did you mean `osm.enableEgress`?"),
        ("zebra=1", "value `zebra` is unknown; docs"),
        ("osm=1", "value `osm`: invalid type"),
        ("osm.egress=1", "value `osm.egress`: invalid type"),
    ] {
        let error = error(&[setting]);
        assert!(error.contains(expected), "{setting}: {error}");
    }
}

#[test]
fn unsupported_values_of_osm_are_reported_and_dropped() {
    let settings =
        ["osm.deployJaeger=true,osm.osmController.replicaCount=3,contour.enabled=true,osm.enableEgress=true"];
    let given = user_values(&settings).expect("valid");
    assert_eq!(given.tree, json!({"osm": {"enableEgress": true}}));
    assert_eq!(given.ignored.len(), 3, "{:?}", given.ignored);
    assert!(given.ignored.iter().any(|text| text.contains("osm.deployJaeger")), "{:?}", given.ignored);
}

#[test]
fn null_removes_a_default() {
    assert!(values(&["osm.egress.resources.limits=null"]).osm.egress.resources.get("limits").is_none());
    assert_eq!(values(&["osm.egress.replicas=null"]).osm.egress.replicas.get(), 2);
}

#[test]
fn later_files_and_settings_override_earlier_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("1.yaml"), folder.path().join("2.yaml"));
    std::fs::write(
        &one,
        "osm:\n  enableEgress: true\n  egress: {replicas: 3, resources: {limits: {cpu: 1}}}\n",
    )
    .expect("a file");
    std::fs::write(&two, "osm: {enableEgress: false, maxDataPlaneConnections: 5}\n").expect("a file");
    let given =
        UserValues::read(&[&one, &two], &["osm.maxDataPlaneConnections=6".to_owned()]).expect("valid");
    let Osm { enable_egress, max_data_plane_connections, egress, .. } =
        resolve(&given.tree).expect("valid").osm;
    assert_eq!((enable_egress, max_data_plane_connections, egress.replicas.get()), (false, 6, 3));
    assert_eq!(egress.resources["limits"], json!({"cpu": 1, "memory": "1Gi"}));
    for (text, expected) in [
        ("[1]", "it is not a mapping"),
        ("a: 1\n---\nb: 2\n", "several documents"),
        ("osm: {enableEgress: 1}", "value `osm.enableEgress`"),
        ("osm: [", "this is not YAML"),
    ] {
        std::fs::write(&one, text).expect("a file");
        let error = format!("{:#}", UserValues::read(&[&one], &[]).expect_err("an error"));
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(UserValues::read(&[folder.path().join("3.yaml")], &[]).is_err());
}

/// The table in the documentation lists the same values as the types.
#[test]
fn the_documentation_lists_all_values() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/install.md");
    let text = std::fs::read_to_string(&path).expect("docs/install.md");
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let documented: Vec<(String, String)> = text
        .lines()
        .filter(|line| line.starts_with("| `osm."))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (cell(cells[1]), cell(cells[2]))
        })
        .collect();
    let known: Vec<(String, String)> =
        table().into_iter().map(|(key, default)| (key, default.to_string())).collect();
    let sorted = |mut rows: Vec<(String, String)>| {
        rows.sort();
        rows
    };
    assert_eq!(sorted(documented), sorted(known));
}
