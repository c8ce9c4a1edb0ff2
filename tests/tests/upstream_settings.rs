//! UpstreamTrafficSetting: circuit breakers and connect timeouts of an Egress object's connections.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::echo::still_echoes;
use egress_tests::manifests::{by_upstream_settings, egress, upstream_settings};
use egress_tests::mesh::{Reply, TestMesh, with_mesh, with_prepared_mesh};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::slow_origin;

/// An address without a host: packets to it are dropped.
const UNUSED_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99));

fn connect(mesh: &TestMesh<'_>, ip: IpAddr, port: u16) -> Result<TcpStream> {
    let connected = mesh.pod.workload().run(|| client::connect(SocketAddr::new(ip, port)))?;
    connected.map_err(|outcome| anyhow!("{outcome:?}"))
}

/// Runs `fortio load -c 5 -qps 0 -n 50`, and returns the number of responses with status 200 and with 503.
fn load(mesh: &TestMesh<'_>, to: SocketAddr, host: &str) -> Result<(usize, usize)> {
    let worker = || -> Result<Vec<u16>> {
        let mut statuses = Vec::new();
        let mut stream = client::connect(to).map_err(|e| anyhow!("{e:?}"))?;
        for _ in 0..10 {
            match client::http_on(&mut stream, &client::request("GET", "/get", &[("host", host)])) {
                Outcome::Http(answer) => {
                    let at = answer.header(ADDRESS_HEADER);
                    ensure!(answer.status != 200 || at == Some(&HTTPBIN.to_string()), "{answer:?}");
                    let overloaded = answer.body.ends_with(b"reset reason: overflow");
                    ensure!(answer.status != 503 || overloaded, "{answer:?}");
                    statuses.push(answer.status);
                }
                outcome => return Err(anyhow!("{outcome:?}")),
            }
        }
        Ok(statuses)
    };
    let statuses = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..5).map(|_| scope.spawn(|| mesh.pod.workload().run(worker)?)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Vec<u16>>>| {
            worker.join().map_err(|_| anyhow!("a worker panicked"))?
        };
        workers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?
    .concat();
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    let counts = (count(200), count(503));
    ensure!(counts.0 + counts.1 == 50, "{statuses:?}");
    Ok(counts)
}

/// An object of another namespace may allow connections but not throttle them: they have a cluster of their
/// own, and those that the identity's own namespace allows are not in it. Without permission it has no
/// effect.
#[test]
fn settings_of_a_namespace_throttle_no_other() -> Result<()> {
    let host = "httpbin.org";
    let spec = format!("hosts: [{host}]\nports: [{{number: 14001, protocol: http}}]");
    let limits = "{tcp: {maxConnections: 1}, http: {maxPendingRequests: 1, maxRequestsPerConnection: 1}}";
    let elsewhere = |text: String| text.replace(", namespace: curl}\nspec", ", namespace: admin}\nspec");
    // Its name sorts before all others.
    let foreign = elsewhere(upstream_settings("s", limits))
        + &elsewhere(egress("a", &format!("{spec}\n{}", by_upstream_settings("s"))));
    ensure!(foreign.matches("namespace: admin").count() == 2, "{foreign}");
    let permission = "apiVersion: v1\nkind: Namespace\n\
         metadata: {name: curl, annotations: {openservicemesh.io/egress-policy-namespaces: admin}}\n";
    let manifests = [("foreign.yaml", foreign.as_str()), ("own.yaml", &egress("z", &spec))];
    with_prepared_mesh(
        |network| slow_origin::start(&network.outside.netns),
        &manifests,
        |mesh| {
            let to = SocketAddr::new(HTTPBIN, slow_origin::PORT);
            ensure!(load(mesh, to, host)? == (50, 0), "it throttles without permission");
            ensure!(!mesh.diagnostics("Egress admin/a")?.is_empty());
            mesh.write("namespace.yaml", permission)?;
            ensure!(
                mesh.diagnostics("Egress admin/a")?.is_empty(),
                "{:?}",
                mesh.diagnostics("Egress admin/a")?
            );
            ensure!(load(mesh, to, host)? == (50, 0), "it throttles what the own object allows");
            // The object limits the connections that only it allows.
            mesh.remove("own.yaml")?;
            let (good, overflown) = load(mesh, to, host)?;
            ensure!(good > 0 && overflown > 0, "{good} {overflown}");
            mesh.remove("namespace.yaml")?;
            mesh.get(to, host, "/get")?.expect_close()
        },
    )
}

