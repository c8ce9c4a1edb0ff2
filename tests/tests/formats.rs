//! Documents and modules of different releases: they work together, or the last policy stays and a reason is given.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::envoy::Envoy;
use egress_tests::manifests::{echo_fields, echo_policy, egress};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::sidecar;
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;
use egress_tests::workload::{self, gets_echo};
use serde_json::Value;

/// A document of the first format, with the fields that it began with.
const V1: &str = include_str!("../../policy/tests/documents/v1.json");

/// Replaces the policies in a configuration of Envoy.
fn with_policy(config: &str, document: &str) -> Result<String> {
    let document: Value = serde_json::from_str(document)?;
    let mut parts = config.split("\"policy\": {\n");
    let mut text = parts.next().context("no configuration")?.to_owned();
    for part in parts {
        let (_, rest) = part.split_once("]}}").context("the policy has no end")?;
        text += &format!("\"policy\": {document}}}{rest}");
    }
    Ok(text)
}

#[test]
fn a_document_of_the_first_format_is_enforced() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let standalone = Standalone::new()?;
    let config = with_policy(&standalone.example()?, V1)?;
    ensure!(config.contains("reads/get") && !config.contains("default/httpbin"), "{config}");
    let _envoy = Envoy::start(&pod, &config, 1)?;
    let http = SocketAddr::new(HTTPBIN, 80);
    for (path, status) in [("/get", 200), ("/anything", 403)] {
        let outcome = workload::get(&pod, http, "httpbin.org", path)?;
        let is_expected = matches!(&outcome, Outcome::Http(answer) if answer.status == status);
        ensure!(is_expected, "{path}: {outcome:?}");
    }
    let tls = |name| workload::get_tls(&pod, SocketAddr::new(HTTPBIN, 443), Some(name));
    ensure!(matches!(tls("httpbin.org")?, Outcome::Http(answer) if answer.status == 200));
    ensure!(!matches!(tls("other.org")?, Outcome::Http(_)));
    Ok(())
}

/// A second port of the echo server.
const MORE: u16 = 9100;

/// The module of a release whose documents have another format: ours, with another name of the format in it. The name
/// is there as text, and the compiler may compare it with two constants.
fn module_of_another_format() -> Result<Vec<u8>> {
    let mut module = std::fs::read(control_plane::module()?)?;
    let ours = egress_policy::API_VERSION.as_bytes();
    let other = [&ours[..ours.len() - 1], b"9"].concat();
    let constant = |name: &[u8]| name.last_chunk::<8>().map(|end| leb128(i64::from_le_bytes(*end)));
    let constants = constant(ours).zip(constant(&other)).context("the name is short")?;
    let mut replaced = 0;
    for (from, to) in [(ours.to_vec(), other), constants] {
        for at in 0..=module.len() - from.len() {
            if module[at..].starts_with(&from) {
                module[at..at + to.len()].copy_from_slice(&to);
                replaced += 1;
            }
        }
    }
    ensure!(replaced > 0, "the module does not have the name of its format");
    Ok(module)
}

/// Encodes a constant of WebAssembly.
fn leb128(mut number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if (number == 0 && byte & 0x40 == 0) || (number == -1 && byte & 0x40 != 0) {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

#[test]
fn a_module_of_another_format_keeps_the_last_policy_and_names_both_formats() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.write("good.yaml", &echo_policy("curl", 9000))?;
    let file = network.manifests.path().join("module.wasm");
    let name_server = format!("{}:53", NAME_SERVER);
    let flags = ["--dns-resolver", &name_server, "--wasm", &file.to_string_lossy()];
    let serve =
        || ControlPlane::start(&network.outside.netns, CONTROL_PLANE, network.manifests.path(), &flags);

    // A release.
    std::fs::copy(control_plane::module()?, &file)?;
    let control_plane = serve()?;
    let envoy = Envoy::start(&pod, &sidecar::bootstrap("curl/curl", false)?, 1)?;
    wait_for("the policy", Duration::from_secs(10), || gets_echo(&pod, 9000))?;
    control_plane.stop()?;

    // Its control plane with the module of another: Envoy refuses the plugin, and keeps what it has.
    std::fs::write(&file, module_of_another_format()?)?;
    let more = egress("more", &echo_fields(MORE));
    network.write("more.yaml", &more)?;
    let control_plane = serve()?;
    let error = || control_plane.status().map(|status| status["proxies"][0]["heldBack"]["error"].clone());
    wait_for("the refusal", Duration::from_secs(15), || error().is_ok_and(|error| error.is_string()))
        .with_context(|| {
            format!("{:#}\n{}", control_plane.status().unwrap_or_default(), envoy.log_tail(20))
        })?;
    ensure!(gets_echo(&pod, 9000), "what was allowed before is closed");
    ensure!(!gets_echo(&pod, MORE), "a policy that the module cannot read allows something");
    let expected = "egress: configuration refused: policy: the policy document has the format `egress-policy/v1`, and \
        this release reads `egress-policy/v9`: use the filter module and the control plane of one release";
    ensure!(envoy.log().contains(expected), "{}", envoy.log_tail(20));
    control_plane.stop()?;

    // And back.
    std::fs::copy(control_plane::module()?, &file)?;
    let _control_plane = serve()?;
    wait_for("the new policy after the rollback", Duration::from_secs(15), || gets_echo(&pod, MORE))?;
    ensure!(gets_echo(&pod, 9000));
    Ok(())
}
