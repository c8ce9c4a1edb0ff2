//! XdsClient identity by client certificate, whatever the node says.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Names, Pair, Volume};
use egress_tests::client::{self, IO_TIMEOUT};
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::envoy::{self, Envoy};
use egress_tests::log_entries;
use egress_tests::manifests::echo_policy;
use egress_tests::netns::{Netns, ensure_capable};
use egress_tests::network::{self, CONTROL_PLANE, TestNetwork};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload::gets_echo;
use egress_tests::xds::XdsClient;
use tonic::Code;

const XDS_ADDRESS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
/// The name in the control plane's certificate.
const HOST: &str = "osm-egress.osm-system.svc";
const UUID: &str = "0b1e2d3c-4f5a-6789-abcd-ef0123456789";

/// Issues a certificate of `curl/NAME`, like Open Service Mesh's.
fn issue_proxy_certificate(authority: &Authority, name: &str) -> Result<Pair> {
    let common_name = format!("{UUID}.sidecar.{name}.curl.cluster.local");
    authority.issue(&Names { common_name: &common_name, ..Names::default() })
}

/// Issues the control plane's certificate.
fn server(authority: &Authority) -> Result<Pair> {
    let hosts = [HOST, &CONTROL_PLANE.to_string()];
    authority.issue(&Names { common_name: "osm-egress", hosts: &hosts, ..Names::default() })
}

/// Starts the control plane with these files and policies of `curl/a` (port 9000) and `curl/b` (port 9100).
fn control_plane<'n>(
    network: &'n TestNetwork,
    own: &Volume,
    ca: &Volume,
    flags: &[&str],
) -> Result<ControlPlane<'n>> {
    network.global_egress(false)?;
    network.write("a.yaml", &echo_policy("a", 9000))?;
    network.write("b.yaml", &echo_policy("b", 9100))?;
    let (certificate, key, ca) = (own.text("tls.crt"), own.text("tls.key"), ca.text("ca.crt"));
    let all = [&["--tls-cert", &certificate, "--tls-key", &key, "--client-ca", &ca], flags].concat();
    network.control_plane(&all)
}

/// The volume of an Envoy's certificate, and the file by which Envoy follows it.
struct Client {
    volume: Volume,
    sds: Volume,
}

impl Client {
    fn new(pair: &Pair) -> Result<Self> {
        Ok(Self { volume: Volume::of_pair(pair)?, sds: Volume::new(&[("sds.yaml", "")])? })
    }

    /// A bootstrap that reaches the control plane by name.
    fn bootstrap(&self, identity: &str, ca: &Volume) -> Result<String> {
        let xds = format!("{HOST}:15128");
        let (certificate, key) = (self.volume.text("tls.crt"), self.volume.text("tls.key"));
        let (sds, ca) = (self.sds.text("sds.yaml"), ca.text("ca.crt"));
        let flags = [
            "--xds",
            &xds,
            "--xds-ca",
            &ca,
            "--client-cert",
            &certificate,
            "--client-key",
            &key,
            "--client-sds",
            &sds,
        ];
        let text = sidecar::bootstrap_with(identity, false, &flags)?;
        // No name server resolves this name, but the certificate has it.
        let (name, address) = (format!("address: {HOST},"), format!("address: \"{CONTROL_PLANE}\","));
        ensure!(text.contains(&name), "{text}");
        Ok(text.replace(&name, &address))
    }
}

