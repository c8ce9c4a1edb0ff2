//! Errors of the command line.

use std::process::Command;

use anyhow::{Result, ensure};
use egress_tests::control_plane;

/// Each error of the command line names the subject, the problem and the remedy.
#[test]
fn bad_input_names_subject_problem_and_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().to_string_lossy().into_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let module = control_plane::module()?.to_string_lossy().into_owned();
    let serve = ["serve", "--config-dir", &dir, "--wasm", &module];
    let believed = ["--insecure-node-identity"];
    let elsewhere = ["--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    for (case, arguments, code, expected) in [
        ("no command", vec![], 2, "Usage:"),
        ("unknown flag", vec!["serve", "--nope"], 2, "unexpected argument '--nope'"),
        ("no folder", vec!["check"], 2, "<DIR>"),
        ("a folder that is not there", vec!["check", "/nowhere"], 1, "/nowhere"),
        ("no identity", vec!["bootstrap"], 2, "--identity"),
        ("a bad identity", vec!["bootstrap", "--identity", "Curl"], 2, "namespace/service-account"),
        (
            "an old Envoy",
            vec!["bootstrap", "--identity", "a/b", "--envoy-version", "1.37"],
            2,
            "1.39 or newer",
        ),
        ("no identification", serve.to_vec(), 2, "--service-account-tokens|--insecure-node-identity"),
        (
            "belief and credentials",
            [&serve[..], &believed, &["--client-ca", "x", "--tls-cert", "x", "--tls-key", "x"]].concat(),
            2,
            "cannot be used with",
        ),
        (
            "tokens in plaintext",
            vec!["serve", "--wasm", &module, "--service-account-tokens"],
            2,
            "--tls-cert <FILE>",
        ),
        (
            "client certificates in plaintext",
            [&serve[..], &["--client-ca", "x"]].concat(),
            2,
            "--tls-cert <FILE>",
        ),
        (
            "a certificate without a key",
            [&serve[..], &believed, &["--tls-cert", "x"]].concat(),
            2,
            "--tls-key <FILE>",
        ),
        (
            "tokens without a cluster",
            [&serve[..], &["--service-account-tokens", "--tls-cert", "x", "--tls-key", "x"]].concat(),
            2,
            "cannot be used with",
        ),
        (
            "a trust domain that is none",
            [&serve[..], &believed, &["--trust-domain", "spiffe://a"]].concat(),
            2,
            "as in `cluster.local`",
        ),
        (
            "a certificate that is not there",
            [&serve[..], &believed, &elsewhere, &["--tls-cert", "/nowhere", "--tls-key", "/nowhere"]]
                .concat(),
            1,
            "cannot read /nowhere",
        ),
        (
            "a certificate that is none",
            [&serve[..], &believed, &elsewhere, &["--tls-cert", "/etc/passwd", "--tls-key", "/etc/passwd"]]
                .concat(),
            1,
            "/etc/passwd has no certificate: expected PEM",
        ),
        (
            "a token in plaintext",
            vec!["bootstrap", "--identity", "a/b", "--token-file", "/t"],
            2,
            "--xds-ca <FILE>",
        ),
        (
            "a certificate that is not followed",
            vec![
                "bootstrap",
                "--identity",
                "a/b",
                "--xds-ca",
                "x",
                "--client-cert",
                "/c",
                "--client-key",
                "/k",
            ],
            2,
            "--client-sds <PATH>",
        ),
        (
            "a token and a certificate",
            vec![
                "bootstrap",
                "--identity",
                "a/b",
                "--xds-ca",
                "x",
                "--token-file",
                "/t",
                "--client-cert",
                "/c",
            ],
            2,
            "cannot be used with",
        ),
        (
            "a path on this machine",
            vec!["bootstrap", "--identity", "a/b", "--xds-ca", "x", "--token-file", "token"],
            2,
            "use an absolute path",
        ),
        (
            "an authority that is none",
            vec!["bootstrap", "--identity", "a/b", "--xds-ca", "/etc/passwd"],
            1,
            "/etc/passwd: there is no certificate",
        ),
        (
            "an address in place of a block",
            [&serve[..], &["--never-resolve-to", "10.0.0.0/8,10.0.0.1"]].concat(),
            2,
            "`10.0.0.1` is not an address block",
        ),
        (
            "no time at all",
            [&serve[..], &["--first-bytes-timeout", "0s"]].concat(),
            2,
            "it must be 10ms to 1h",
        ),
        ("no duration", [&serve[..], &["--first-bytes-timeout", "5"]].concat(), 2, "write it as `5s`"),
        ("no family", [&serve[..], &["--ip-families", "ipv6"]].concat(), 2, "[possible values: dual, ipv4]"),
        (
            "a port in use",
            [&serve[..], &["--insecure-node-identity", "--xds-listen", &address]].concat(),
            1,
            "cannot listen for xDS on",
        ),
        (
            "a module that is not there",
            vec!["serve", "--config-dir", &dir, "--wasm", "/nowhere.wasm", "--insecure-node-identity"],
            1,
            "cargo xtask build",
        ),
        (
            "a module that is none",
            vec!["serve", "--config-dir", &dir, "--wasm", "/etc/passwd", "--insecure-node-identity"],
            1,
            "is not a wasm module",
        ),
        (
            "a folder and a cluster",
            vec!["serve", "--config-dir", &dir, "--kubeconfig", "x", "--wasm", &module],
            2,
            "cannot be used with",
        ),
        (
            "a kubeconfig that is not there",
            vec!["serve", "--kubeconfig", "/nowhere", "--wasm", &module, "--insecure-node-identity"],
            1,
            "cannot use /nowhere",
        ),
        (
            "neither a folder nor a cluster",
            vec!["serve", "--wasm", &module, "--insecure-node-identity"],
            1,
            "pass `--config-dir DIR`, or `--kubeconfig FILE`",
        ),
        ("nobody there", vec!["status", "--admin", "127.0.0.1:1"], 1, "is `osm-egress serve` running?"),
    ] {
        let output = Command::new(control_plane::binary()?)
            .args(&arguments)
            // Without the machine's own environment.
            .env_remove("EGRESS_WASM")
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("HOME", "/nowhere")
            .output()?;
        let message = [output.stdout, output.stderr].concat();
        let message = String::from_utf8_lossy(&message);
        ensure!(
            output.status.code() == Some(code),
            "{case}: exit code {:?}, {message}",
            output.status.code()
        );
        ensure!(message.contains(expected), "{case}: {message}");
    }
    Ok(())
}

/// The error for a missing Envoy names its path.
#[test]
fn a_missing_envoy_is_named() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).env("ENVOY_PATH", "/nowhere/envoy").output()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{message}");
    ensure!(message.contains("there is no Envoy at /nowhere/envoy"), "{message}");
    Ok(())
}
