//! The addresses that a name may resolve to.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::access_log;
use egress_tests::client::Outcome;
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::kubelet;
use egress_tests::manifests::egress;
use egress_tests::mesh::{MeshOptions, Reply};
use egress_tests::netns::{Pod, PodForm, Resolver, ensure_capable};
use egress_tests::network::{CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, NAME_SERVER, TestNetwork};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::sidecar;
use egress_tests::standalone::{self, Standalone};
use egress_tests::wait::wait_for;
use egress_tests::workload;

fn policy() -> String {
    egress(
        "names",
        "hosts: [loopback.example, metadata.example, unspecified.example, both.example]\n\
         ports: [{number: 443, protocol: https}, {number: 80, protocol: http}]",
    )
}

/// The name server of an allowed name cannot lead the sidecar to itself.
#[test]
fn a_name_never_leads_to_the_sidecar_itself() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    network.dns.set("loopback.example", &[loopback]);
    network.dns.set("metadata.example", &[Ipv4Addr::new(169, 254, 169, 254).into()]);
    network.dns.set("unspecified.example", &[Ipv4Addr::UNSPECIFIED.into()]);
    network.dns.set("both.example", &[loopback, EXAMPLE]);
    network.write("names.yaml", &policy())?;
    let _control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    let at = |port| SocketAddr::new(EXAMPLE, port);
    for name in ["loopback.example", "metadata.example", "unspecified.example"] {
        let outcome = workload::get_tls(&pod, at(443), Some(name))?;
        ensure!(outcome == Outcome::Closed, "{name} by TLS: {outcome:?}");
        match workload::get(&pod, at(80), name, "/")? {
            Outcome::Http(answer) => {
                let denied = answer.header("x-egress-denied");
                ensure!(answer.status == 403 && denied == Some("address-forbidden"), "{name}: {answer:?}");
            }
            outcome => anyhow::bail!("{name}: {outcome:?}"),
        }
    }
    ensure!(envoy.stat("dns_cache.egress-dns.dns_address_filter_out")? > 0, "nothing was filtered");
    let outcome = workload::get(&pod, at(80), "both.example", "/")?;
    let Outcome::Http(answer) = outcome else { anyhow::bail!("{outcome:?}") };
    ensure!(answer.header(ADDRESS_HEADER) == Some(EXAMPLE.to_string().as_str()), "{answer:?}");
    Ok(())
}

/// A name that a rule lists may resolve to private addresses, and a name that only a wildcard covers may not;
/// the flag blocks more ranges for both.
#[test]
fn only_listed_names_lead_to_private_addresses() -> Result<()> {
    let inside = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));
    let other = IpAddr::V4(Ipv4Addr::new(192, 168, 200, 1));
    let policy = &policy().replace(
        "loopback.example, metadata.example, unspecified.example, both.example",
        "db.example, gw.example, '*.wild.example'",
    );
    let setting = MeshOptions {
        manifests: &[("names.yaml", policy)],
        flags: &["--never-resolve-to", "192.168.200.0/24"],
        form: PodForm::supported(),
    };
    let prepare = |network: &TestNetwork| -> Result<()> {
        network.outside.netns.ip(&format!("addr add {inside}/32 dev lo"))?;
        network.dns.set("db.example", &[inside]);
        network.dns.set("gw.example", &[other]);
        network.dns.set("db.wild.example", &[inside]);
        network.dns.set("www.wild.example", &[EXAMPLE]);
        network.dns.set("mixed.wild.example", &[inside, EXAMPLE]);
        Ok(())
    };
    setting.run(prepare, |mesh| {
        let (http, https) = (SocketAddr::new(EXAMPLE, 80), SocketAddr::new(EXAMPLE, 443));
        for (name, at) in
            [("db.example", inside), ("www.wild.example", EXAMPLE), ("mixed.wild.example", EXAMPLE)]
        {
            mesh.get(http, name, "/")?.expect_origin(at)?;
            mesh.get_tls(https, name)?.expect_origin(at)?;
        }
        for (name, rule) in [("db.wild.example", "spec.ports[0]"), ("gw.example", "spec.ports[0]")] {
            mesh.get(http, name, "/")?.expect_refusal("address-forbidden")?;
            mesh.get_tls(https, name)?.expect_close()?;
            let decision = format!("deny name-unresolved curl/names {rule}");
            access_log::wait_for_line(mesh.envoy, &decision, |line| line["decision"] == decision.as_str())?;
        }
        Ok(())
    })
}

