//! A policy change breaks nothing of what is allowed before and after it.
//!
//! Clients ask all the time, each time on a new connection, while policies change in every way that adds or removes
//! clusters. None of them may fail.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::mesh::{EXAMPLE, HTTPBIN};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::scene::{Scene, play};
use egress_tests::wait::wait_for;

/// How often each change is made and taken back.
const ROUNDS: usize = 6;
/// How many clients ask in each way.
const CLIENTS: usize = 3;
const ECHO: u16 = 9000;

fn egress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: curl}}\n\
         spec: {{sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}], {spec}}}\n"
    )
}

fn settings(connection: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
         metadata: {{name: s, namespace: curl}}\nspec: {{host: s, connectionSettings: {connection}}}\n"
    )
}

const BY_SETTINGS: &str =
    "matches: [{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: s}]";

/// Two ports of `httpbin.org` and more hosts, and more of the specification.
fn web(hosts: &str, more: &str) -> String {
    let ports = "ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]";
    egress("web", &format!("hosts: [httpbin.org{hosts}], {ports}{more}"))
}

fn echo(more: &str) -> String {
    egress("echo", &format!("ipAddresses: [{HTTPBIN}/32], ports: [{{number: {ECHO}, protocol: tcp}}]{more}"))
}

fn mode(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\n\
         metadata: {{name: curl, annotations: {{openservicemesh.io/egress-mode: {mode}}}}}\n"
    )
}

fn is_from_origin(outcome: &Outcome) -> bool {
    let at = HTTPBIN.to_string();
    matches!(outcome, Outcome::Http(answer) if answer.status == 200 && answer.header(ADDRESS_HEADER) == Some(&at))
}

/// Asks once, in one of three ways.
fn ask(way: usize) -> Result<()> {
    let to = |port| SocketAddr::new(HTTPBIN, port);
    let request = client::request("GET", "/get", &[("host", "httpbin.org"), ("connection", "close")]);
    let (outcome, is_good) = match way {
        0 => {
            let outcome = client::http(to(80), &request);
            let is_good = is_from_origin(&outcome);
            (outcome, is_good)
        }
        1 => {
            let outcome = client::https(to(443), Some("httpbin.org"), &request);
            let is_good = is_from_origin(&outcome);
            (outcome, is_good)
        }
        _ => {
            let outcome = client::exchange(to(ECHO), b"ping");
            let is_good = matches!(&outcome, Outcome::Bytes(bytes) if bytes == b"ping");
            (outcome, is_good)
        }
    };
    ensure!(is_good, "way {way}: {outcome:?}");
    Ok(())
}

/// Makes changes under load. Gives what failed, with the way in which it was asked.
fn under_load(
    scene: &Scene<'_>,
    what: &str,
    changes: impl FnOnce() -> Result<()>,
) -> Result<Vec<(usize, Error)>> {
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let workload = scene.pod.workload();
    let (changed, failures) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3 * CLIENTS)
            .map(|number| {
                let (stop, asked) = (&stop, &asked);
                scope.spawn(move || {
                    workload.run(|| {
                        let mut failures = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            failures.extend(ask(number % 3).err().map(|error| (number % 3, error)));
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                        failures
                    })
                })
            })
            .collect();
        let changed = changes();
        stop.store(true, Ordering::Relaxed);
        let failures = clients.into_iter().map(|client| {
            client
                .join()
                .unwrap_or_else(|_| Err(anyhow!("panicked")))
                .unwrap_or_else(|error| vec![(0, error)])
        });
        (changed, failures.flatten().collect::<Vec<_>>())
    });
    changed?;
    let asked = asked.load(Ordering::Relaxed);
    println!("{what}: {} of {asked} requests failed", failures.len());
    Ok(failures)
}

/// Makes changes under load; nothing may fail.
fn nothing_fails(scene: &Scene<'_>, what: &str, changes: impl FnOnce() -> Result<()>) -> Result<()> {
    let failures = under_load(scene, what, changes)?;
    if let Some((_, first)) = failures.first() {
        return Err(anyhow!("{what}: {} requests failed, such as {first:#}", failures.len()));
    }
    Ok(())
}

/// How many connections were open when a policy came that leads them elsewhere.
fn revoked(scene: &Scene<'_>) -> usize {
    scene.envoy.access_log().iter().filter(|line| line["reason"] == "revoked").count()
}

/// What is forbidden now is closed.
fn is_closed(scene: &Scene<'_>, ip: IpAddr, port: u16) -> Result<()> {
    wait_for("what is forbidden to be closed", Duration::from_secs(1), || {
        scene.exchange(SocketAddr::new(ip, port), b"ping").is_ok_and(|reply| reply.closed().is_ok())
    })?;
    Ok(())
}

/// Writes a file in two ways in turn.
fn alternate(scene: &Scene<'_>, file: &str, first: &str, second: &str) -> Result<()> {
    for _ in 0..ROUNDS {
        scene.write(file, second)?;
        scene.write(file, first)?;
    }
    Ok(())
}