/// A real Envoy gets the policy of its certificate, and both sides follow new certificates.
#[test]
fn an_envoy_gets_the_policy_of_its_certificate() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let control_plane = control_plane(&network, &own, &ca, &["--credential-review-interval", "1s"])?;
    let client = Client::new(&issue_proxy_certificate(&authority, "a")?)?;
    let envoy = Envoy::start(&pod, &client.bootstrap("curl/a", &ca)?, 1)?;
    wait_for("the policy", IO_TIMEOUT, || gets_echo(&pod, 9000)).with_context(|| envoy.log())?;
    ensure!(!gets_echo(&pod, 9100), "the policy of another is in force");
    ensure!(control_plane.log().contains("by=\"certificate\""), "{}", control_plane.log());

    // New connections get the control plane's new certificate, and open ones stay.
    let before = presented_certificate(&network, &authority)?;
    let streams = control_plane.metric("osm_egress_xds_streams_total")?;
    own.put(&[("tls.crt", "none"), ("tls.key", "none")])?;
    let broken =
        || control_plane.metric("osm_egress_tls_reload_failures_total").is_ok_and(|count| count == 1);
    wait_for("the broken file to be seen", IO_TIMEOUT, broken)?;
    ensure!(
        control_plane.log().contains("the last good certificates stay in force"),
        "{}",
        control_plane.log()
    );
    ensure!(presented_certificate(&network, &authority)? == before, "a broken file is in force");
    let expiry = control_plane.metric("osm_egress_tls_certificate_expiry_timestamp_seconds")?;
    own.put_pair(&server(&authority)?)?;
    wait_for("the new certificate to be shown", IO_TIMEOUT, || {
        presented_certificate(&network, &authority).is_ok_and(|now| now != before)
    })?;
    ensure!(control_plane.metric("osm_egress_tls_reloads_total")? == 1);
    ensure!(expiry > 0 && control_plane.metric("osm_egress_tls_certificate_expiry_timestamp_seconds")? > 0);
    // The next change arrives on the stream that stayed open.
    network.write("a.yaml", &echo_policy("a", 9100))?;
    wait_for("a change", IO_TIMEOUT, || gets_echo(&pod, 9100))?;
    ensure!(control_plane.metric("osm_egress_xds_streams_total")? == streams, "the stream was cut");

    // The CA is replaced: the old certificate is no longer valid, and Envoy reconnects with a new one.
    let other = Authority::new()?;
    ca.put(&[("ca.crt", &other.pem)])?;
    let revoked = || control_plane.refusal_count("revoked").is_ok_and(|n| n == 1);
    wait_for("the stream to be cut", Duration::from_secs(10), revoked)
        .with_context(|| control_plane.log())?;
    client.volume.put_pair(&issue_proxy_certificate(&other, "a")?)?;
    network.write("a.yaml", &echo_policy("a", 9000))?;
    wait_for("a change after that", Duration::from_secs(30), || gets_echo(&pod, 9000))
        .with_context(|| format!("{}\n{}", control_plane.log(), envoy.log_tail(20)))?;
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// A stream ends when its certificate expires, and the next stream has the new certificate.
#[test]
fn a_stream_ends_with_its_certificate() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let control_plane = control_plane(&network, &own, &ca, &[])?;
    let names = Names { uris: &["spiffe://cluster.local/ns/curl/sa/a"], ..Names::default() };
    let client = Client::new(&authority.issue_until(&names, SystemTime::now() + Duration::from_secs(6))?)?;
    let envoy = Envoy::start(&pod, &client.bootstrap("curl/a", &ca)?, 1)?;
    wait_for("the policy", IO_TIMEOUT, || gets_echo(&pod, 9000)).with_context(|| envoy.log())?;
    client.volume.put_pair(&authority.issue(&names)?)?;
    let expired = || control_plane.refusal_count("expired").is_ok_and(|n| n == 1);
    wait_for("the stream to end", Duration::from_secs(20), expired).with_context(|| control_plane.log())?;
    ensure!(control_plane.log().contains("the certificate expired"), "{}", control_plane.log());
    network.write("a.yaml", &echo_policy("a", 9100))?;
    wait_for("a change after that", Duration::from_secs(20), || gets_echo(&pod, 9100))
        .with_context(|| format!("{}\n{}", control_plane.log(), envoy.log_tail(20)))?;
    Ok(())
}

