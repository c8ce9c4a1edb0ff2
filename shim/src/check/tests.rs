use std::fs;
use std::path::PathBuf;

use super::*;

fn run(dir: &Path) -> Report {
    check(dir, &CompileOptions::default())
}

/// The report on a folder of fixtures, with the folder's path cut off.
fn text(dir: &Path) -> String {
    run(dir).to_string().replace(&dir.display().to_string(), "DIR")
}

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn fixtures() -> PathBuf {
    workspace("shim/src/check/fixtures")
}

#[test]
fn the_samples_are_right() {
    let dir = workspace("envoy/samples");
    insta::assert_snapshot!(text(&dir), @r"
    DIR/meshconfig.yaml:8:3: info: MeshConfig osm-system/osm-mesh-config spec.traffic: no rule allows DNS over TCP (port 53) for `curl/curl`: queries over UDP bypass the sidecar, but a response that is too long for UDP is retried over TCP and refused
        help: if you expect such responses, add an Egress with `ipAddresses: [NAME-SERVER/32]` and `ports: [{number: 53, protocol: tcp}]`, or add that block to the MeshConfig's `spec.traffic.outboundIPRangeExclusionList`
    DIR/route-group.yaml:24:5: info: Egress curl/httpbin-80-routes spec.ports[0]: Egress curl/httpbin-80 spec.ports[0] already allows everything that this port allows
        help: remove one of the two
    4 files, 5 objects (3 policies, 1 identity): 0 errors, 0 warnings
    ");
    assert_eq!(run(&dir).exit_code(true), 0);
    // Each one alone, too, with those that allow everything: these say so in their name, their first line and their
    // folder, and no other sample allows everything.
    let open = workspace("envoy/open-samples");
    let both = [&dir, &open].map(|folder| fs::read_dir(folder).expect("samples"));
    for sample in both.into_iter().flatten() {
        let sample = sample.expect("a sample").path();
        let alone = tempfile::tempdir().expect("a folder");
        fs::copy(&sample, alone.path().join("a.yaml")).expect("copied");
        assert_eq!(run(alone.path()).exit_code(true), 0, "{}", sample.display());
        let allows_all = text(alone.path()).contains("this allows any address");
        assert_eq!(allows_all, sample.starts_with(&open), "{}", sample.display());
        if allows_all {
            let name = sample.file_name().expect("a name").to_string_lossy().into_owned();
            let first = fs::read_to_string(&sample).expect("text");
            assert!(name.starts_with("any-") && first.starts_with("# ALLOWS EVERY HOST"), "{name}");
        }
    }
}

#[test]
fn a_folder_of_mistakes() {
    let report = run(&fixtures());
    assert_eq!((report.exit_code(false), report.exit_code(true)), (1, 1));
    insta::assert_snapshot!(text(&fixtures()));
}

#[test]
fn the_same_as_json() {
    let report = run(&fixtures()).to_json();
    let problems = report["diagnostics"].as_array().expect("a list");
    let errors = problems.iter().filter(|problem| problem["severity"] == "error").count();
    assert_eq!(report["summary"]["errors"], errors);
    let problem = problems.iter().find(|problem| problem["severity"] == "error").expect("an error");
    for key in ["severity", "file", "line", "column", "message", "advice"] {
        assert!(!problem[key].is_null(), "{key}: {problem}");
    }
}

#[test]
fn exit_codes() {
    for (name, manifest, lax, strict) in [
        ("nothing wrong", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", 0, 0),
        ("something to know", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", 0, 0),
        (
            "a warning",
            "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\nmetadata: {name: other}\nspec: {}\n",
            0,
            1,
        ),
        ("an error", "apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n", 1, 1),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("a.yaml"), manifest).expect("written");
        let report = run(dir.path());
        assert_eq!((report.exit_code(false), report.exit_code(true)), (lax, strict), "{name}: {report}");
    }
}

#[test]
fn folders_without_manifests() {
    let dir = tempfile::tempdir().expect("a folder");
    insta::assert_snapshot!(text(dir.path()), @r"
    warning: there is no manifest in `DIR`
        help: manifests are files that end in `.yaml`, `.yml` or `.json` and do not begin with `.`
    info: there is no MeshConfig `osm-system/osm-mesh-config`, so egress is enforced
    0 files, 0 objects (0 policies, 0 identities): 0 errors, 1 warning
    ");
    let missing = dir.path().join("missing");
    insta::assert_snapshot!(text(&missing), @r"
    error: folder `DIR` cannot be read: No such file or directory (os error 2)
        help: name a folder that exists and that you may read
    0 files, 0 objects (0 policies, 0 identities): 1 error, 0 warnings
    ");
    assert_eq!(run(&missing).exit_code(false), 1);
}