#[test]
fn clusters_come_and_go() -> Result<()> {
    let limits = settings("{tcp: {maxConnections: 1000}}");
    let by = format!(", {BY_SETTINGS}");
    let base = web("", &by);
    play(&[("settings.yaml", &limits), ("web.yaml", &base), ("echo.yaml", &echo(&by))], |scene| {
        nothing_fails(scene, "hosts", || {
            alternate(scene, "web.yaml", &web(", a.example", &by), &web(", b.example, c.example", &by))
        })?;
        scene.write("web.yaml", &base)?;
        let ports = |port: u16| {
            let block = format!(
                "ipAddresses: [{EXAMPLE}/32], ports: [{{number: {port}, protocol: tcp}}], {BY_SETTINGS}"
            );
            egress("more", &block)
        };
        scene.write("more.yaml", &ports(9000))?;
        nothing_fails(scene, "ports", || {
            for _ in 0..ROUNDS {
                scene.write("more.yaml", &ports(9001))?;
                is_closed(scene, EXAMPLE, 9000)?;
                scene.write("more.yaml", &ports(9000))?;
                scene.exchange(SocketAddr::new(EXAMPLE, 9000), b"ping")?.echoed(b"ping")?;
            }
            Ok(())
        })?;
        scene.remove("more.yaml")?;
        let other = settings("{tcp: {maxConnections: 2000, connectTimeout: 3s}}");
        let failures = under_load(scene, "settings", || {
            for _ in 0..ROUNDS {
                for text in [&other, &limits] {
                    // The document stays the same: the proxy is sent clusters alone.
                    let before = scene.envoy.stat("cluster_manager.cluster_modified")?;
                    scene.world.write("settings.yaml", text)?;
                    wait_for("the settings", Duration::from_secs(5), || {
                        scene
                            .envoy
                            .stat("cluster_manager.cluster_modified")
                            .is_ok_and(|now| now >= before + 3)
                    })?;
                }
            }
            Ok(())
        })?;
        // The cluster keeps its name, so Envoy puts the new one in the place of the old one: a name that is looked for in
        // that moment is not found. Addresses are. No order of messages mends that.
        ensure!(failures.iter().all(|(way, _)| *way != 2), "by address: {failures:?}");
        ensure!(failures.len() <= ROUNDS * 2 * CLIENTS, "{failures:?}");
        nothing_fails(scene, "settings that come and go", || {
            for _ in 0..ROUNDS {
                scene.write("web.yaml", &web("", ""))?;
                scene.write("echo.yaml", &echo(""))?;
                scene.write("web.yaml", &base)?;
                scene.write("echo.yaml", &echo(&by))?;
            }
            Ok(())
        })?;
        nothing_fails(scene, "an object that is split", || {
            let half = |name, port, protocol| {
                let port = format!("ports: [{{number: {port}, protocol: {protocol}}}]");
                egress(name, &format!("hosts: [httpbin.org], {port}"))
            };
            alternate(scene, "web.yaml", &base, &(half("plain", 80, "http") + &half("tls", 443, "https")))
        })?;
        ensure!(scene.envoy.stat("listener_manager.listener_modified")? == 0, "a listener was modified");
        Ok(())
    })
}

#[test]
fn modes_come_and_go() -> Result<()> {
    let limits = settings("{tcp: {maxConnections: 1000}}");
    for by in [String::new(), format!(", {BY_SETTINGS}")] {
        let manifests =
            [("settings.yaml", limits.as_str()), ("web.yaml", &web("", &by)), ("echo.yaml", &echo(&by))];
        play(&manifests, |scene| {
            scene.write("mode.yaml", &mode("enforce"))?;
            let switch = |other: &str| {
                for _ in 0..ROUNDS {
                    scene.write("mode.yaml", &mode(other))?;
                    scene.exchange(SocketAddr::new(EXAMPLE, ECHO), b"ping")?.echoed(b"ping")?;
                    scene.write("mode.yaml", &mode("enforce"))?;
                    is_closed(scene, EXAMPLE, ECHO)?;
                }
                Ok(())
            };
            nothing_fails(scene, "audit", || switch("audit"))?;
            let before = revoked(scene);
            let failures = under_load(scene, "passthrough", || switch("passthrough"))?;
            // Under global egress nobody looks at names: a connection that is open when it ends is where it dialled, and
            // not where its name leads. That one is closed, and nothing else is.
            ensure!(failures.iter().all(|(way, _)| *way != 2), "by address: {failures:?}");
            wait_for("each failure in the log", Duration::from_secs(2), || {
                failures.len() <= revoked(scene) - before
            })?;
            ensure!(failures.len() <= ROUNDS * 2 * CLIENTS, "{failures:?}");
            Ok(())
        })?;
    }
    Ok(())
}
