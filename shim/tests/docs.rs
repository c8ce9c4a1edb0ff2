//! Tests that the lists in the documentation match the code.

use std::path::Path;

use egress_policy::ReasonCode;
use egress_xds::identify::StreamRefusal;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_reason_code() {
    let text = read("docs/policy-reference.md");
    for reason in ReasonCode::ALL {
        let row = format!("| `{reason}` | {} |", reason.meaning().trim());
        assert!(text.contains(&row), "docs/policy-reference.md lacks: {row}");
    }
}

#[test]
fn every_reason_to_refuse_a_proxy() {
    let code = read("shim/xds/src/identify/refusal.rs");
    let text = read("docs/identity.md");
    let body = code.split("fn reason(").nth(1).and_then(|rest| rest.split("\nimpl").next()).expect("there");
    let reasons: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
    assert_eq!(reasons, StreamRefusal::REASONS);
    for reason in reasons {
        assert!(text.contains(&format!("`{reason}`")), "docs/identity.md lacks {reason}");
    }
}

#[test]
fn every_folder_of_the_architecture() {
    let text = read("ARCHITECTURE.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for member in ["policy", "filter-wasm", "shim", "envoy", "tests", "fuzz", "xtask", "docs"] {
        assert!(root.join(member).is_dir(), "{member} is gone");
        assert!(text.contains(&format!("| `{member}/` |")), "ARCHITECTURE.md lacks {member}");
    }
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in [
        "README.md",
        "docs/bypasses.md",
        "docs/concepts.md",
        "docs/console.md",
        "docs/explain.md",
        "docs/identity.md",
        "docs/injection.md",
        "docs/interception.md",
        "docs/kubernetes.md",
        "docs/learn.md",
        "docs/metrics.md",
        "docs/operations.md",
        "docs/policy-reference.md",
        "docs/threat-model.md",
    ] {
        let folder = root.join(file);
        let folder = folder.parent().expect("a folder");
        for link in read(file).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.starts_with("http") {
                continue;
            }
            assert!(folder.join(path).exists(), "{file}: {link}");
        }
    }
}

#[test]
fn the_rust_version_is_one() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|l| l.strip_prefix("rust-version = \"")).expect("there");
    let version = version.trim_end_matches('"');
    assert!(read("README.md").contains(&format!("Rust ({version} or newer")), "README names another version");
}
