//! IPv6 is intercepted and decided like IPv4: an address family is no way round the policy.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::log;
use egress_tests::mesh::{ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, World};
use egress_tests::netns::Form;
use egress_tests::origin::{GREETING, Seen};
use egress_tests::scene::{Reply, Scene, Setting, play_in};
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

fn names(world: &World) {
    world.dns.set("six.example", &[HTTPBIN6]);
    world.dns.set("four.example", &[HTTPBIN]);
    world.dns.set("dual.example", &[HTTPBIN6, HTTPBIN]);
}

fn with_policies(test: impl FnOnce(&Scene<'_>) -> Result<()>) -> Result<()> {
    let prepare = |world: &World| {
        names(world);
        Ok(())
    };
    play_in(prepare, &[("policies.yaml", POLICIES)], test)
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn nothing_arrived_at(scene: &Scene<'_>, ip: IpAddr) -> Result<()> {
    let arrived = scene.world.origins.connections_to(ip);
    ensure!(arrived == 0, "{arrived} connections arrived at {ip}");
    Ok(())
}

#[test]
fn addresses_decide() -> Result<()> {
    with_policies(addresses)
}

/// The form that an ordinary user has.
#[test]
fn in_the_routed_form() -> Result<()> {
    let setting = Setting { manifests: &[("policies.yaml", POLICIES)], flags: &[], form: Form::Routed };
    let prepare = |world: &World| {
        names(world);
        Ok(())
    };
    setting.play(prepare, |scene| {
        addresses(scene)?;
        spoofed_names(scene)
    })
}

fn addresses(scene: &Scene<'_>) -> Result<()> {
    scene.exchange(at(EXAMPLE6, 9000), b"hello")?.echoed(b"hello")?;
    let line = log::decided(
        scene.envoy,
        "allow rule curl/addresses spec.ports[0]",
        &at(EXAMPLE6, 9000).to_string(),
    )?;
    ensure!(line["dialled"] == at(EXAMPLE6, 9000).to_string(), "{line}");
    for ip in [HTTPBIN6, ELSEWHERE6, EXAMPLE] {
        scene.exchange(at(ip, 9000), b"hello")?.closed().with_context(|| ip.to_string())?;
        let dialled = at(ip, 9000).to_string();
        let line = log::line(scene.envoy, &dialled, |line| line["dialled"] == dialled)?;
        ensure!(line["decision"] == "deny no-rule - -", "{line}");
    }
    for ip in [HTTPBIN6, EXAMPLE6, ELSEWHERE] {
        scene.exchange(at(ip, 9100), b"hello")?.echoed(b"hello").with_context(|| ip.to_string())?;
    }
    for ip in [ELSEWHERE6, HTTPBIN] {
        scene.exchange(at(ip, 9100), b"hello")?.closed().with_context(|| ip.to_string())?;
    }
    // With addresses in the rule, the dialled one is where it goes, whatever the name resolves to.
    scene.get_tls(at(EXAMPLE6, 8443), "six.example")?.from_origin(EXAMPLE6)?;
    scene.get(at(EXAMPLE6, 8080), "six.example", "/get")?.from_origin(EXAMPLE6)?;
    scene.get_tls(at(ELSEWHERE6, 8443), "six.example")?.closed()?;
    let reply = scene.get(at(ELSEWHERE6, 8080), "six.example", "/get")?;
    ensure!(matches!(reply, Reply::Closed | Reply::Envoy(403, Some(_))), "{reply:?}");
    scene.get(at(EXAMPLE6, 8080), "dual.example", "/get")?.refused("host-not-allowed")?;
    nothing_arrived_at(scene, ELSEWHERE6)
}

/// An allowed name for another address reaches the address that the name has, over either family.
#[test]
fn a_name_chooses_the_address() -> Result<()> {
    with_policies(spoofed_names)
}

fn spoofed_names(scene: &Scene<'_>) -> Result<()> {
    // A name with IPv6 alone works, and one with both leads to IPv4.
    for (name, ip) in [("six.example", HTTPBIN6), ("dual.example", HTTPBIN), ("four.example", HTTPBIN)] {
        for dialled in [ELSEWHERE6, HTTPBIN6, ELSEWHERE] {
            let here = || format!("{name} at {dialled}");
            scene.get_tls(at(dialled, 443), name)?.from_origin(ip).with_context(here)?;
            scene.get(at(dialled, 80), name, "/get")?.from_origin(ip).with_context(here)?;
        }
        let decision = format!("allow rule curl/names spec.ports[{}]", 0);
        log::decided(scene.envoy, &decision, &at(ip, 443).to_string())?;
    }
    for dialled in [HTTPBIN6, ELSEWHERE6] {
        scene.get_tls(at(dialled, 443), "www.example.com")?.closed()?;
        scene.get(at(dialled, 80), "www.example.com", "/get")?.refused("host-not-allowed")?;
        scene.get(at(dialled, 80), &format!("[{dialled}]"), "/get")?.refused("host-not-allowed")?;
        scene.exchange(at(dialled, 443), b"GET / HTTP/1.1\r\n\r\n")?.closed()?;
    }
    let spoofed = [ELSEWHERE6, ELSEWHERE].map(|ip| [at(ip, 443), at(ip, 80)]).concat();
    let arrived = |seen: &Seen| matches!(seen, Seen::Connection(to) if spoofed.contains(to));
    ensure!(!scene.world.origins.seen().iter().any(arrived), "{:?}", scene.world.origins.seen());
    Ok(())
}

#[test]
fn a_server_that_speaks_first() -> Result<()> {
    with_policies(|scene| {
        let start = Instant::now();
        scene.exchange(at(EXAMPLE6, 9001), b"")?.echoed(GREETING)?;
        ensure!(start.elapsed() < Duration::from_secs(1), "the greeting came after {:?}", start.elapsed());
        scene.exchange(at(HTTPBIN6, 9001), b"")?.closed()
    })
}

/// Without a policy nothing gets out, with global egress everything to where it was dialled.
#[test]
fn global_egress() -> Result<()> {
    let prepare = |world: &World| world.global_egress(false);
    play_in(prepare, &[], |scene| {
        let attempts = |ip| -> Result<[Reply; 4]> {
            Ok([
                scene.exchange(at(ip, 9000), b"hello")?,
                scene.exchange(at(ip, 9001), b"")?,
                scene.get_tls(at(ip, 443), "six.example")?,
                scene.get(at(ip, 80), "six.example", "/get")?,
            ])
        };
        for reply in attempts(ELSEWHERE6)? {
            reply.closed()?;
        }
        nothing_arrived_at(scene, ELSEWHERE6)?;
        scene.world.global_egress(true)?;
        scene.in_force()?;
        let [echo, greeting, tls, http] = attempts(ELSEWHERE6)?;
        echo.echoed(b"hello")?;
        greeting.echoed(GREETING)?;
        tls.from_origin(ELSEWHERE6)?;
        http.from_origin(ELSEWHERE6)?;
        let line = log::line(scene.envoy, "a connection", |line| {
            line["upstream"] == at(ELSEWHERE6, 9000).to_string()
        })?;
        ensure!(
            line["cluster"] == "passthrough-outbound" && line["decision"] == "allow passthrough - -",
            "{line}"
        );

        // And off again: what is open is closed.
        let stream = scene.pod.workload().run(|| client::connect(at(EXAMPLE6, 9000)))?;
        let mut stream = stream.map_err(|e| anyhow!("{e:?}"))?;
        scene.world.global_egress(false)?;
        scene.in_force()?;
        let ended = || !matches!(std::io::Read::read(&mut stream, &mut [0]), Ok(1..));
        wait_for("the connection to end", Duration::from_secs(1), ended)?;
        for reply in attempts(EXAMPLE6)? {
            reply.closed()?;
        }
        Ok(())
    })
}

/// The name server of an allowed name does not lead the sidecar to itself, to its neighbours or, under
/// another form, to an address that is forbidden.
#[test]
fn names_that_lead_to_forbidden_addresses() -> Result<()> {
    with_policies(|scene| {
        for (n, address) in ["::1", "::", "fe80::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "ff02::1"]
            .into_iter()
            .enumerate()
        {
            // A name of its own for each: answers are kept.
            let name = format!("forbidden{n}.example");
            scene.world.dns.set(&name, &[address.parse::<Ipv6Addr>()?.into()]);
            let policy = POLICIES.replace("[six.example, dual.example, four.example]", &format!("[{name}]"));
            scene.write("policies.yaml", &policy)?;
            for dialled in [EXAMPLE6, EXAMPLE] {
                scene.get_tls(at(dialled, 443), &name)?.closed().with_context(|| address.to_owned())?;
                let reply = scene.get(at(dialled, 80), &name, "/get")?;
                reply.refused("address-forbidden").with_context(|| address.to_owned())?;
            }
        }
        nothing_arrived_at(scene, EXAMPLE6)
    })
}

/// Who dials the listener has no destination.
#[test]
fn a_connection_to_the_listener_itself() -> Result<()> {
    with_policies(|scene| {
        for ip in ["fd00:77:0::2", "::1"] {
            let to = at(ip.parse()?, 15001);
            scene.exchange(to, b"GET / HTTP/1.1\r\nhost: six.example\r\n\r\n")?.closed()?;
        }
        log::line(scene.envoy, "the refusal", |line| line["decision"] == "deny not-intercepted - -")?;
        Ok(())
    })
}

/// With `--ip-families ipv4` nobody listens for IPv6, and nothing gets out by it.
#[test]
fn ipv4_alone() -> Result<()> {
    let manifests = [("policies.yaml", POLICIES)];
    let flags = ["--ip-families", "ipv4"];
    let setting = Setting { manifests: &manifests, flags: &flags, form: Form::possible() };
    let prepare = |world: &World| {
        names(world);
        Ok(())
    };
    setting.play(prepare, |scene| {
        for (ip, port) in [(EXAMPLE6, 9000), (EXAMPLE6, 9001), (HTTPBIN6, 9100)] {
            scene.exchange(at(ip, port), b"hello")?.closed()?;
        }
        scene.get_tls(at(HTTPBIN6, 443), "six.example")?.closed()?;
        scene.get(at(HTTPBIN6, 80), "six.example", "/get")?.closed()?;
        for ip in [HTTPBIN6, EXAMPLE6] {
            nothing_arrived_at(scene, ip)?;
        }
        scene.exchange(at(ELSEWHERE, 9100), b"hello")?.echoed(b"hello")
    })
}
