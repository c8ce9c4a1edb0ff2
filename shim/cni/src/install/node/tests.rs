use std::fs;

use super::super::Removal;
use super::*;

const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;

/// A node in a folder, with the credentials of a pod.
struct TestNode {
    folder: tempfile::TempDir,
    node: Node,
}

impl TestNode {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["bin", "net.d", "account"] {
            fs::create_dir(at(name)).expect("a folder");
        }
        fs::write(at("account/token"), "secret\n").expect("written");
        fs::write(at("account/ca.crt"), "PEM\n").expect("written");
        let options = Options {
            bin_dir: at("bin"),
            net_dir: at("net.d"),
            node_net_dir: "/etc/cni/net.d".into(),
            service_account_dir: at("account"),
            server: "https://10.96.0.1:443".to_owned(),
            exclude_namespaces: vec!["kube-system".to_owned()],
            removal: Removal::Never,
            daemon_set: None,
        };
        let node = Node { options, binary: b"binary".to_vec(), equal_binary: None };
        Self { folder, node }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("net.d").join(name), text).expect("written");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Repairs the node, and returns the names of the files that changed.
    fn repair(&mut self) -> Vec<String> {
        let changes = self.node.plan().expect("a plan").changes;
        let name =
            |change: &Change| change.to_string().replace(&format!("{}/", self.folder.path().display()), "");
        let names = changes.iter().map(name).collect();
        for change in changes {
            change.apply().expect("applied");
            self.node.record(&change);
        }
        names
    }

    fn problem(&mut self) -> String {
        self.node.plan().expect("a plan").problem.expect("a problem")
    }
}

#[test]
fn a_node_is_installed_once_and_repaired_when_files_are_replaced() {
    let mut node = TestNode::new();
    node.write("10-net.conflist", LIST);
    node.write("20-other.conflist", LIST);
    let all =
        ["write bin/osm-egress-cni", "write net.d/osm-egress-cni.kubeconfig", "write net.d/10-net.conflist"];
    assert_eq!(node.repair(), all);
    assert_eq!(node.repair(), [""; 0]);
    let installed = node.read("net.d/10-net.conflist");
    let value: Value = serde_json::from_str(&installed).expect("JSON");
    assert_eq!(
        value["plugins"],
        json!([{"type": "bridge"}, {
            "type": "osm-egress-cni", "kubeconfig": "/etc/cni/net.d/osm-egress-cni.kubeconfig",
            "excludeNamespaces": ["kube-system"],
        }])
    );
    assert_eq!(node.read("net.d/20-other.conflist"), LIST);
    // Another agent writes its configuration anew, the token is renewed, and the binary is replaced.
    node.write("10-net.conflist", LIST);
    assert_eq!(node.repair(), ["write net.d/10-net.conflist"]);
    assert_eq!(node.read("net.d/10-net.conflist"), installed);
    fs::write(node.folder.path().join("account/token"), "renewed").expect("written");
    assert_eq!(node.repair(), ["write net.d/osm-egress-cni.kubeconfig"]);
    assert!(node.read("net.d/osm-egress-cni.kubeconfig").contains("renewed"));
    fs::write(node.folder.path().join("bin/osm-egress-cni"), "else").expect("written");
    assert_eq!(node.repair(), ["write bin/osm-egress-cni"]);
    // A new first configuration.
    node.write("05-new.conflist", LIST);
    assert_eq!(node.repair(), ["write net.d/05-new.conflist"]);
    // Half a file is passed over, as container runtimes do.
    node.write("01-half.conflist", &LIST[..20]);
    assert_eq!(node.repair(), [""; 0]);
}

#[test]
fn files_have_the_modes_that_their_content_needs() {
    let mut node = TestNode::new();
    node.write("10-net.conflist", LIST);
    node.repair();
    let mode = |name: &str| fs::metadata(node.folder.path().join(name)).expect("a file").mode() & 0o777;
    assert_eq!(mode("bin/osm-egress-cni"), 0o755);
    assert_eq!(mode("net.d/osm-egress-cni.kubeconfig"), 0o600);
    assert_eq!(mode("net.d/10-net.conflist"), 0o644);
    let left = fs::read_dir(node.folder.path().join("net.d")).expect("a folder").count();
    assert_eq!(left, 2, "no other file is left behind");
}

#[test]
fn a_single_plugin_becomes_a_list_again_whenever_it_comes_back() {
    let mut node = TestNode::new();
    let single = r#"{"cniVersion":"0.3.1","name":"net","type":"bridge"}"#;
    node.write("10-net.conf", single);
    for _ in 0..2 {
        let changed = node.repair();
        assert!(changed.contains(&"remove net.d/10-net.conf".to_owned()), "{changed:?}");
        assert!(node.read("net.d/10-net.conflist").contains("osm-egress-cni"));
        assert_eq!(node.repair(), [""; 0]);
        node.write("10-net.conf", single);
    }
    // A list that another program wrote is not overwritten.
    node.write("10-net.conflist", LIST);
    assert!(node.problem().contains("remove one of them"), "{}", node.problem());
    assert_eq!(node.read("net.d/10-net.conflist"), LIST);
}

#[test]
fn a_node_without_a_usable_configuration_says_why() {
    let mut node = TestNode::new();
    assert!(node.problem().contains("there is no network configuration in"), "{}", node.problem());
    node.write("99-loopback.conf", r#"{"cniVersion":"1.0.0","name":"lo","type":"loopback"}"#);
    assert!(node.problem().contains("there is no network configuration in"), "{}", node.problem());
    node.write("10-net.conflist", &LIST.replace("1.0.0", "0.2.0"));
    assert!(node.problem().contains("its `cniVersion` is `0.2.0`"), "{}", node.problem());
    // Meanwhile the token is kept fresh, for runtimes that still call the plugin.
    let names = node.repair();
    assert_eq!(names, ["write bin/osm-egress-cni", "write net.d/osm-egress-cni.kubeconfig"]);
    fs::remove_file(node.folder.path().join("account/token")).expect("removed");
    let error = format!("{:#}", node.node.plan().expect_err("an error"));
    assert!(error.contains("cannot read") && error.contains("account/token"), "{error}");
}

#[test]
fn removal_leaves_the_configuration_as_it_was_before() {
    let mut node = TestNode::new();
    node.write("10-net.conflist", LIST);
    node.repair();
    node.write("05-new.conflist", LIST);
    node.repair();
    for change in node.node.plan_removal().expect("a plan") {
        change.apply().expect("applied");
    }
    for name in ["net.d/05-new.conflist", "net.d/10-net.conflist"] {
        let found: Value = serde_json::from_str(&node.read(name)).expect("JSON");
        assert_eq!(found, serde_json::from_str::<Value>(LIST).expect("JSON"));
    }
    let names = |folder: &str| fs::read_dir(node.folder.path().join(folder)).expect("a folder").count();
    assert_eq!((names("net.d"), names("bin")), (2, 0));
    assert!(node.node.plan_removal().expect("a plan").iter().all(|change| change.apply().is_ok()));
}
