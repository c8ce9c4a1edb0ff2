//! Transparency: programs work behind a sidecar as without one. Names that fail for a while, logins of
//! connections, silence, both address families.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::closing_origin::ClosingOrigin;
use egress_tests::dns::Failure;
use egress_tests::envoy::Envoy;
use egress_tests::manifests::{echo_policy, egress};
use egress_tests::mesh::{MeshOptions, Reply, with_mesh, with_prepared_mesh};
use egress_tests::netns::{Pod, PodForm, ensure_capable};
use egress_tests::network::{ELSEWHERE, EXAMPLE, EXAMPLE6, HTTPBIN, TestNetwork};
use egress_tests::raw_origin::{RawOrigin, head};
use egress_tests::standalone::Standalone;
use egress_tests::wait::wait_for;
use egress_tests::workload;
use serde_json::Value;

/// The port of the [`RawOrigin`]s.
const PORT: u16 = 8087;

fn policy(hosts: &str) -> String {
    let ports = format!(
        "{{number: 443, protocol: https}}, {{number: 80, protocol: http}}, {{number: {PORT}, protocol: http}}"
    );
    egress("web", &format!("hosts: [{hosts}]\nports: [{ports}]"))
}

/// Runs a test with the control plane, and then without one.
fn in_both_forms(hosts: &str, test: impl Fn(&TestNetwork, &Pod, &Envoy<'_>) -> Result<()>) -> Result<()> {
    let text = policy(hosts);
    with_mesh(&[("web.yaml", &text)], |mesh| test(mesh.network, mesh.pod, mesh.envoy))
        .context("with a control plane")?;
    let network = TestNetwork::new()?;
    let pod = network.outside.pod(PodForm::supported())?;
    network.write("web.yaml", &text)?;
    let standalone = Standalone::new()?;
    let envoy = Envoy::start(&pod, &standalone.compiled(network.manifests.path())?, 1)?;
    test(&network, &pod, &envoy).context("without a control plane")
}

fn answer(outcome: Outcome) -> Result<client::HttpResponse> {
    match outcome {
        Outcome::Http(answer) => Ok(answer),
        outcome => bail!("no answer: {outcome:?}"),
    }
}

/// A name that cannot be resolved is refused with the reason, and works again seconds after its name server
/// recovers, not a minute.
#[test]
fn a_failed_lookup_recovers_within_seconds() -> Result<()> {
    in_both_forms("new.example, broken.example, silent.example, '*.wild.example'", |network, pod, envoy| {
        let (http, https) = (SocketAddr::new(ELSEWHERE, 80), SocketAddr::new(ELSEWHERE, 443));
        for (name, failure, reason) in [
            ("new.example", None, "name-not-found"),
            ("broken.example", Some(Failure::ServerFailure), "dns-failed"),
            ("silent.example", Some(Failure::Silence), "dns-failed"),
            ("new.wild.example", None, "name-not-found"),
            ("broken.wild.example", Some(Failure::ServerFailure), "dns-failed"),
        ] {
            if let Some(failure) = failure {
                network.dns.set(name, &[EXAMPLE]);
                network.dns.fail(name, failure);
            }
            // TLS first, because a cached failure ends at once.
            let outcome = pod.workload().run(|| {
                let stream = client::connect(https)?;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                client::tls(stream, Some(name)).map(drop)
            })?;
            ensure!(outcome == Err(Outcome::Closed), "{name} by TLS: {outcome:?}");
            let line = access_log::wait_for_line(envoy, "the refusal", |line| line["name"] == name)?;
            ensure!(line["reason"] == "name-unresolved" && line["verdict"] == "deny", "{line}");
            let found = answer(workload::get(pod, http, name, "/")?)?;
            ensure!(
                found.status == 503 && found.header("x-egress-denied") == Some(reason),
                "{name}: {found:?}"
            );
            let body = String::from_utf8_lossy(&found.body).into_owned();
            ensure!(body.starts_with(&format!("egress denied: {reason}: ")), "{body}");
            access_log::wait_for_line(envoy, "the reason", |line| {
                line["authority"] == name && line["refused"] == reason
            })?;
            network.dns.set(name, &[EXAMPLE]);
            network.dns.recover(name);
            let took = wait_for("the name", Duration::from_secs(12), || {
                let by_http = workload::get(pod, http, name, "/").map(Reply::from);
                let by_tls = workload::get_tls(pod, https, Some(name)).map(Reply::from);
                [by_http, by_tls]
                    .into_iter()
                    .all(|reply| reply.is_ok_and(|r| r.expect_origin(EXAMPLE).is_ok()))
            })
            .with_context(|| name.to_owned())?;
            println!("{name} after {took:?}");
        }
        Ok(())
    })
}

/// Each name is looked up once in each family, under an exact rule or a wildcard.
#[test]
fn a_name_is_looked_up_once_per_family() -> Result<()> {
    in_both_forms("exact.example, '*.wild.example'", |network, pod, envoy| {
        for name in ["exact.example", "www.wild.example"] {
            network.dns.set(name, &[EXAMPLE]);
            let before = network.dns.queries().len();
            let reply = Reply::from(workload::get_tls(pod, SocketAddr::new(ELSEWHERE, 443), Some(name))?);
            reply.expect_origin(EXAMPLE)?;
            let mut queries: Vec<String> =
                network.dns.queries()[before..].iter().map(|(name, kind)| format!("{name} {kind}")).collect();
            queries.sort();
            ensure!(queries == [format!("{name} A"), format!("{name} AAAA")], "{queries:?}");
            let line = access_log::wait_for_line(envoy, "the connection", |line| line["name"] == name)?;
            ensure!(line["verdict"] == "allow", "{line}");
        }
        Ok(())
    })
}

/// Addresses of both families are tried until one answers. Blocked addresses are left out, in any order.
#[test]
fn all_addresses_of_a_name_are_tried() -> Result<()> {
    ensure_capable()?;
    let dead = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 99));
    let dead6: IpAddr = "2001:db8:1::99".parse()?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let loopback6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let private = IpAddr::V4(Ipv4Addr::new(10, 20, 30, 40));
    in_both_forms("'*.wild.example'", |network, pod, _| {
        // Route the dead addresses nowhere.
        pod.sidecar.ip(&format!("route add unreachable {dead}/32"))?;
        pod.sidecar.ip(&format!("-6 route add unreachable {dead6}/128"))?;
        // The origins' namespace has the private address, and would answer.
        network.outside.netns.ip(&format!("addr add {private}/32 dev lo"))?;
        for (name, addresses, expected) in [
            ("dead4.wild.example", &[dead, EXAMPLE6][..], Some(EXAMPLE6)),
            ("dead6.wild.example", &[EXAMPLE, dead6], Some(EXAMPLE)),
            ("two.wild.example", &[dead, EXAMPLE], Some(EXAMPLE)),
            ("alive.wild.example", &[EXAMPLE, EXAMPLE6], None),
            ("blocked4.wild.example", &[loopback, EXAMPLE6], Some(EXAMPLE6)),
            ("blocked6.wild.example", &[EXAMPLE, loopback6], Some(EXAMPLE)),
            ("private.wild.example", &[private, EXAMPLE6], Some(EXAMPLE6)),
        ] {
            network.dns.set(name, addresses);
            for reply in [
                workload::get(pod, SocketAddr::new(ELSEWHERE, 80), name, "/")?,
                workload::get_tls(pod, SocketAddr::new(ELSEWHERE, 443), Some(name))?,
            ] {
                let reply = Reply::from(reply);
                match expected {
                    Some(address) => drop(reply.expect_origin(address).with_context(|| name.to_owned())?),
                    None => ensure!(matches!(reply, Reply::Origin(..)), "{name}: {reply:?}"),
                }
            }
        }
        // No allowed address answers: the blocked one is not tried for that.
        for (name, addresses) in [
            ("only-dead.wild.example", &[dead, private][..]),
            ("dead-last.wild.example", &[private, dead]),
            ("six.wild.example", &[dead6, private]),
        ] {
            network.dns.set(name, addresses);
            let before = network.origins.connections_to(private);
            let reply = answer(workload::get(pod, SocketAddr::new(ELSEWHERE, 80), name, "/")?)?;
            ensure!(reply.status == 503, "{name}: {reply:?}");
            let reply = Reply::from(workload::get_tls(pod, SocketAddr::new(ELSEWHERE, 443), Some(name))?);
            reply.expect_close().context(name)?;
            ensure!(network.origins.connections_to(private) == before, "{name} led to a blocked address");
        }
        Ok(())
    })
}

