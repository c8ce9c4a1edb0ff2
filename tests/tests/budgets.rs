//! The control plane with the worst objects that its budgets permit, and with worse ones.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use egress_tests::envoy::Envoy;
use egress_tests::mesh::{self, World};
use egress_tests::netns::ensure_capable;
use egress_tests::wait::wait_for;

/// The most memory of the control plane, in kB.
const MOST: u64 = 300 << 10;
const IDENTITIES: usize = 4;

/// An Egress of `curl/{account}`, with hosts of the longest names.
fn egress(name: &str, account: &str, hosts: usize, ports: usize) -> String {
    let mut text = format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: {name}, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: {account}, namespace: curl}}]\n  ports:\n"
    );
    for port in 0..ports {
        writeln!(text, "  - {{number: {}, protocol: https}}", 20_000 + port).expect("a string");
    }
    text.push_str("  hosts:\n");
    let label = "x".repeat(60);
    for host in 0..hosts {
        writeln!(text, "  - {label}.{label}.{label}.{name}-{host}.org").expect("a string");
    }
    text
}

/// An Egress `curl/{name}-{account}` for one port of an origin.
fn echo(name: &str, account: &str, port: u16) -> String {
    let named = format!("metadata: {{name: {account}, ");
    mesh::echo_policy(account, port).replace(&named, &format!("metadata: {{name: {name}-{account}, "))
}

#[test]
fn the_worst_objects_that_are_permitted() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    for identity in 0..IDENTITIES {
        let account = format!("a{identity}");
        // As many bytes as an API server stores in one object, six times in a document: all that is permitted.
        world.write(&format!("full-{account}.yaml"), &egress(&account, &account, 6_500, 6))?;
        // One more has no room.
        world.write(&format!("more-{account}.yaml"), &egress(&format!("z{identity}"), &account, 6_500, 6))?;
        world.write(&format!("echo-{account}.yaml"), &echo("echo", &account, 9000))?;
    }
    // And these are far over their own budgets.
    world.write("ports-and-hosts.yaml", &egress("square", "a0", 3_000, 3_000))?;
    let start = Instant::now();
    let shim = world.shim(&[])?;
    println!("ready {:.1?} after the start, with {} MB", start.elapsed(), shim.memory()? / 1024);
    let pods: Vec<_> = (0..IDENTITIES).map(|_| world.pod()).collect::<Result<_>>()?;
    let mut envoys = Vec::new();
    for (identity, pod) in pods.iter().enumerate() {
        envoys.push(Envoy::launch(pod, &mesh::bootstrap(&format!("curl/a{identity}"), false)?, 1)?);
    }
    wait_for("the policies", Duration::from_secs(120), || pods.iter().all(|pod| mesh::echoes(pod, 9000)))
        .with_context(|| {
            format!("{} MB at its peak; {}", shim.peak_memory().unwrap_or(0) / 1024, shim.log())
        })?;
    // Everybody gets another policy, several times.
    for round in 0..6 {
        let is_granted = round % 2 == 0;
        for identity in 0..IDENTITIES {
            let name = format!("change-{identity}.yaml");
            match is_granted {
                true => world.write(&name, &echo("change", &format!("a{identity}"), 9001))?,
                false => world.remove(&name)?,
            }
        }
        wait_for("the change", Duration::from_secs(120), || {
            pods.iter().all(|pod| mesh::echoes(pod, 9001) == is_granted)
        })?;
    }
    let status = shim.status()?;
    let objects = status["objects"].as_array().cloned().unwrap_or_default();
    let refused = objects.iter().filter(|object| object["accepted"] == false).count();
    ensure!(refused == IDENTITIES + 1, "{refused} objects are refused");
    let peak = shim.peak_memory()?;
    println!(
        "the control plane has {} MB, at its peak {} MB; a sidecar has {} MB",
        shim.memory()? / 1024,
        peak / 1024,
        envoys[0].memory()? / 1024
    );
    ensure!(peak < MOST, "the control plane had {} MB", peak / 1024);
    Ok(())
}