/// Open Service Mesh's demo of circuit breaking for hosts outside the mesh, in its two steps.
#[test]
fn the_circuit_breaking_demo_passes() -> Result<()> {
    let host = "httpbin.httpbin.svc.cluster.local";
    let spec = format!("hosts: [{host}]\nports: [{{number: 14001, protocol: http}}]");
    // Its namespace is outside the mesh.
    let service = "apiVersion: v1\nkind: Namespace\nmetadata: {name: httpbin}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: httpbin, namespace: httpbin}\n\
         spec: {clusterIP: 203.0.113.10, ports: [{name: http, port: 14001}]}\n";
    let manifests = [("service.yaml", service), ("httpbin.yaml", &egress("httpbin-external", &spec))];
    with_prepared_mesh(
        |network| slow_origin::start(&network.outside.netns),
        &manifests,
        |mesh| {
            mesh.network.dns.set(host, &[HTTPBIN]);
            let to = SocketAddr::new(HTTPBIN, slow_origin::PORT);
            ensure!(load(mesh, to, host)? == (50, 0), "C1: not everything went through");

            let limits =
                "{tcp: {maxConnections: 1}, http: {maxPendingRequests: 1, maxRequestsPerConnection: 1}}";
            mesh.write("settings.yaml", &upstream_settings("httpbin-external", limits))?;
            mesh.write(
                "httpbin.yaml",
                &egress("httpbin-external", &format!("{spec}\n{}", by_upstream_settings("httpbin-external"))),
            )?;
            // HTTP requests share connections up to the limit.
            let cluster = mesh.cluster("httpbin.httpbin.svc.cluster.local:14001")?;
            ensure!(cluster["connection_pool_per_downstream_connection"].is_null(), "{cluster}");
            let (good, overflown) = load(mesh, to, host)?;
            println!("C2: {good} times 200, {overflown} times 503");
            ensure!(good > 0 && overflown > 0, "C2: {good} times 200, {overflown} times 503");
            let stat = |name: &str| {
                mesh.envoy.stat(&format!("cluster.httpbin_httpbin_svc_cluster_local_14001.{name}"))
            };
            ensure!(
                stat("upstream_rq_pending_overflow")? == overflown as u64,
                "C2: another count of overflows"
            );
            ensure!(stat("upstream_rq_200")? == good as u64, "C2: another count of answers");
            // One request per connection.
            ensure!(
                stat("upstream_cx_total")? == good as u64,
                "C2: {} connections",
                stat("upstream_cx_total")?
            );
            let line = access_log::wait_for_line(mesh.envoy, "a 503", |line| line["status"] == 503)?;
            ensure!(
                line["flags"] == "UO" && line["decision"] == "allow rule curl/httpbin-external spec.ports[0]",
                "{line}"
            );

            // Without the settings there are no limits.
            mesh.write("httpbin.yaml", &egress("httpbin-external", &spec))?;
            mesh.remove("settings.yaml")?;
            ensure!(load(mesh, to, host)? == (50, 0), "the limits stayed");
            ensure!(mesh.envoy.stat("listener_manager.listener_modified")? == 0, "a listener was modified");
            Ok(())
        },
    )
}