/// The commands of `docs/identity.md` work: those of bootstraps, and the control plane on a folder.
#[test]
fn the_documented_commands_work() -> Result<()> {
    ensure_capable()?;
    let (folder, netns) = (tempfile::tempdir()?, Netns::new()?);
    let authority = Authority::new()?;
    let own = server(&authority)?;
    let module = control_plane::module()?;
    std::os::unix::fs::symlink(module, folder.path().join("egress_filter.wasm"))?;
    std::fs::create_dir(folder.path().join("manifests"))?;
    for (name, text) in [
        ("tls.crt", &own.certificate),
        ("tls.key", &own.key),
        ("ca.crt", &authority.pem),
        ("clients.crt", &authority.pem),
    ] {
        std::fs::write(folder.path().join(name), text)?;
    }
    let page = std::fs::read_to_string(repository_root().join("docs/identity.md"))?;
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let commands: Vec<String> = blocks
        // An address of another machine.
        .map(|block| block.replace("/etc/envoy", &folder.path().to_string_lossy()))
        .map(|block| {
            block.replace(
                "osm-egress ",
                &format!("{} ", control_plane::binary().unwrap_or_default().display()),
            )
        })
        .collect();
    ensure!(commands.len() == 4, "{commands:#?}");
    for command in &commands {
        let mut run = netns.command("sh");
        run.current_dir(folder.path()).args(["-ec", &format!("exec {command}")]);
        if command.contains("--service-account-tokens") {
            // It fails only because there is no cluster.
            let output = run.env_remove("KUBECONFIG").env("HOME", "/nowhere").output()?;
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                message.contains("pass `--config-dir DIR`, or `--kubeconfig FILE`"),
                "{command}: {message}"
            );
        } else if command.contains(" serve ") {
            let log = tempfile::NamedTempFile::new()?;
            let mut child = run.stderr(log.reopen()?).spawn()?;
            let address = SocketAddr::from(([127, 0, 0, 1], 15129));
            let ready = client::request("GET", "/readyz", &[("host", "a"), ("connection", "close")]);
            let waited = wait_for(command, IO_TIMEOUT, || {
                let outcome = netns.run(|| client::http(address, &ready));
                matches!(outcome, Ok(client::Outcome::Http(answer)) if answer.status == 200)
            });
            child.kill()?;
            child.wait()?;
            waited.with_context(|| std::fs::read_to_string(log.path()).unwrap_or_default())?;
        } else {
            let output = run.output()?;
            ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            let mut validate = std::process::Command::new(envoy::binary()?);
            let bootstrap = folder.path().join("bootstrap.yaml");
            let output = validate
                .args(["--mode", "validate", "--disable-hot-restart", "-c"])
                .arg(bootstrap)
                .output()?;
            ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// A proxy's reports count for its own identity, whatever they say: policies are suggested from them.
#[test]
fn reports_count_for_the_identity_of_the_certificate() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let control_plane = control_plane(&network, &own, &ca, &["--flow-log"])?;
    let a = issue_proxy_certificate(&authority, "a")?;
    let good = XdsClient {
        authority: Some(&authority.pem),
        host: HOST,
        certificate: Some(&a),
        node: "p.a.curl",
        ..XdsClient::default()
    };
    let refused = log_entries::connection(SocketAddr::new(network::HTTPBIN, 25), b"deny no-rule - -", None);
    let report = |proxy: &XdsClient<'_>| {
        proxy.send_log_entries(
            &network.outside.netns,
            XDS_ADDRESS,
            vec![log_entries::connections(vec![refused.clone()])],
        )
    };
    for (case, proxy, code) in [
        ("no credentials", XdsClient { certificate: None, ..good.clone() }, Code::Unauthenticated),
        ("another's node id", XdsClient { node: "p.b.curl", ..good.clone() }, Code::PermissionDenied),
        (
            "another's metadata",
            XdsClient { metadata: &[("NAMESPACE", "curl"), ("SERVICE_ACCOUNT", "b")], ..good.clone() },
            Code::PermissionDenied,
        ),
    ] {
        let status = report(&proxy)?.err().with_context(|| format!("{case}: it was listened to"))?;
        ensure!(status.code() == code, "{case}: {status:?}");
    }
    let flows = || -> Result<serde_json::Value> { Ok(serde_json::from_str(&control_plane.get("/flows")?)?) };
    ensure!(flows()?["flows"].as_array().is_some_and(Vec::is_empty), "{:#}", flows()?);
    report(&good)?.context("who is known")?;
    let all = flows()?;
    ensure!(all["flows"].as_array().is_some_and(|flows| flows.len() == 1), "{all:#}");
    ensure!(all["flows"][0]["identity"] == "curl/a" && all["flows"][0]["port"] == 25, "{all:#}");
    Ok(())
}

