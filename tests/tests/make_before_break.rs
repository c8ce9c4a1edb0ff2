//! Policy changes break nothing that is allowed before and after them. Clients connect all the time, each
//! time anew, while policies change in every way that adds or removes clusters. No attempt may fail.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::manifests::{by_upstream_settings, egress, namespace_mode, upstream_settings};
use egress_tests::mesh::{TestMesh, with_mesh};
use egress_tests::network::{EXAMPLE, HTTPBIN};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::wait::wait_for;

/// The number of times that each change is made and taken back.
const ROUNDS: usize = 6;
/// The number of clients of each kind.
const CLIENTS: usize = 3;
const ECHO_PORT: u16 = 9000;

/// A policy with two ports of `httpbin.org`, more hosts and more fields.
fn web(hosts: &str, more: &str) -> String {
    let ports = "ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]";
    egress("web", &format!("hosts: [httpbin.org{hosts}]\n{ports}{more}"))
}

fn echo(more: &str) -> String {
    egress(
        "echo",
        &format!("ipAddresses: [{HTTPBIN}/32]\nports: [{{number: {ECHO_PORT}, protocol: tcp}}]{more}"),
    )
}

fn is_from_origin(outcome: &Outcome) -> bool {
    let at = HTTPBIN.to_string();
    matches!(outcome, Outcome::Http(answer) if answer.status == 200 && answer.header(ADDRESS_HEADER) == Some(&at))
}

/// Makes one of three kinds of attempt.
fn send_request(way: usize) -> Result<()> {
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
            let outcome = client::exchange(to(ECHO_PORT), b"ping");
            let is_good = matches!(&outcome, Outcome::Bytes(bytes) if bytes == b"ping");
            (outcome, is_good)
        }
    };
    ensure!(is_good, "way {way}: {outcome:?}");
    Ok(())
}

