//! Where a name may lead.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::envoy::Envoy;
use egress_tests::kubelet;
use egress_tests::log;
use egress_tests::mesh::{self, CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, NAME_SERVER, World};
use egress_tests::netns::{Form, Pod, Resolver, ensure_capable};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::scene::{Reply, Setting};
use egress_tests::shim::Shim;
use egress_tests::standalone::{self, Standalone};
use egress_tests::wait::wait_for;

const POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: names, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [loopback.example, metadata.example, unspecified.example, both.example]
  ports:
  - {number: 443, protocol: https}
  - {number: 80, protocol: http}
";

/// Whoever controls the name server of an allowed name must not be able to lead the sidecar to itself.
#[test]
fn a_name_never_leads_to_the_sidecar_itself() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    world.dns.set("loopback.example", &[loopback]);
    world.dns.set("metadata.example", &[Ipv4Addr::new(169, 254, 169, 254).into()]);
    world.dns.set("unspecified.example", &[Ipv4Addr::UNSPECIFIED.into()]);
    world.dns.set("both.example", &[loopback, EXAMPLE]);
    world.write("names.yaml", POLICY)?;
    let _shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let at = |port| SocketAddr::new(EXAMPLE, port);
    for name in ["loopback.example", "metadata.example", "unspecified.example"] {
        let outcome = mesh::get_tls(&pod, at(443), Some(name))?;
        ensure!(outcome == Outcome::Closed, "{name} by TLS: {outcome:?}");
        match mesh::get(&pod, at(80), name, "/")? {
            Outcome::Http(answer) => {
                let denied = answer.header("x-egress-denied");
                ensure!(answer.status == 403 && denied == Some("address-forbidden"), "{name}: {answer:?}");
            }
            outcome => anyhow::bail!("{name}: {outcome:?}"),
        }
    }
    ensure!(envoy.stat("dns_cache.egress-dns.dns_address_filter_out")? > 0, "nothing was filtered");
    let outcome = mesh::get(&pod, at(80), "both.example", "/")?;
    let Outcome::Http(answer) = outcome else { anyhow::bail!("{outcome:?}") };
    ensure!(answer.header(ADDRESS_HEADER) == Some(EXAMPLE.to_string().as_str()), "{answer:?}");
    Ok(())
}

/// What a rule lists itself may lead inside, and what only a wildcard lists may not; the flag adds blocks
/// for both.
#[test]
fn private_addresses() -> Result<()> {
    let inside = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));
    let other = IpAddr::V4(Ipv4Addr::new(192, 168, 200, 1));
    let policy = POLICY.replace(
        "loopback.example, metadata.example, unspecified.example, both.example",
        "db.example, gw.example, '*.wild.example'",
    );
    let setting = Setting {
        manifests: &[("names.yaml", &policy)],
        flags: &["--never-resolve-to", "192.168.200.0/24"],
        form: Form::possible(),
    };
    let prepare = |world: &World| -> Result<()> {
        world.outside.netns.ip(&format!("addr add {inside}/32 dev lo"))?;
        world.dns.set("db.example", &[inside]);
        world.dns.set("gw.example", &[other]);
        world.dns.set("db.wild.example", &[inside]);
        world.dns.set("www.wild.example", &[EXAMPLE]);
        world.dns.set("mixed.wild.example", &[inside, EXAMPLE]);
        Ok(())
    };
    setting.play(prepare, |scene| {
        let (http, https) = (SocketAddr::new(EXAMPLE, 80), SocketAddr::new(EXAMPLE, 443));
        for (name, at) in
            [("db.example", inside), ("www.wild.example", EXAMPLE), ("mixed.wild.example", EXAMPLE)]
        {
            scene.get(http, name, "/")?.from_origin(at)?;
            scene.get_tls(https, name)?.from_origin(at)?;
        }
        for (name, rule) in [("db.wild.example", "spec.ports[0]"), ("gw.example", "spec.ports[0]")] {
            scene.get(http, name, "/")?.refused("address-forbidden")?;
            scene.get_tls(https, name)?.closed()?;
            let decision = format!("deny name-unresolved curl/names {rule}");
            log::line(scene.envoy, &decision, |line| line["decision"] == decision.as_str())?;
        }
        Ok(())
    })
}