/// A name server that answers for IPv4 and never for IPv6 is sufficient.
#[test]
fn a_name_server_without_ipv6_is_sufficient() -> Result<()> {
    in_both_forms("half.example", |network, pod, _| {
        network.dns.set("half.example", &[EXAMPLE]);
        network.dns.fail("half.example", Failure::SilenceForIpv6);
        Reply::from(workload::get(pod, SocketAddr::new(ELSEWHERE, 80), "half.example", "/")?)
            .expect_origin(EXAMPLE)?;
        Ok(())
    })
}

/// An origin that authenticates connections, as NTLM and Negotiate do.
fn login_origin(network: &TestNetwork) -> Result<RawOrigin> {
    RawOrigin::start(&network.outside.netns, PORT, |_, stream| {
        let mut user = "nobody".to_owned();
        while let Some(head) = head(stream) {
            let path = head.split(' ').nth(1).unwrap_or_default();
            if let Some(name) = path.strip_prefix("/login/") {
                name.clone_into(&mut user);
            }
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len());
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn fetch_user(stream: &mut TcpStream, path: &str) -> Result<String> {
    let request = client::request("GET", path, &[("Host", &format!("httpbin.org:{PORT}"))]);
    Ok(String::from_utf8(answer(client::http_on(stream, &request))?.body)?)
}

/// A login of a connection belongs to one client.
#[test]
fn each_client_has_its_own_connections() -> Result<()> {
    in_both_forms("httpbin.org", |network, pod, _| {
        let origin = login_origin(network)?;
        pod.workload().run(|| -> Result<()> {
            let connect = || client::connect(SocketAddr::new(HTTPBIN, PORT)).map_err(|e| anyhow!("{e:?}"));
            let (mut a, mut b) = (connect()?, connect()?);
            ensure!(fetch_user(&mut a, "/login/alice")? == "alice" && fetch_user(&mut a, "/")? == "alice");
            ensure!(fetch_user(&mut b, "/")? == "nobody", "another client is alice");
            ensure!(fetch_user(&mut b, "/login/bob")? == "bob" && fetch_user(&mut a, "/")? == "alice");
            drop((a, b));
            // A client that comes later has no old connection either.
            for _ in 0..5 {
                ensure!(fetch_user(&mut connect()?, "/")? == "nobody");
            }
            Ok(())
        })??;
        ensure!(origin.accepted() == 7, "{} connections for 7 clients", origin.accepted());
        Ok(())
    })
}

/// An origin closes the connections of earlier clients as idle while new clients send requests. No client with a
/// new connection gets one of those, on which its request would be lost.
#[test]
fn no_client_gets_a_connection_that_the_origin_is_closing() -> Result<()> {
    /// The clients that arrive at a time, and the number of times.
    const CLIENTS: usize = 10;
    const ROUNDS: usize = 7;
    in_both_forms("httpbin.org", |network, pod, _| {
        let origin = ClosingOrigin::start(&network.outside.netns, PORT)?;
        let host = format!("httpbin.org:{PORT}");
        let headers = [("Host", &*host), ("Content-Length", "3"), ("Connection", "close")];
        let request = [client::request("POST", "/", &headers), b"x=1".to_vec()].concat();
        let post = || pod.workload().run(|| client::http(SocketAddr::new(HTTPBIN, PORT), &request));
        let mut failures = Vec::new();
        for _ in 0..ROUNDS {
            let outcomes = std::thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(post)).collect();
                clients.into_iter().map(|client| client.join().expect("no panic")).collect::<Result<Vec<_>>>()
            })?;
            failures.extend(outcomes.into_iter().filter(
                |outcome| !matches!(outcome, Outcome::Http(reply) if reply.status == 200 && reply.body == b"ok"),
            ));
            // The next clients arrive at this moment.
            wait_for("the origin to close what is idle", Duration::from_secs(10), || {
                origin.expired() == origin.accepted()
            })?;
        }
        let clients = CLIENTS * ROUNDS;
        ensure!(failures.is_empty(), "{} of {clients} failed, such as {:?}", failures.len(), failures[0]);
        ensure!(origin.accepted() == clients, "{} connections for {clients} clients", origin.accepted());
        Ok(())
    })
}

