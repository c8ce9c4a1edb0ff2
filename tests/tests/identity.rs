//! A proxy is who its certificate says, whatever its node says.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Names, Pair, Volume};
use egress_tests::client::{self, PATIENCE};
use egress_tests::envoy::{self, Envoy};
use egress_tests::mesh::{self, CONTROL_PLANE, World, echo_policy, echoes};
use egress_tests::netns::{Netns, ensure_capable};
use egress_tests::shim::{self, Shim};
use egress_tests::told;
use egress_tests::wait::wait_for;
use egress_tests::xds::Proxy;
use tonic::Code;

const XDS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
/// Under which name proxies know the control plane.
const HOST: &str = "osm-egress.osm-system.svc";
const UUID: &str = "0b1e2d3c-4f5a-6789-abcd-ef0123456789";

/// A certificate of `curl/NAME`, as Open Service Mesh gave them out.
fn named(authority: &Authority, name: &str) -> Result<Pair> {
    let common_name = format!("{UUID}.sidecar.{name}.curl.cluster.local");
    authority.issue(&Names { common_name: &common_name, ..Names::default() })
}

/// The control plane's own.
fn server(authority: &Authority) -> Result<Pair> {
    let hosts = [HOST, &CONTROL_PLANE.to_string()];
    authority.issue(&Names { common_name: "osm-egress", hosts: &hosts, ..Names::default() })
}

/// The control plane with these files, over policies of `curl/a` (port 9000) and `curl/b` (port 9100).
fn shim<'w>(world: &'w World, own: &Volume, ca: &Volume, flags: &[&str]) -> Result<Shim<'w>> {
    world.global_egress(false)?;
    world.write("a.yaml", &echo_policy("a", 9000))?;
    world.write("b.yaml", &echo_policy("b", 9100))?;
    let (certificate, key, ca) = (own.text("tls.crt"), own.text("tls.key"), ca.text("ca.crt"));
    let all = [&["--tls-cert", &certificate, "--tls-key", &key, "--client-ca", &ca], flags].concat();
    world.shim(&all)
}

/// Where Envoy finds its certificate, and the file by which it follows that.
struct Client {
    volume: Volume,
    sds: Volume,
}

impl Client {
    fn new(pair: &Pair) -> Result<Self> {
        Ok(Self { volume: Volume::of_pair(pair)?, sds: Volume::new(&[("sds.yaml", "")])? })
    }

    /// A bootstrap that names the control plane by its name.
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
        let text = mesh::bootstrap_with(identity, false, &flags)?;
        // There is no name server that knows it. It stands in the certificate all the same.
        let (name, address) = (format!("address: \"{HOST}\""), format!("address: \"{CONTROL_PLANE}\""));
        ensure!(text.contains(&name), "{text}");
        Ok(text.replace(&name, &address))
    }
}