/// Limits apply to connections that are not HTTP, and only to those of their own policy.
#[test]
fn max_connections_limits_tcp_and_https() -> Result<()> {
    let manifests = upstream_settings("two", "{tcp: {maxConnections: 2}}")
        + &egress(
            "tcp",
            &format!(
                "ipAddresses: [203.0.113.20/32]\nports: [{{number: 9000, protocol: tcp}}]\n{}",
                by_upstream_settings("two")
            ),
        )
        + &egress(
            "tls",
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: 443, protocol: https}}]\n{}",
                by_upstream_settings("two")
            ),
        )
        + &egress("free", "ipAddresses: [203.0.113.10/32]\nports: [{number: 9000, protocol: tcp}]")
        + &egress("names", "hosts: [www.example.com]\nports: [{number: 443, protocol: https}]");
    with_mesh(&[("all.yaml", &manifests)], |mesh| {
        let mut open = vec![connect(mesh, EXAMPLE, 9000)?, connect(mesh, EXAMPLE, 9000)?];
        ensure!(open.iter_mut().all(still_echoes), "two were allowed");
        mesh.exchange(SocketAddr::new(EXAMPLE, 9000), b"ping")?.expect_close().context("a third one")?;
        ensure!(mesh.envoy.stat("cluster.9000.upstream_cx_overflow")? == 1, "another count of overflows");
        let line = access_log::wait_for_line(mesh.envoy, "the third one", |line| line["flags"] == "UO")?;
        ensure!(
            line["cluster"] == "9000" && line["decision"] == "allow rule curl/tcp spec.ports[0]",
            "{line}"
        );
        for _ in 0..5 {
            open.push(connect(mesh, HTTPBIN, 9000)?);
        }
        ensure!(open.iter_mut().all(still_echoes), "another policy on this port has no limit");
        drop(open);

        let tls = |name: &str| -> Result<_> {
            let stream = connect(mesh, ELSEWHERE, 443)?;
            Ok(client::tls(stream, Some(name)))
        };
        let first = [tls("httpbin.org")?, tls("httpbin.org")?];
        ensure!(first.iter().all(Result::is_ok), "two were allowed: {first:?}");
        ensure!(tls("httpbin.org")?.is_err(), "a third one");
        ensure!(
            mesh.envoy.stat("cluster.httpbin_org_443.upstream_cx_overflow")? == 1,
            "another count of overflows"
        );
        let others: Vec<_> = (0..5).map(|_| tls("www.example.com")).collect::<Result<_>>()?;
        ensure!(others.iter().all(Result::is_ok), "another policy on this port has no limit");
        ensure!(mesh.network.origins.connections_to(ELSEWHERE) == 0, "the dialled address was reached");

        // Once a connection has closed, another one passes.
        drop(first);
        let again = |mesh: &TestMesh<'_>| mesh.get_tls(SocketAddr::new(ELSEWHERE, 443), "httpbin.org");
        egress_tests::wait::wait_for("room for a connection", Duration::from_secs(5), || {
            again(mesh).is_ok_and(|reply| reply.expect_origin(HTTPBIN).is_ok())
        })?;
        Ok(())
    })
}

/// A connection attempt ends after the settings' timeout, not after Envoy's 5 s.
#[test]
fn connect_timeout_ends_an_attempt() -> Result<()> {
    let manifests = upstream_settings("quick", "{tcp: {connectTimeout: 300ms}}")
        + &egress(
            "tcp",
            &format!(
                "ipAddresses: [198.51.100.0/24]\nports: [{{number: 9000, protocol: tcp}}]\n{}",
                by_upstream_settings("quick")
            ),
        )
        + &egress(
            "web",
            &format!(
                "hosts: [nobody.example, httpbin.org]\nports: [{{number: 443, protocol: https}}, {{number: 80, protocol: http}}]\n{}",
                by_upstream_settings("quick")
            ),
        );
    with_mesh(&[("all.yaml", &manifests)], |mesh| {
        mesh.network.dns.set("nobody.example", &[UNUSED_ADDRESS]);
        let timed = |what: &str, attempt: &dyn Fn() -> Result<Reply>, expected: &[Reply]| -> Result<()> {
            let start = Instant::now();
            let reply = attempt()?;
            let took = start.elapsed();
            println!("{what}: {took:?}");
            ensure!(expected.contains(&reply), "{what}: {reply:?}");
            let range = Duration::from_millis(250)..Duration::from_secs(2);
            ensure!(range.contains(&took), "{what}: after {took:?}");
            Ok(())
        };
        let to = |ip, port| SocketAddr::new(ip, port);
        timed("tcp", &|| mesh.exchange(to(UNUSED_ADDRESS, 9000), b"ping"), &[Reply::Closed])?;
        timed("https", &|| mesh.get_tls(to(EXAMPLE, 443), "nobody.example"), &[Reply::Closed])?;
        timed("http", &|| mesh.get(to(EXAMPLE, 80), "nobody.example", "/"), &[Reply::Envoy(503, None)])?;
        // A live host is reached.
        mesh.exchange(to(ELSEWHERE, 9000), b"ping")?.expect_echo(b"ping")?;
        mesh.get_tls(to(EXAMPLE, 443), "httpbin.org")?.expect_origin(HTTPBIN)?;
        mesh.get(to(EXAMPLE, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        Ok(())
    })
}
