//! IPv6 is intercepted and decided like IPv4: an address family is no way round the policy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::mesh::{MeshOptions, Reply, TestMesh, with_prepared_mesh};
use egress_tests::netns::PodForm;
use egress_tests::network::{ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, TestNetwork};
use egress_tests::origin::{GREETING, OriginEvent};
use egress_tests::wait::wait_for;

const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: names, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [six.example, dual.example, four.example]
  ports:
  - {number: 443, protocol: https}
  - {number: 80, protocol: http}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: addresses, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [six.example]
  ipAddresses: ['2001:db8:0:1::20/128']
  ports:
  - {number: 9000, protocol: tcp}
  - {number: 9001, protocol: tcp-server-first}
  - {number: 8443, protocol: https}
  - {number: 8080, protocol: http}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: blocks, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: ['2001:db8::/48', 198.51.100.0/24]
  ports: [{number: 9100, protocol: tcp}]
";

fn set_names(network: &TestNetwork) {
    network.dns.set("six.example", &[HTTPBIN6]);
    network.dns.set("four.example", &[HTTPBIN]);
    network.dns.set("dual.example", &[HTTPBIN6, HTTPBIN]);
}

fn with_policies(test: impl FnOnce(&TestMesh<'_>) -> Result<()>) -> Result<()> {
    let prepare = |network: &TestNetwork| {
        set_names(network);
        Ok(())
    };
    with_prepared_mesh(prepare, &[("policies.yaml", POLICIES)], test)
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn expect_nothing_at(mesh: &TestMesh<'_>, ip: IpAddr) -> Result<()> {
    let arrived = mesh.network.origins.connections_to(ip);
    ensure!(arrived == 0, "{arrived} connections arrived at {ip}");
    Ok(())
}

#[test]
fn ipv6_addresses_are_decided() -> Result<()> {
    with_policies(addresses)
}

/// An ordinary user's pod decides IPv6 addresses in the same way.
#[test]
fn ipv6_addresses_are_decided_in_a_routed_pod() -> Result<()> {
    let setting =
        MeshOptions { manifests: &[("policies.yaml", POLICIES)], flags: &[], form: PodForm::Routed };
    let prepare = |network: &TestNetwork| {
        set_names(network);
        Ok(())
    };
    setting.run(prepare, |mesh| {
        addresses(mesh)?;
        expect_names_choose(mesh)
    })
}

fn addresses(mesh: &TestMesh<'_>) -> Result<()> {
    mesh.exchange(at(EXAMPLE6, 9000), b"hello")?.expect_echo(b"hello")?;
    let line = access_log::wait_for_decision(
        mesh.envoy,
        "allow rule curl/addresses spec.ports[0]",
        &at(EXAMPLE6, 9000).to_string(),
    )?;
    ensure!(line["dialled"] == at(EXAMPLE6, 9000).to_string(), "{line}");
    for ip in [HTTPBIN6, ELSEWHERE6, EXAMPLE] {
        mesh.exchange(at(ip, 9000), b"hello")?.expect_close().with_context(|| ip.to_string())?;
        let dialled = at(ip, 9000).to_string();
        let line = access_log::wait_for_line(mesh.envoy, &dialled, |line| line["dialled"] == dialled)?;
        ensure!(line["decision"] == "deny no-rule - -", "{line}");
    }
    for ip in [HTTPBIN6, EXAMPLE6, ELSEWHERE] {
        mesh.exchange(at(ip, 9100), b"hello")?.expect_echo(b"hello").with_context(|| ip.to_string())?;
    }
    for ip in [ELSEWHERE6, HTTPBIN] {
        mesh.exchange(at(ip, 9100), b"hello")?.expect_close().with_context(|| ip.to_string())?;
    }
    // If the rule has addresses, the connection goes to the original destination, whatever the name resolves
    // to.
    mesh.get_tls(at(EXAMPLE6, 8443), "six.example")?.expect_origin(EXAMPLE6)?;
    mesh.get(at(EXAMPLE6, 8080), "six.example", "/get")?.expect_origin(EXAMPLE6)?;
    mesh.get_tls(at(ELSEWHERE6, 8443), "six.example")?.expect_close()?;
    let reply = mesh.get(at(ELSEWHERE6, 8080), "six.example", "/get")?;
    ensure!(matches!(reply, Reply::Closed | Reply::Envoy(403, Some(_))), "{reply:?}");
    mesh.get(at(EXAMPLE6, 8080), "dual.example", "/get")?.expect_refusal("host-not-allowed")?;
    expect_nothing_at(mesh, ELSEWHERE6)
}

/// An allowed name at another address reaches the name's own address, over either family.
#[test]
fn a_name_chooses_the_address_over_either_family() -> Result<()> {
    with_policies(expect_names_choose)
}

fn expect_names_choose(mesh: &TestMesh<'_>) -> Result<()> {
    // A name with IPv6 alone works, and one with both leads to IPv4.
    for (name, ip) in [("six.example", HTTPBIN6), ("dual.example", HTTPBIN), ("four.example", HTTPBIN)] {
        for dialled in [ELSEWHERE6, HTTPBIN6, ELSEWHERE] {
            let here = || format!("{name} at {dialled}");
            mesh.get_tls(at(dialled, 443), name)?.expect_origin(ip).with_context(here)?;
            mesh.get(at(dialled, 80), name, "/get")?.expect_origin(ip).with_context(here)?;
        }
        let decision = format!("allow rule curl/names spec.ports[{}]", 0);
        access_log::wait_for_decision(mesh.envoy, &decision, &at(ip, 443).to_string())?;
    }
    for dialled in [HTTPBIN6, ELSEWHERE6] {
        mesh.get_tls(at(dialled, 443), "www.example.com")?.expect_close()?;
        mesh.get(at(dialled, 80), "www.example.com", "/get")?.expect_refusal("host-not-allowed")?;
        mesh.get(at(dialled, 80), &format!("[{dialled}]"), "/get")?.expect_refusal("host-not-allowed")?;
        mesh.exchange(at(dialled, 443), b"GET / HTTP/1.1\r\n\r\n")?.expect_close()?;
    }
    let spoofed = [ELSEWHERE6, ELSEWHERE].map(|ip| [at(ip, 443), at(ip, 80)]).concat();
    let arrived = |seen: &OriginEvent| matches!(seen, OriginEvent::Connection(to) if spoofed.contains(to));
    ensure!(!mesh.network.origins.events().iter().any(arrived), "{:?}", mesh.network.origins.events());
    Ok(())
}

#[test]
fn a_server_that_sends_first_is_read_over_ipv6() -> Result<()> {
    with_policies(|mesh| {
        let start = Instant::now();
        mesh.exchange(at(EXAMPLE6, 9001), b"")?.expect_echo(GREETING)?;
        ensure!(start.elapsed() < Duration::from_secs(1), "the greeting came after {:?}", start.elapsed());
        mesh.exchange(at(HTTPBIN6, 9001), b"")?.expect_close()
    })
}

/// Without a policy nothing gets out; with global egress everything reaches its original destination.
#[test]
fn global_egress_applies_to_ipv6() -> Result<()> {
    let prepare = |network: &TestNetwork| network.global_egress(false);
    with_prepared_mesh(prepare, &[], |mesh| {
        let attempts = |ip| -> Result<[Reply; 4]> {
            Ok([
                mesh.exchange(at(ip, 9000), b"hello")?,
                mesh.exchange(at(ip, 9001), b"")?,
                mesh.get_tls(at(ip, 443), "six.example")?,
                mesh.get(at(ip, 80), "six.example", "/get")?,
            ])
        };
        for reply in attempts(ELSEWHERE6)? {
            reply.expect_close()?;
        }
        expect_nothing_at(mesh, ELSEWHERE6)?;
        mesh.network.global_egress(true)?;
        mesh.wait_until_in_force()?;
        let [echo, greeting, tls, http] = attempts(ELSEWHERE6)?;
        echo.expect_echo(b"hello")?;
        greeting.expect_echo(GREETING)?;
        tls.expect_origin(ELSEWHERE6)?;
        http.expect_origin(ELSEWHERE6)?;
        let line = access_log::wait_for_line(mesh.envoy, "a connection", |line| {
            line["upstream"] == at(ELSEWHERE6, 9000).to_string()
        })?;
        ensure!(
            line["cluster"] == "passthrough-outbound" && line["decision"] == "allow passthrough - -",
            "{line}"
        );

        // And off again: what is open is closed.
        let stream = mesh.pod.workload().run(|| client::connect(at(EXAMPLE6, 9000)))?;
        let mut stream = stream.map_err(|e| anyhow!("{e:?}"))?;
        mesh.network.global_egress(false)?;
        mesh.wait_until_in_force()?;
        let ended = || !matches!(std::io::Read::read(&mut stream, &mut [0]), Ok(1..));
        wait_for("the connection to end", Duration::from_secs(1), ended)?;
        for reply in attempts(EXAMPLE6)? {
            reply.expect_close()?;
        }
        Ok(())
    })
}

/// The name server of an allowed name cannot lead the sidecar to itself, to its neighbours, or, in another
/// form, to a forbidden address.
#[test]
fn names_never_lead_to_forbidden_ipv6_addresses() -> Result<()> {
    with_policies(|mesh| {
        for (n, address) in ["::1", "::", "fe80::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "ff02::1"]
            .into_iter()
            .enumerate()
        {
            // Each has its own name, because answers are cached.
            let name = format!("forbidden{n}.example");
            mesh.network.dns.set(&name, &[address.parse::<Ipv6Addr>()?.into()]);
            let policy = POLICIES.replace("[six.example, dual.example, four.example]", &format!("[{name}]"));
            mesh.write("policies.yaml", &policy)?;
            for dialled in [EXAMPLE6, EXAMPLE] {
                mesh.get_tls(at(dialled, 443), &name)?.expect_close().with_context(|| address.to_owned())?;
                let reply = mesh.get(at(dialled, 80), &name, "/get")?;
                reply.expect_refusal("address-forbidden").with_context(|| address.to_owned())?;
            }
        }
        expect_nothing_at(mesh, EXAMPLE6)
    })
}

/// A connection to the listener itself has no original destination and is closed.
#[test]
fn a_connection_to_the_listener_itself_is_closed() -> Result<()> {
    with_policies(|mesh| {
        for ip in ["fd00:77:0::2", "::1"] {
            let to = at(ip.parse()?, 15001);
            mesh.exchange(to, b"GET / HTTP/1.1\r\nhost: six.example\r\n\r\n")?.expect_close()?;
        }
        access_log::wait_for_line(mesh.envoy, "the refusal", |line| {
            line["decision"] == "deny not-intercepted - -"
        })?;
        Ok(())
    })
}

/// With `--ip-families ipv4` there is no IPv6 listener, and nothing gets out over IPv6.
#[test]
fn ipv4_alone_opens_no_ipv6() -> Result<()> {
    let manifests = [("policies.yaml", POLICIES)];
    let flags = ["--ip-families", "ipv4"];
    let setting = MeshOptions { manifests: &manifests, flags: &flags, form: PodForm::supported() };
    let prepare = |network: &TestNetwork| {
        set_names(network);
        Ok(())
    };
    setting.run(prepare, |mesh| {
        for (ip, port) in [(EXAMPLE6, 9000), (EXAMPLE6, 9001), (HTTPBIN6, 9100)] {
            mesh.exchange(at(ip, port), b"hello")?.expect_close()?;
        }
        mesh.get_tls(at(HTTPBIN6, 443), "six.example")?.expect_close()?;
        mesh.get(at(HTTPBIN6, 80), "six.example", "/get")?.expect_close()?;
        for ip in [HTTPBIN6, EXAMPLE6] {
            expect_nothing_at(mesh, ip)?;
        }
        mesh.exchange(at(ELSEWHERE, 9100), b"hello")?.expect_echo(b"hello")
    })
}