/// The certificate that the control plane presents now.
fn presented_certificate(network: &TestNetwork, authority: &Authority) -> Result<Vec<u8>> {
    network.outside.netns.run(|| {
        let mut roots = rustls::RootCertStore::empty();
        let pem = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem.as_bytes())?;
        roots.add(pem)?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut connection =
            rustls::ClientConnection::new(std::sync::Arc::new(config), HOST.to_owned().try_into()?)?;
        let mut stream = client::connect(XDS_ADDRESS).map_err(|outcome| anyhow::anyhow!("{outcome:?}"))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(connection.peer_certificates().context("no certificate")?[0].to_vec())
    })?
}

/// Every client whose certificate is missing, wrong or of another identity is refused.
#[test]
fn clients_without_a_valid_certificate_are_refused() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let control_plane = control_plane(&network, &own, &ca, &[])?;
    let good =
        XdsClient { authority: Some(&authority.pem), host: HOST, node: "p.a.curl", ..XdsClient::default() };
    let issue =
        |common_name: &str, uris: &[&str]| authority.issue(&Names { common_name, uris, ..Names::default() });
    let a = issue_proxy_certificate(&authority, "a")?;
    let nobody = issue("curl", &[])?;
    let elsewhere = issue("", &["spiffe://other.local/ns/curl/sa/a"])?;
    let two =
        issue(&format!("{UUID}.sidecar.a.curl.cluster.local"), &["spiffe://cluster.local/ns/curl/sa/b"])?;
    let spiffe = issue("", &["spiffe://cluster.local/ns/curl/sa/a"])?;
    let fetch = |proxy: &XdsClient<'_>| proxy.fetch_policy(&network.outside.netns, XDS_ADDRESS);

    // A client with a certificate gets its own policy.
    for (case, proxy) in [
        ("a common name", XdsClient { certificate: Some(&a), ..good.clone() }),
        ("a SPIFFE URI", XdsClient { certificate: Some(&spiffe), ..good.clone() }),
        ("a node id of Open Service Mesh", XdsClient { certificate: Some(&a), node: UUID, ..good.clone() }),
        ("no node id", XdsClient { certificate: Some(&a), node: "", ..good.clone() }),
        // Tokens are ignored here.
        ("a token", XdsClient { certificate: Some(&a), authorization: &["Bearer x"], ..good.clone() }),
    ] {
        let text = fetch(&proxy)?.with_context(|| format!("{case}: {}", control_plane.log()))?;
        ensure!(
            text.contains("curl/a") && !text.contains("curl/b"),
            "{case}: not the policy of curl/a alone"
        );
    }
    for reason in ["no-credentials", "certificate", "other-identity", "node-changed"] {
        ensure!(control_plane.refusal_count(reason)? == 0, "{}", control_plane.get("/metrics")?);
    }

    let (unauthenticated, forbidden) = (Code::Unauthenticated, Code::PermissionDenied);
    let metadata = [("NAMESPACE", "curl"), ("SERVICE_ACCOUNT", "b")];
    for (case, proxy, code, reason, message) in [
        (
            "no credentials",
            good.clone(),
            unauthenticated,
            "no-credentials",
            "the stream shows no credentials",
        ),
        (
            "a token alone",
            XdsClient { authorization: &["Bearer a.b.c"], ..good.clone() },
            unauthenticated,
            "no-credentials",
            "the stream shows no credentials",
        ),
        (
            "a certificate that names nobody",
            XdsClient { certificate: Some(&nobody), ..good.clone() },
            unauthenticated,
            "certificate",
            "it names no service account: its common name is `curl`",
        ),
        (
            "another trust domain",
            XdsClient { certificate: Some(&elsewhere), ..good.clone() },
            unauthenticated,
            "certificate",
            "is of trust domain `other.local`, not `cluster.local`",
        ),
        (
            "two names",
            XdsClient { certificate: Some(&two), ..good.clone() },
            unauthenticated,
            "certificate",
            "its common name says curl/a, its SPIFFE URI curl/b",
        ),
        (
            "another's node id",
            XdsClient { certificate: Some(&a), node: "p.b.curl", ..good.clone() },
            forbidden,
            "other-identity",
            "curl/a (by certificate) asks for what is of curl/b, says its node id `p.b.curl`",
        ),
        (
            "another's node id in Open Service Mesh's form",
            XdsClient {
                certificate: Some(&a),
                node: "0b1e2d3c-4f5a-6789-abcd-ef0123456789.sidecar.b.curl.cluster.local",
                ..good.clone()
            },
            forbidden,
            "other-identity",
            "asks for what is of curl/b",
        ),
        (
            "another's metadata",
            XdsClient { certificate: Some(&a), metadata: &metadata, ..good.clone() },
            forbidden,
            "other-identity",
            "asks for what is of SERVICE_ACCOUNT `b`",
        ),
        (
            "another's node id later",
            XdsClient { certificate: Some(&a), second_node: Some("p.b.curl"), ..good.clone() },
            forbidden,
            "node-changed",
            "the node of a stream cannot change: it was `p.a.curl`, and is `p.b.curl`",
        ),
    ] {
        let (count, log) = (control_plane.refusal_count(reason)?, control_plane.log().len());
        let status = fetch(&proxy)?.err().with_context(|| format!("{case}: it got a policy"))?;
        ensure!(status.code() == code && status.message().contains(message), "{case}: {status:?}");
        ensure!(
            control_plane.refusal_count(reason)? == count + 1,
            "{case}: {}",
            control_plane.get("/metrics")?
        );
        let log = control_plane.log().split_off(log);
        ensure!(log.contains("proxy refused") && log.contains(message), "{case}: {log}");
        ensure!(log.contains(&format!("peer={CONTROL_PLANE}:")), "{case}: {log}");
    }

    // The TLS handshake fails, and the log has the reason.
    let stranger = Authority::new()?;
    let unknown = issue_proxy_certificate(&stranger, "a")?;
    let names = Names { uris: &["spiffe://cluster.local/ns/curl/sa/a"], ..Names::default() };
    let expired = authority.issue_until(&names, SystemTime::now() - Duration::from_secs(60))?;
    for (case, proxy, message) in [
        ("an unknown authority", XdsClient { certificate: Some(&unknown), ..good.clone() }, "UnknownIssuer"),
        ("an expired certificate", XdsClient { certificate: Some(&expired), ..good.clone() }, "xpired"),
        ("plaintext", XdsClient { authority: None, ..good.clone() }, "TLS handshake failed"),
        (
            "a control plane of another",
            XdsClient { authority: Some(&stranger.pem), ..good.clone() },
            "UnknownCA",
        ),
    ] {
        let (count, log) =
            (control_plane.metric("osm_egress_tls_handshake_failures_total")?, control_plane.log().len());
        ensure!(fetch(&proxy)?.is_err(), "{case}: it got a policy");
        let seen =
            || control_plane.metric("osm_egress_tls_handshake_failures_total").is_ok_and(|now| now > count);
        wait_for(case, IO_TIMEOUT, seen).with_context(|| control_plane.log())?;
        let logged = || control_plane.log().split_off(log).contains(message);
        wait_for(message, IO_TIMEOUT, logged).with_context(|| format!("{case}: {}", control_plane.log()))?;
    }

    // An unfinished handshake delays no other client.
    let idle: Vec<TcpStream> = network
        .outside
        .netns
        .run(|| (0..50).map(|_| TcpStream::connect(XDS_ADDRESS)).collect::<std::io::Result<_>>())??;
    fetch(&XdsClient { certificate: Some(&a), ..good })?.context("beside idle connections")?;
    drop(idle);
    Ok(())
}