/// Makes changes under load, and returns the failed attempts with their kind.
fn run_under_load(
    mesh: &TestMesh<'_>,
    what: &str,
    changes: impl FnOnce() -> Result<()>,
) -> Result<Vec<(usize, Error)>> {
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let workload = mesh.pod.workload();
    let (changed, failures) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3 * CLIENTS)
            .map(|number| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || {
                    workload.run(|| {
                        let mut failures = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            failures.extend(send_request(number % 3).err().map(|error| (number % 3, error)));
                            sent.fetch_add(1, Ordering::Relaxed);
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
    let sent = sent.load(Ordering::Relaxed);
    println!("{what}: {} of {sent} requests failed", failures.len());
    Ok(failures)
}

/// Requires that no attempt fails while changes are made.
fn expect_no_failures(mesh: &TestMesh<'_>, what: &str, changes: impl FnOnce() -> Result<()>) -> Result<()> {
    let failures = run_under_load(mesh, what, changes)?;
    if let Some((_, first)) = failures.first() {
        return Err(anyhow!("{what}: {} requests failed, such as {first:#}", failures.len()));
    }
    Ok(())
}

/// The number of open connections that a policy change closed because it leads them elsewhere.
fn count_revoked(mesh: &TestMesh<'_>) -> usize {
    mesh.envoy.access_log().iter().filter(|line| line["reason"] == "revoked").count()
}

/// Requires that a forbidden connection is closed.
fn expect_closed(mesh: &TestMesh<'_>, ip: IpAddr, port: u16) -> Result<()> {
    wait_for("what is forbidden to be closed", Duration::from_secs(1), || {
        mesh.exchange(SocketAddr::new(ip, port), b"ping").is_ok_and(|reply| reply.expect_close().is_ok())
    })?;
    Ok(())
}

/// Writes a file with two contents in turn.
fn alternate(mesh: &TestMesh<'_>, file: &str, first: &str, second: &str) -> Result<()> {
    for _ in 0..ROUNDS {
        mesh.write(file, second)?;
        mesh.write(file, first)?;
    }
    Ok(())
}

#[test]
fn adding_and_removing_clusters_fails_no_connection() -> Result<()> {
    let limits = upstream_settings("s", "{tcp: {maxConnections: 1000}}");
    let by = format!("\n{}", by_upstream_settings("s"));
    let base = web("", &by);
    with_mesh(&[("settings.yaml", &limits), ("web.yaml", &base), ("echo.yaml", &echo(&by))], |mesh| {
        expect_no_failures(mesh, "hosts", || {
            alternate(mesh, "web.yaml", &web(", a.example", &by), &web(", b.example, c.example", &by))
        })?;
        mesh.write("web.yaml", &base)?;
        let ports = |port: u16| {
            let block = format!(
                "ipAddresses: [{EXAMPLE}/32]\nports: [{{number: {port}, protocol: tcp}}]\n{}",
                by_upstream_settings("s")
            );
            egress("more", &block)
        };
        mesh.write("more.yaml", &ports(9000))?;
        expect_no_failures(mesh, "ports", || {
            for _ in 0..ROUNDS {
                mesh.write("more.yaml", &ports(9001))?;
                expect_closed(mesh, EXAMPLE, 9000)?;
                mesh.write("more.yaml", &ports(9000))?;
                mesh.exchange(SocketAddr::new(EXAMPLE, 9000), b"ping")?.expect_echo(b"ping")?;
            }
            Ok(())
        })?;
        mesh.remove("more.yaml")?;
        let other = upstream_settings("s", "{tcp: {maxConnections: 2000, connectTimeout: 3s}}");
        let failures = run_under_load(mesh, "settings", || {
            for _ in 0..ROUNDS {
                for text in [&other, &limits] {
                    // The document is unchanged: the proxy gets clusters only.
                    let before = mesh.envoy.stat("cluster_manager.cluster_modified")?;
                    mesh.network.write("settings.yaml", text)?;
                    wait_for("the settings", Duration::from_secs(5), || {
                        mesh.envoy.stat("cluster_manager.cluster_modified").is_ok_and(|now| now >= before + 3)
                    })?;
                }
            }
            Ok(())
        })?;
        // The cluster keeps its name, and Envoy destroys the old one before a worker has the new one. A name
        // that is used in between has no host (decision 96). An original destination needs no such list.
        ensure!(failures.iter().all(|(way, _)| *way != 2), "by address: {failures:?}");
        ensure!(failures.len() <= ROUNDS * 2 * CLIENTS, "{failures:?}");
        expect_no_failures(mesh, "settings that come and go", || {
            for _ in 0..ROUNDS {
                mesh.write("web.yaml", &web("", ""))?;
                mesh.write("echo.yaml", &echo(""))?;
                mesh.write("web.yaml", &base)?;
                mesh.write("echo.yaml", &echo(&by))?;
            }
            Ok(())
        })?;
        expect_no_failures(mesh, "an object that is split", || {
            let half = |name, port, protocol| {
                let port = format!("ports: [{{number: {port}, protocol: {protocol}}}]");
                egress(name, &format!("hosts: [httpbin.org]\n{port}"))
            };
            alternate(mesh, "web.yaml", &base, &(half("plain", 80, "http") + &half("tls", 443, "https")))
        })?;
        ensure!(mesh.envoy.stat("listener_manager.listener_modified")? == 0, "a listener was modified");
        Ok(())
    })
}

#[test]
fn changing_modes_fails_no_connection() -> Result<()> {
    let limits = upstream_settings("s", "{tcp: {maxConnections: 1000}}");
    for by in [String::new(), format!("\n{}", by_upstream_settings("s"))] {
        let manifests =
            [("settings.yaml", limits.as_str()), ("web.yaml", &web("", &by)), ("echo.yaml", &echo(&by))];
        with_mesh(&manifests, |mesh| {
            mesh.write("mode.yaml", &namespace_mode("enforce"))?;
            let switch = |other: &str| {
                for _ in 0..ROUNDS {
                    mesh.write("mode.yaml", &namespace_mode(other))?;
                    mesh.exchange(SocketAddr::new(EXAMPLE, ECHO_PORT), b"ping")?.expect_echo(b"ping")?;
                    mesh.write("mode.yaml", &namespace_mode("enforce"))?;
                    expect_closed(mesh, EXAMPLE, ECHO_PORT)?;
                }
                Ok(())
            };
            expect_no_failures(mesh, "audit", || switch("audit"))?;
            let before = count_revoked(mesh);
            let failures = run_under_load(mesh, "passthrough", || switch("passthrough"))?;
            // Under global egress names do not count: a connection that is open when it ends went to its
            // original destination,
            // not to its name's address. Only such connections are closed.
            ensure!(failures.iter().all(|(way, _)| *way != 2), "by address: {failures:?}");
            wait_for("each failure in the log", Duration::from_secs(2), || {
                failures.len() <= count_revoked(mesh) - before
            })?;
            ensure!(failures.len() <= ROUNDS * 2 * CLIENTS, "{failures:?}");
            Ok(())
        })?;
    }
    Ok(())
}
