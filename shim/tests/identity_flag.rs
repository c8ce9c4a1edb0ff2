//! `--identity` names a workload in every command, and the former `--source` stays as an alias.

use std::path::Path;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_osm-egress");
/// A line of Envoy's access log.
const LOG: &str = r#"{"kind":"connection","dialled":"192.0.2.1:443","decision":"deny sni-not-allowed - -","name":null,"server_name":"b.org"}"#;
const POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: p, namespace: curl}\n\
    spec:\n  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]\n  hosts: [b.org]\n  \
    ports: [{number: 443, protocol: https}]\n";

fn run(folder: &Path, words: &[&str]) -> Output {
    Command::new(BINARY).args(words).current_dir(folder).output().expect("it runs")
}

#[test]
fn identity_and_its_former_name_mean_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("manifests")).expect("a folder");
    std::fs::write(folder.path().join("manifests/p.yaml"), POLICY).expect("a file");
    std::fs::write(folder.path().join("envoy.log"), format!("{LOG}\n")).expect("a file");
    for (words, part) in [
        (&["explain", "--config-dir", "manifests", "--to", "https://b.org"][..], "b.org"),
        (&["suggest", "--log", "envoy.log"], "- b.org #"),
        (&["simulate", "--file", "manifests", "--log", "envoy.log"], "1 flow evaluated"),
    ] {
        let outputs = ["--identity", "--source"]
            .map(|flag| run(folder.path(), &[words, &[flag, "curl/curl"]].concat()));
        for output in &outputs {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(part), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(outputs[0].status, outputs[1].status, "{words:?}");
        let help = run(folder.path(), &[words[0], "--help"]).stdout;
        let help = String::from_utf8_lossy(&help);
        assert!(help.contains("--identity <NS/SA>") && !help.contains("--source"), "{help}");
    }
    // Nothing listens there: the flag is accepted, and the connection fails.
    for flag in ["--identity", "--source"] {
        let output = run(folder.path(), &["flows", flag, "curl/curl", "--admin", "127.0.0.1:1"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("cannot reach a control plane at 127.0.0.1:1"), "{error}");
    }
}