/// The host of the control plane in a cluster's bootstrap.
const XDS_HOST: &str = "osm-egress.osm-system.svc";

/// Names of the policy and their addresses. An attacker has the same names below each search domain.
const RECORDS: [(&str, IpAddr); 3] =
    [("httpbin.org", HTTPBIN), ("www.wild.example", EXAMPLE), ("single", HTTPBIN)];
const SEARCH_DOMAINS: [&str; 3] = ["curl.svc.cluster.local", "svc.cluster.local", "cluster.local"];

/// A network in which an attacker's Services and pods have the names that search domains produce.
fn network_with_attacker() -> Result<TestNetwork> {
    let network = TestNetwork::new()?;
    for (name, address) in RECORDS {
        network.dns.set(name, &[address]);
        for domain in SEARCH_DOMAINS {
            network.dns.set(&format!("{name}.{domain}"), &[ELSEWHERE]);
        }
    }
    network.dns.set(&format!("{XDS_HOST}.cluster.local"), &[CONTROL_PLANE]);
    let hosts = "loopback.example, metadata.example, unspecified.example, both.example";
    network.write("names.yaml", &policy().replace(hosts, "httpbin.org, '*.wild.example', single"))?;
    Ok(network)
}

/// Requires that each name leads to its own address, over HTTP and TLS, and that no other name is looked up.
fn expect_lookups_without_search_domains(network: &TestNetwork, pod: &Pod) -> Result<()> {
    let (http, https) = (SocketAddr::new(ELSEWHERE, 80), SocketAddr::new(ELSEWHERE, 443));
    for (name, address) in RECORDS {
        let before = network.dns.queries().len();
        Reply::from(workload::get_tls(pod, https, Some(name))?).expect_origin(address).context(name)?;
        Reply::from(workload::get(pod, http, name, "/")?).expect_origin(address).context(name)?;
        let queries: BTreeSet<String> = network.dns.queries()[before..]
            .iter()
            .map(|(queries, kind)| format!("{queries} {kind}"))
            .filter(|question| question.starts_with(name))
            .collect();
        let expected: BTreeSet<String> = ["A", "AAAA"].map(|kind| format!("{name} {kind}")).into();
        ensure!(queries == expected, "for {name} these were asked: {queries:?}");
    }
    for (name, _) in RECORDS {
        let led =
            network.dns.queries().into_iter().filter(|(queries, _)| queries.starts_with(&format!("{name}.")));
        ensure!(led.clone().count() == 0, "asked for {:?}", led.collect::<Vec<_>>());
    }
    Ok(())
}

/// Kubernetes' search domains do not change the name that is looked up: else a Service or pod below them
/// would receive the traffic of an allowed name.
#[test]
fn search_domains_change_no_lookup() -> Result<()> {
    ensure_capable()?;
    let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
    for flags in [&["--dns-resolver", &name_server][..], &[]] {
        let network = network_with_attacker()?;
        let pod = network.pod()?;
        let _control_plane =
            ControlPlane::start(&network.outside.netns, CONTROL_PLANE, network.manifests.path(), flags)?;
        // The control plane's own host may use a search domain, because its certificate is verified.
        let bootstrap =
            sidecar::bootstrap_with("curl/curl", false, &["--xds", &format!("{XDS_HOST}:15128")])?;
        let envoy = Envoy::start_with_resolver(&pod, &bootstrap, &Resolver::in_cluster(NAME_SERVER, "curl"))?;
        wait_until_in_force(&envoy)?;
        let found = network.dns.queries();
        let by_search = format!("{XDS_HOST}.cluster.local");
        ensure!(found.iter().any(|(queries, _)| *queries == by_search), "{found:?}");
        expect_lookups_without_search_domains(&network, &pod).with_context(|| envoy.log_tail(20))?;
    }
    Ok(())
}

#[test]
fn search_domains_change_no_lookup_without_a_control_plane() -> Result<()> {
    ensure_capable()?;
    let network = network_with_attacker()?;
    let pod = network.pod()?;
    let standalone = Standalone::new()?;
    let text = standalone::with_admin(&standalone.printed(network.manifests.path())?);
    let _envoy = Envoy::start_with_resolver(&pod, &text, &Resolver::in_cluster(NAME_SERVER, "curl"))?;
    expect_lookups_without_search_domains(&network, &pod)
}