/// Connections that clients left behind are closed after the idle timeout. `EGRESS_MANY=10000` tries 10,000.
#[test]
fn connections_of_departed_clients_are_closed() -> Result<()> {
    let many = std::env::var("EGRESS_MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(400_usize);
    let text = policy("httpbin.org");
    let setting = MeshOptions {
        manifests: &[("web.yaml", &text)],
        flags: &["--upstream-idle-timeout", "2s"],
        form: PodForm::supported(),
    };
    setting.run(
        |_| Ok(()),
        |mesh| {
            let origin = login_origin(mesh.network)?;
            let before = mesh.envoy.memory()?;
            let start = Instant::now();
            mesh.pod.workload().run(|| -> Result<()> {
                for _ in 0..many {
                    let mut stream =
                        client::connect(SocketAddr::new(HTTPBIN, PORT)).map_err(|e| anyhow!("{e:?}"))?;
                    ensure!(fetch_user(&mut stream, "/")? == "nobody");
                }
                Ok(())
            })??;
            let stat = || mesh.envoy.stat("cluster.egress-dns.upstream_cx_active");
            println!(
                "{many} clients in {:?}: {} connections are left; {} KiB became {}",
                start.elapsed(),
                stat()?,
                before,
                mesh.envoy.memory()?
            );
            ensure!(origin.accepted() == many, "{} connections", origin.accepted());
            let took = wait_for("the last connection to end", Duration::from_secs(20), || {
                origin.open() == 0 && stat().is_ok_and(|open| open == 0)
            })?;
            println!("none after {took:?} more; {} KiB", mesh.envoy.memory()?);
            Ok(())
        },
    )
}

/// Collects every object of a JSON value that has a type, with the type.
fn collect_typed<'v>(value: &'v Value, found: &mut Vec<(&'v str, &'v Value)>) {
    match value {
        Value::Object(map) => {
            if let Some(kind) = map.get("@type").and_then(Value::as_str) {
                found.push((kind.rsplit('.').next().unwrap_or(kind), value));
            }
            map.values().for_each(|value| collect_typed(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_typed(value, found)),
        _ => {}
    }
}

/// Nothing is closed for silence, and dead peers are found by keepalive probes. Waiting an hour is no option
/// here, so the test reads the limits in Envoy's configuration.
#[test]
fn silence_has_no_limit() -> Result<()> {
    in_both_forms("httpbin.org, '*.wild.example'", |_, _, envoy| {
        let dump: Value = serde_json::from_str(&envoy.admin("/config_dump")?)?;
        let mut found = Vec::new();
        collect_typed(&dump, &mut found);
        let of = |kind: &str| found.iter().filter(|(k, _)| *k == kind).map(|(_, v)| *v).collect::<Vec<_>>();
        // A listener may have two states in the dump.
        let (managers, proxies) = (of("HttpConnectionManager"), of("TcpProxy"));
        ensure!(!managers.is_empty() && !proxies.is_empty(), "{dump}");
        for manager in managers {
            ensure!(manager["stream_idle_timeout"] == "0s", "{manager}");
            ensure!(manager["common_http_protocol_options"]["idle_timeout"] == "0s", "{manager}");
            ensure!(manager["request_timeout"].is_null(), "{manager}");
            let routes =
                manager["route_config"]["virtual_hosts"][0]["routes"].as_array().context("routes")?;
            for route in routes {
                ensure!(
                    route["route"]["timeout"] == "0s" && route["route"]["idle_timeout"] == "0s",
                    "{route}"
                );
            }
        }
        for proxy in proxies {
            ensure!(proxy["idle_timeout"] == "0s", "{proxy}");
        }
        let keepalive = serde_json::json!({
            "keepalive_probes": 5, "keepalive_time": 180, "keepalive_interval": 30
        });
        let outer = of("Listener").into_iter().filter(|listener| listener["internal_listener"].is_null());
        for listener in outer {
            ensure!(listener["tcp_keepalive"] == keepalive, "{listener}");
        }
        let clusters = of("Cluster").into_iter().filter(|cluster| {
            cluster["name"].as_str().is_some_and(|name| name != "egress-http" && name != "osm-egress")
        });
        let mut names = Vec::new();
        for cluster in clusters {
            ensure!(cluster["upstream_connection_options"]["tcp_keepalive"] == keepalive, "{cluster}");
            ensure!(cluster["connection_pool_per_downstream_connection"] == true, "{cluster}");
            let options = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
                ["common_http_protocol_options"];
            ensure!(options["idle_timeout"] == "60s", "{cluster}");
            names.push(cluster["name"].as_str().unwrap_or_default().to_owned());
        }
        names.sort();
        ensure!(names == ["egress-dns", "egress-dns-wildcard", "egress-original-dst"], "{names:?}");
        Ok(())
    })
}

/// A request whose answer takes longer than five minutes, which is Envoy's default limit. Run it by hand.
#[test]
#[ignore = "it takes five and a half minutes"]
fn five_minutes_of_silence_are_allowed() -> Result<()> {
    with_prepared_mesh(
        |network| {
            RawOrigin::start(&network.outside.netns, PORT, |_, stream| {
                let _ = head(stream);
                // The elapsed time is under test: half a minute more than Envoy's default limit.
                std::thread::sleep(Duration::from_secs(330));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            })
            .map(drop)
        },
        &[("web.yaml", &policy("httpbin.org"))],
        |mesh| {
            let start = Instant::now();
            let answer = mesh.pod.workload().run(|| -> Result<Outcome> {
                let mut stream =
                    client::connect(SocketAddr::new(HTTPBIN, PORT)).map_err(|e| anyhow!("{e:?}"))?;
                stream.set_read_timeout(Some(Duration::from_secs(400)))?;
                let request = client::request("GET", "/", &[("Host", "httpbin.org")]);
                Ok(client::http_on(&mut stream, &request))
            })??;
            println!("{answer:?} after {:?}", start.elapsed());
            ensure!(matches!(&answer, Outcome::Http(answer) if answer.status == 200), "{answer:?}");
            Ok(())
        },
    )
}

/// `--idle-timeout` closes a silent connection.
#[test]
fn the_idle_timeout_closes_silent_connections() -> Result<()> {
    let text = policy("httpbin.org") + &echo_policy("curl", 9000);
    let setting = MeshOptions {
        manifests: &[("web.yaml", &text)],
        flags: &["--idle-timeout", "1s"],
        form: PodForm::supported(),
    };
    setting.run(
        |_| Ok(()),
        |mesh| {
            let start = Instant::now();
            let ended = mesh.pod.workload().run(|| -> Result<usize> {
                let mut stream =
                    client::connect(SocketAddr::new(HTTPBIN, 9000)).map_err(|e| anyhow!("{e:?}"))?;
                stream.write_all(b"ping")?;
                let mut answer = [0; 8];
                ensure!(stream.read(&mut answer)? == 4);
                Ok(stream.read(&mut answer)?)
            })??;
            ensure!(ended == 0 && start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
            Ok(())
        },
    )
}

/// A client that asks before it uploads gets the origin's response and not Envoy's `100 Continue`: else the
/// origin closes while Envoy writes, and Envoy loses the response.
#[test]
fn an_early_response_replaces_an_upload() -> Result<()> {
    with_prepared_mesh(
        |network| {
            RawOrigin::start(&network.outside.netns, PORT, |_, stream| {
                let _ = head(stream);
                let _ = stream
                    .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            })
            .map(drop)
        },
        &[("web.yaml", &policy("httpbin.org"))],
        |mesh| {
            for _ in 0..20 {
                let status = mesh.pod.workload().run(|| -> Result<u16> {
                    let mut stream =
                        client::connect(SocketAddr::new(HTTPBIN, PORT)).map_err(|e| anyhow!("{e:?}"))?;
                    let host = format!("httpbin.org:{PORT}");
                    let headers =
                        [("Host", &*host), ("Content-Length", "4194304"), ("Expect", "100-continue")];
                    Ok(answer(client::http_on(&mut stream, &client::request("POST", "/", &headers)))?.status)
                })??;
                ensure!(status == 413, "{status}");
            }
            Ok(())
        },
    )
}