/// A real Envoy gets the policy of its certificate, over connections that follow what changes on both sides.
#[test]
fn an_envoy_with_a_certificate() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let shim = shim(&world, &own, &ca, &["--credential-review-interval", "1s"])?;
    let client = Client::new(&named(&authority, "a")?)?;
    let envoy = Envoy::start(&pod, &client.bootstrap("curl/a", &ca)?, 1)?;
    wait_for("the policy", PATIENCE, || echoes(&pod, 9000)).with_context(|| envoy.log())?;
    ensure!(!echoes(&pod, 9100), "the policy of another is in force");
    ensure!(shim.log().contains("by=\"certificate\""), "{}", shim.log());

    // A new certificate of the control plane is shown to those who come, and nobody is cut.
    let before = shown(&world, &authority)?;
    let streams = shim.metric("osm_egress_xds_streams_total")?;
    own.put(&[("tls.crt", "none"), ("tls.key", "none")])?;
    let broken = || shim.metric("osm_egress_tls_reload_failures_total").is_ok_and(|count| count == 1);
    wait_for("the broken file to be seen", PATIENCE, broken)?;
    ensure!(shim.log().contains("the last good certificates stay in force"), "{}", shim.log());
    ensure!(shown(&world, &authority)? == before, "a broken file is in force");
    let expiry = shim.metric("osm_egress_tls_certificate_expiry_timestamp_seconds")?;
    own.put_pair(&server(&authority)?)?;
    wait_for("the new certificate to be shown", PATIENCE, || {
        shown(&world, &authority).is_ok_and(|now| now != before)
    })?;
    ensure!(shim.metric("osm_egress_tls_reloads_total")? == 1);
    ensure!(expiry > 0 && shim.metric("osm_egress_tls_certificate_expiry_timestamp_seconds")? > 0);
    // What changes now arrives by the stream that was open all the time.
    world.write("a.yaml", &echo_policy("a", 9100))?;
    wait_for("a change", PATIENCE, || echoes(&pod, 9100))?;
    ensure!(shim.metric("osm_egress_xds_streams_total")? == streams, "the stream was cut");

    // The authority is replaced: the old certificate is good no more, and Envoy comes back with a new one.
    let other = Authority::new()?;
    ca.put(&[("ca.crt", &other.pem)])?;
    let revoked = || shim.refused("revoked").is_ok_and(|n| n == 1);
    wait_for("the stream to be cut", Duration::from_secs(10), revoked).with_context(|| shim.log())?;
    client.volume.put_pair(&named(&other, "a")?)?;
    world.write("a.yaml", &echo_policy("a", 9000))?;
    wait_for("a change after that", Duration::from_secs(30), || echoes(&pod, 9000))
        .with_context(|| format!("{}\n{}", shim.log(), envoy.log_tail(20)))?;
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// A stream ends with its certificate, and the next one has the new one.
#[test]
fn a_certificate_that_expires() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let shim = shim(&world, &own, &ca, &[])?;
    let names = Names { uris: &["spiffe://cluster.local/ns/curl/sa/a"], ..Names::default() };
    let client = Client::new(&authority.issue_until(&names, SystemTime::now() + Duration::from_secs(6))?)?;
    let envoy = Envoy::start(&pod, &client.bootstrap("curl/a", &ca)?, 1)?;
    wait_for("the policy", PATIENCE, || echoes(&pod, 9000)).with_context(|| envoy.log())?;
    client.volume.put_pair(&authority.issue(&names)?)?;
    let expired = || shim.refused("expired").is_ok_and(|n| n == 1);
    wait_for("the stream to end", Duration::from_secs(20), expired).with_context(|| shim.log())?;
    ensure!(shim.log().contains("the certificate expired"), "{}", shim.log());
    world.write("a.yaml", &echo_policy("a", 9100))?;
    wait_for("a change after that", Duration::from_secs(20), || echoes(&pod, 9100))
        .with_context(|| format!("{}\n{}", shim.log(), envoy.log_tail(20)))?;
    Ok(())
}

