//! Where a name may lead.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use egress_tests::client::Outcome;
use egress_tests::log;
use egress_tests::mesh::{self, EXAMPLE, World};
use egress_tests::netns::{Form, ensure_capable};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::scene::Setting;

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
            let decision = format!("deny address-forbidden curl/names {rule}");
            log::line(scene.envoy, &decision, |line| line["decision"] == decision.as_str())?;
        }
        Ok(())
    })
}