/// The control plane as a bootstrap of a cluster has it.
const XDS_HOST: &str = "osm-egress.osm-system.svc";

/// Names of the policy, and where they lead. Below each search domain somebody else has made the same name.
const WHOLE: [(&str, IpAddr); 3] =
    [("httpbin.org", HTTPBIN), ("www.wild.example", EXAMPLE), ("single", HTTPBIN)];
const SEARCH: [&str; 3] = ["curl.svc.cluster.local", "svc.cluster.local", "cluster.local"];

/// A world in which an attacker has made Services and pods with the names that search domains make.
fn attacked() -> Result<World> {
    let world = World::new()?;
    for (name, address) in WHOLE {
        world.dns.set(name, &[address]);
        for domain in SEARCH {
            world.dns.set(&format!("{name}.{domain}"), &[ELSEWHERE]);
        }
    }
    world.dns.set(&format!("{XDS_HOST}.cluster.local"), &[CONTROL_PLANE]);
    let hosts = "loopback.example, metadata.example, unspecified.example, both.example";
    world.write("names.yaml", &POLICY.replace(hosts, "httpbin.org, '*.wild.example', single"))?;
    Ok(world)
}

/// Each name leads where it leads itself, by HTTP and by TLS, and nothing else is asked for.
fn asks_for_names_as_they_stand(world: &World, pod: &Pod) -> Result<()> {
    let (http, https) = (SocketAddr::new(ELSEWHERE, 80), SocketAddr::new(ELSEWHERE, 443));
    for (name, address) in WHOLE {
        let before = world.dns.questions().len();
        Reply::from(mesh::get_tls(pod, https, Some(name))?).from_origin(address).context(name)?;
        Reply::from(mesh::get(pod, http, name, "/")?).from_origin(address).context(name)?;
        let asked: BTreeSet<String> = world.dns.questions()[before..]
            .iter()
            .map(|(asked, kind)| format!("{asked} {kind}"))
            .filter(|question| question.starts_with(name))
            .collect();
        let expected: BTreeSet<String> = ["A", "AAAA"].map(|kind| format!("{name} {kind}")).into();
        ensure!(asked == expected, "for {name} these were asked: {asked:?}");
    }
    for (name, _) in WHOLE {
        let led =
            world.dns.questions().into_iter().filter(|(asked, _)| asked.starts_with(&format!("{name}.")));
        ensure!(led.clone().count() == 0, "asked for {:?}", led.collect::<Vec<_>>());
    }
    Ok(())
}

/// Kubernetes' search domains would lead allowed names to whoever makes a Service or a pod below them.
#[test]
fn names_are_asked_for_as_they_stand() -> Result<()> {
    ensure_capable()?;
    let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
    for flags in [&["--dns-resolver", &name_server][..], &[]] {
        let world = attacked()?;
        let pod = world.pod()?;
        let _shim = Shim::start(&world.outside.netns, CONTROL_PLANE, world.manifests.path(), flags)?;
        // The control plane, which shows who it is, is found by a search domain.
        let bootstrap = mesh::bootstrap_with("curl/curl", false, &["--xds", &format!("{XDS_HOST}:15128")])?;
        let envoy = Envoy::start_resolving(&pod, &bootstrap, &Resolver::in_cluster(NAME_SERVER, "curl"))?;
        in_force(&envoy)?;
        let found = world.dns.questions();
        let by_search = format!("{XDS_HOST}.cluster.local");
        ensure!(found.iter().any(|(asked, _)| *asked == by_search), "{found:?}");
        asks_for_names_as_they_stand(&world, &pod).with_context(|| envoy.log_tail(20))?;
    }
    Ok(())
}

#[test]
fn names_are_asked_for_as_they_stand_without_a_control_plane() -> Result<()> {
    ensure_capable()?;
    let world = attacked()?;
    let pod = world.pod()?;
    let standalone = Standalone::new()?;
    let text = standalone::with_admin(&standalone.printed(world.manifests.path())?);
    let _envoy = Envoy::start_resolving(&pod, &text, &Resolver::in_cluster(NAME_SERVER, "curl"))?;
    asks_for_names_as_they_stand(&world, &pod)
}