/// The commands of `docs/identity.md` do what it says: those of bootstraps, and the control plane over a folder.
#[test]
fn the_commands_of_the_page() -> Result<()> {
    ensure_capable()?;
    let (folder, netns) = (tempfile::tempdir()?, Netns::new()?);
    let authority = Authority::new()?;
    let own = server(&authority)?;
    let module = shim::module()?;
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
    let page = std::fs::read_to_string(mesh::root().join("docs/identity.md"))?;
    let blocks = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let commands: Vec<String> = blocks
        // Of a machine that is not this one.
        .map(|block| block.replace("/etc/envoy", &folder.path().to_string_lossy()))
        .map(|block| {
            block.replace("osm-egress ", &format!("{} ", shim::binary().unwrap_or_default().display()))
        })
        .collect();
    ensure!(commands.len() == 4, "{commands:#?}");
    for command in &commands {
        let mut run = netns.command("sh");
        run.current_dir(folder.path()).args(["-ec", &format!("exec {command}")]);
        if command.contains("--service-account-tokens") {
            // It needs a cluster, and says so; the rest of it is in order.
            let output = run.env_remove("KUBECONFIG").env("HOME", "/nowhere").output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(said.contains("pass `--config-dir DIR`, or `--kubeconfig FILE`"), "{command}: {said}");
        } else if command.contains(" serve ") {
            let log = tempfile::NamedTempFile::new()?;
            let mut child = run.stderr(log.reopen()?).spawn()?;
            let address = SocketAddr::from(([127, 0, 0, 1], 15129));
            let ready = client::request("GET", "/readyz", &[("host", "a"), ("connection", "close")]);
            let waited = wait_for(command, PATIENCE, || {
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

/// What a proxy tells of is its own, whatever it says: policies are suggested from that.
#[test]
fn who_tells_of_connections() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let shim = shim(&world, &own, &ca, &["--flow-log"])?;
    let a = named(&authority, "a")?;
    let good = Proxy {
        authority: Some(&authority.pem),
        host: HOST,
        certificate: Some(&a),
        node: "p.a.curl",
        ..Proxy::default()
    };
    let refused = told::connection(SocketAddr::new(mesh::HTTPBIN, 25), b"deny no-rule - -", None);
    let tell = |proxy: &Proxy<'_>| {
        proxy.tell(&world.outside.netns, XDS, vec![told::connections(vec![refused.clone()])])
    };
    for (case, proxy, code) in [
        ("no credentials", Proxy { certificate: None, ..good.clone() }, Code::Unauthenticated),
        ("another's node id", Proxy { node: "p.b.curl", ..good.clone() }, Code::PermissionDenied),
        (
            "another's metadata",
            Proxy { metadata: &[("NAMESPACE", "curl"), ("SERVICE_ACCOUNT", "b")], ..good.clone() },
            Code::PermissionDenied,
        ),
    ] {
        let status = tell(&proxy)?.err().with_context(|| format!("{case}: it was listened to"))?;
        ensure!(status.code() == code, "{case}: {status:?}");
    }
    let flows = || -> Result<serde_json::Value> { Ok(serde_json::from_str(&shim.get("/flows")?)?) };
    ensure!(flows()?["flows"].as_array().is_some_and(Vec::is_empty), "{:#}", flows()?);
    tell(&good)?.context("who is known")?;
    let all = flows()?;
    ensure!(all["flows"].as_array().is_some_and(|flows| flows.len() == 1), "{all:#}");
    ensure!(all["flows"][0]["identity"] == "curl/a" && all["flows"][0]["port"] == 25, "{all:#}");
    Ok(())
}

/// The certificate that the control plane shows now.
fn shown(world: &World, authority: &Authority) -> Result<Vec<u8>> {
    world.outside.netns.run(|| {
        let mut roots = rustls::RootCertStore::empty();
        let pem = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem.as_bytes())?;
        roots.add(pem)?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut connection =
            rustls::ClientConnection::new(std::sync::Arc::new(config), HOST.to_owned().try_into()?)?;
        let mut stream = client::connect(XDS).map_err(|outcome| anyhow::anyhow!("{outcome:?}"))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(connection.peer_certificates().context("no certificate")?[0].to_vec())
    })?
}

/// Everybody who is not who he says he is, or does not say it well enough.
#[test]
fn who_is_refused() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let authority = Authority::new()?;
    let own = Volume::of_pair(&server(&authority)?)?;
    let ca = Volume::new(&[("ca.crt", &authority.pem)])?;
    let shim = shim(&world, &own, &ca, &[])?;
    let good = Proxy { authority: Some(&authority.pem), host: HOST, node: "p.a.curl", ..Proxy::default() };
    let issue =
        |common_name: &str, uris: &[&str]| authority.issue(&Names { common_name, uris, ..Names::default() });
    let a = named(&authority, "a")?;
    let nobody = issue("curl", &[])?;
    let elsewhere = issue("", &["spiffe://other.local/ns/curl/sa/a"])?;
    let two =
        issue(&format!("{UUID}.sidecar.a.curl.cluster.local"), &["spiffe://cluster.local/ns/curl/sa/b"])?;
    let spiffe = issue("", &["spiffe://cluster.local/ns/curl/sa/a"])?;
    let ask = |proxy: &Proxy<'_>| proxy.ask(&world.outside.netns, XDS);

    // Who is known gets what is his.
    for (case, proxy) in [
        ("a common name", Proxy { certificate: Some(&a), ..good.clone() }),
        ("a SPIFFE URI", Proxy { certificate: Some(&spiffe), ..good.clone() }),
        ("a node id of Open Service Mesh", Proxy { certificate: Some(&a), node: UUID, ..good.clone() }),
        ("no node id", Proxy { certificate: Some(&a), node: "", ..good.clone() }),
        // Tokens do not count here, so one does no harm.
        ("a token", Proxy { certificate: Some(&a), authorization: &["Bearer x"], ..good.clone() }),
    ] {
        let text = ask(&proxy)?.with_context(|| format!("{case}: {}", shim.log()))?;
        ensure!(
            text.contains("curl/a") && !text.contains("curl/b"),
            "{case}: not the policy of curl/a alone"
        );
    }
    for reason in ["no-credentials", "certificate", "other-identity", "node-changed"] {
        ensure!(shim.refused(reason)? == 0, "{}", shim.get("/metrics")?);
    }

    let (unauthenticated, forbidden) = (Code::Unauthenticated, Code::PermissionDenied);
    let metadata = [("NAMESPACE", "curl"), ("SERVICE_ACCOUNT", "b")];
    for (case, proxy, code, reason, said) in [
        (
            "no credentials",
            good.clone(),
            unauthenticated,
            "no-credentials",
            "the stream shows no credentials",
        ),
        (
            "a token alone",
            Proxy { authorization: &["Bearer a.b.c"], ..good.clone() },
            unauthenticated,
            "no-credentials",
            "the stream shows no credentials",
        ),
        (
            "a certificate that names nobody",
            Proxy { certificate: Some(&nobody), ..good.clone() },
            unauthenticated,
            "certificate",
            "it names no service account: its common name is `curl`",
        ),
        (
            "another trust domain",
            Proxy { certificate: Some(&elsewhere), ..good.clone() },
            unauthenticated,
            "certificate",
            "is of trust domain `other.local`, not `cluster.local`",
        ),
        (
            "two names",
            Proxy { certificate: Some(&two), ..good.clone() },
            unauthenticated,
            "certificate",
            "its common name says curl/a, its SPIFFE URI curl/b",
        ),
        (
            "another's node id",
            Proxy { certificate: Some(&a), node: "p.b.curl", ..good.clone() },
            forbidden,
            "other-identity",
            "curl/a (by certificate) asks for what is of curl/b, says its node id `p.b.curl`",
        ),
        (
            "another's node id in Open Service Mesh's form",
            Proxy {
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
            Proxy { certificate: Some(&a), metadata: &metadata, ..good.clone() },
            forbidden,
            "other-identity",
            "asks for what is of SERVICE_ACCOUNT `b`",
        ),
        (
            "another's node id later",
            Proxy { certificate: Some(&a), then: Some("p.b.curl"), ..good.clone() },
            forbidden,
            "node-changed",
            "the node of a stream cannot change: it was `p.a.curl`, and is `p.b.curl`",
        ),
    ] {
        let (count, log) = (shim.refused(reason)?, shim.log().len());
        let status = ask(&proxy)?.err().with_context(|| format!("{case}: it was told something"))?;
        ensure!(status.code() == code && status.message().contains(said), "{case}: {status:?}");
        ensure!(shim.refused(reason)? == count + 1, "{case}: {}", shim.get("/metrics")?);
        let log = shim.log().split_off(log);
        ensure!(log.contains("proxy refused") && log.contains(said), "{case}: {log}");
        ensure!(log.contains(&format!("peer={CONTROL_PLANE}:")), "{case}: {log}");
    }

    // TLS does not even begin, with a reason in the log.
    let stranger = Authority::new()?;
    let unknown = named(&stranger, "a")?;
    let names = Names { uris: &["spiffe://cluster.local/ns/curl/sa/a"], ..Names::default() };
    let expired = authority.issue_until(&names, SystemTime::now() - Duration::from_secs(60))?;
    for (case, proxy, said) in [
        ("an unknown authority", Proxy { certificate: Some(&unknown), ..good.clone() }, "UnknownIssuer"),
        ("an expired certificate", Proxy { certificate: Some(&expired), ..good.clone() }, "xpired"),
        ("plaintext", Proxy { authority: None, ..good.clone() }, "TLS handshake failed"),
        ("a control plane of another", Proxy { authority: Some(&stranger.pem), ..good.clone() }, "UnknownCA"),
    ] {
        let (count, log) = (shim.metric("osm_egress_tls_handshake_failures_total")?, shim.log().len());
        ensure!(ask(&proxy)?.is_err(), "{case}: it was told something");
        let seen = || shim.metric("osm_egress_tls_handshake_failures_total").is_ok_and(|now| now > count);
        wait_for(case, PATIENCE, seen).with_context(|| shim.log())?;
        let logged = || shim.log().split_off(log).contains(said);
        wait_for(said, PATIENCE, logged).with_context(|| format!("{case}: {}", shim.log()))?;
    }

    // Who does not go on with his handshake delays nobody.
    let idle: Vec<TcpStream> = world
        .outside
        .netns
        .run(|| (0..50).map(|_| TcpStream::connect(XDS)).collect::<std::io::Result<_>>())??;
    ask(&Proxy { certificate: Some(&a), ..good })?.context("beside idle connections")?;
    drop(idle);
    Ok(())
}