fn wait_until_in_force(envoy: &Envoy<'_>) -> Result<()> {
    wait_for("the policy", Duration::from_secs(10), || {
        envoy.stat("listener_manager.total_listeners_active").is_ok_and(|count| count >= 3)
            && envoy
                .stat("extension_config_discovery.network_filter.egress-policy.config_reload")
                .is_ok_and(|n| n > 0)
    })
    .with_context(|| envoy.log_tail(30))?;
    Ok(())
}

/// A pod whose author puts an allowed name into its hosts file, and the change that root in the pod makes
/// later.
const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: curl, uid: d2c8a6c0-9d3f-4a0c-8d5e-7f0a55b3b2f1}
spec:
  serviceAccountName: curl
  hostAliases: [{ip: 198.51.100.66, hostnames: [httpbin.org, www.wild.example]}]
  containers: [{name: curl, image: curlimages/curl}]
";

/// Envoy ignores the hosts file that the kubelet gives a pod: an injected one has its own.
#[test]
fn the_hosts_file_of_the_pod_is_ignored() -> Result<()> {
    ensure_capable()?;
    let injected = kubelet::inject(POD)?;
    let of_pod = kubelet::hosts(&injected, "curl")?;
    ensure!(of_pod.contains("198.51.100.66\thttpbin.org"), "{of_pod}");
    let of_sidecar = kubelet::hosts(&injected, "envoy")?;
    for (hosts, expected) in [(of_pod, ELSEWHERE), (of_sidecar, HTTPBIN)] {
        let network = network_with_attacker()?;
        let pod = network.pod()?;
        let _control_plane =
            ControlPlane::start(&network.outside.netns, CONTROL_PLANE, network.manifests.path(), &[])?;
        let files = Resolver { hosts, ..Resolver::in_cluster(NAME_SERVER, "curl") };
        let envoy = Envoy::start_with_resolver(&pod, &sidecar::bootstrap("curl/curl", false)?, &files)?;
        wait_until_in_force(&envoy)?;
        let to = |port| SocketAddr::new(EXAMPLE, port);
        Reply::from(workload::get_tls(&pod, to(443), Some("httpbin.org"))?).expect_origin(expected)?;
        Reply::from(workload::get(&pod, to(80), "httpbin.org", "/")?).expect_origin(expected)?;
    }
    Ok(())
}

/// An address behind a translator (NAT64) is judged as the IPv4 address in it.
#[test]
fn addresses_behind_translators_are_judged_as_ipv4() -> Result<()> {
    let ours = "2001:db8:64::";
    let at = |address: IpAddr| -> IpAddr {
        let IpAddr::V4(v4) = address else { return address };
        let prefix: std::net::Ipv6Addr = ours.parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
        std::net::Ipv6Addr::from_bits(prefix.to_bits() | u128::from(v4.to_bits())).into()
    };
    let public = at(HTTPBIN);
    let private = at(Ipv4Addr::new(10, 200, 0, 1).into());
    let hosts = "loopback.example, metadata.example, unspecified.example, both.example";
    let policy =
        &policy().replace(hosts, "public.example, private.example, metadata.example, '*.wild.example'");
    let setting = MeshOptions {
        manifests: &[("names.yaml", policy)],
        flags: &["--nat64-prefix", "2001:db8:64::/96"],
        form: PodForm::supported(),
    };
    let prepare = |network: &TestNetwork| -> Result<()> {
        for address in [public, private] {
            network.outside.netns.ip(&format!("-6 addr add {address}/128 dev lo nodad"))?;
        }
        for (name, address) in [
            ("public.example", public),
            ("www.wild.example", public),
            ("private.example", private),
            ("db.wild.example", private),
            ("metadata.example", at(Ipv4Addr::new(169, 254, 169, 254).into())),
        ] {
            network.dns.set(name, &[address]);
        }
        Ok(())
    };
    setting.run(prepare, |mesh| {
        let (http, https) = (SocketAddr::new(EXAMPLE, 80), SocketAddr::new(EXAMPLE, 443));
        for (name, at) in
            [("public.example", public), ("www.wild.example", public), ("private.example", private)]
        {
            mesh.get(http, name, "/")?.expect_origin(at).context(name)?;
            mesh.get_tls(https, name)?.expect_origin(at).context(name)?;
        }
        for name in ["db.wild.example", "metadata.example"] {
            mesh.get(http, name, "/")?.expect_refusal("address-forbidden").context(name)?;
            mesh.get_tls(https, name)?.expect_close().context(name)?;
        }
        Ok(())
    })
}