fn in_force(envoy: &Envoy<'_>) -> Result<()> {
    wait_for("the policy", Duration::from_secs(10), || {
        envoy.stat("listener_manager.total_listeners_active").is_ok_and(|count| count >= 3)
            && envoy
                .stat("extension_config_discovery.network_filter.egress-policy.config_reload")
                .is_ok_and(|n| n > 0)
    })
    .with_context(|| envoy.log_tail(30))?;
    Ok(())
}

/// A pod with an entry for an allowed name in its hosts file, as its author writes it; and what root in the pod makes
/// of the file later.
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: curl, uid: d2c8a6c0-9d3f-4a0c-8d5e-7f0a55b3b2f1}
spec:
  serviceAccountName: curl
  hostAliases: [{ip: 198.51.100.66, hostnames: [httpbin.org, www.wild.example]}]
  containers: [{name: curl, image: curlimages/curl}]
";

/// Envoy follows the hosts file that the kubelet gives a pod; so an injected one has its own.
#[test]
fn the_hosts_file_of_the_pod_leads_nothing() -> Result<()> {
    ensure_capable()?;
    let injected = kubelet::inject(POD)?;
    let of_pod = kubelet::hosts(&injected, "curl")?;
    ensure!(of_pod.contains("198.51.100.66\thttpbin.org"), "{of_pod}");
    let of_sidecar = kubelet::hosts(&injected, "envoy")?;
    for (hosts, expected) in [(of_pod, ELSEWHERE), (of_sidecar, HTTPBIN)] {
        let world = attacked()?;
        let pod = world.pod()?;
        let _shim = Shim::start(&world.outside.netns, CONTROL_PLANE, world.manifests.path(), &[])?;
        let files = Resolver { hosts, ..Resolver::in_cluster(NAME_SERVER, "curl") };
        let envoy = Envoy::start_resolving(&pod, &mesh::bootstrap("curl/curl", false)?, &files)?;
        in_force(&envoy)?;
        let to = |port| SocketAddr::new(EXAMPLE, port);
        Reply::from(mesh::get_tls(&pod, to(443), Some("httpbin.org"))?).from_origin(expected)?;
        Reply::from(mesh::get(&pod, to(80), "httpbin.org", "/")?).from_origin(expected)?;
    }
    Ok(())
}

/// Translators (NAT64): an address behind one is judged as the address in it.
#[test]
fn addresses_behind_translators() -> Result<()> {
    let ours = "2001:db8:64::";
    let at = |address: IpAddr| -> IpAddr {
        let IpAddr::V4(v4) = address else { return address };
        let prefix: std::net::Ipv6Addr = ours.parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
        std::net::Ipv6Addr::from_bits(prefix.to_bits() | u128::from(v4.to_bits())).into()
    };
    let public = at(HTTPBIN);
    let private = at(Ipv4Addr::new(10, 200, 0, 1).into());
    let hosts = "loopback.example, metadata.example, unspecified.example, both.example";
    let policy = POLICY.replace(hosts, "public.example, private.example, metadata.example, '*.wild.example'");
    let setting = Setting {
        manifests: &[("names.yaml", &policy)],
        flags: &["--nat64-prefix", "2001:db8:64::/96"],
        form: Form::possible(),
    };
    let prepare = |world: &World| -> Result<()> {
        for address in [public, private] {
            world.outside.netns.ip(&format!("-6 addr add {address}/128 dev lo nodad"))?;
        }
        for (name, address) in [
            ("public.example", public),
            ("www.wild.example", public),
            ("private.example", private),
            ("db.wild.example", private),
            ("metadata.example", at(Ipv4Addr::new(169, 254, 169, 254).into())),
        ] {
            world.dns.set(name, &[address]);
        }
        Ok(())
    };
    setting.play(prepare, |scene| {
        let (http, https) = (SocketAddr::new(EXAMPLE, 80), SocketAddr::new(EXAMPLE, 443));
        for (name, at) in
            [("public.example", public), ("www.wild.example", public), ("private.example", private)]
        {
            scene.get(http, name, "/")?.from_origin(at).context(name)?;
            scene.get_tls(https, name)?.from_origin(at).context(name)?;
        }
        for name in ["db.wild.example", "metadata.example"] {
            scene.get(http, name, "/")?.refused("address-forbidden").context(name)?;
            scene.get_tls(https, name)?.closed().context(name)?;
        }
        Ok(())
    })
}
