//! Defects of updates: policies that stopped others, arrived too often, or ended nothing.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::control_plane::ControlPlane;
use egress_tests::echo::{still_echoes, wait_for_end};
use egress_tests::manifests::{
    by_route_group, by_upstream_settings, egress, egress_of, route_group, upstream_settings,
};
use egress_tests::mesh::{Reply, TestMesh, with_mesh, with_prepared_mesh};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::GREETING;
use egress_tests::pattern_servers::{self, PatternServers};
use egress_tests::wait::wait_for;
use egress_tests::{client, sidecar};

use super::{at, bystander, expect_bystander, expect_no_rejection};

/// Protocols in upper case made no filter chain, and unknown ones were ignored without a word.
#[test]
fn d3_protocols_have_any_case_and_unknown_ones_are_named() -> Result<()> {
    let policy = egress(
        "cases",
        "hosts: [httpbin.org]\nports: [{number: 80, protocol: HTTP}, {number: 443, protocol: Https}, \
         {number: 9100, protocol: TCP}, {number: 9001, protocol: TCP-Server-First}]",
    );
    with_mesh(&[("cases.yaml", &policy)], |mesh| {
        mesh.get(at(EXAMPLE, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        mesh.get_tls(at(EXAMPLE, 443), "httpbin.org")?.expect_origin(HTTPBIN)?;
        mesh.exchange(at(EXAMPLE, 9100), b"hello")?.expect_echo(b"hello")?;
        mesh.exchange(at(EXAMPLE, 9001), b"")?.expect_echo(GREETING)?;
        ensure!(mesh.accepted("Egress curl/cases")? == (true, 4));

        for unknown in ["htttp", "udp", "http2", "grpc", "''"] {
            let ports =
                format!("ports: [{{number: 9101, protocol: {unknown}}}, {{number: 9102, protocol: tcp}}]");
            mesh.write("unknown.yaml", &egress("unknown", &ports))?;
            mesh.exchange(at(EXAMPLE, 9101), b"hello")?.expect_close().with_context(|| unknown.to_owned())?;
            // The object's other ports stay in force.
            mesh.exchange(at(EXAMPLE, 9102), b"hello")?.expect_echo(b"hello")?;
            let problems = mesh.diagnostics("Egress curl/unknown")?;
            let expected = |problem: &String| problem.starts_with("error spec.ports[0].protocol: ");
            ensure!(problems.iter().any(expected), "{unknown}: {problems:?}");
        }
        expect_no_rejection(mesh)
    })
}

/// A policy with protocol `HTTP`, or one whose settings did not exist, stopped all updates of a proxy,
/// including revocations.
#[test]
fn d4_no_policy_stops_updates() -> Result<()> {
    let freezing = egress("upper", "hosts: [httpbin.org]\nports: [{number: 80, protocol: HTTP}]")
        + &egress(
            "missing",
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: 8080, protocol: http}}]\n{}",
                by_upstream_settings("none")
            ),
        );
    with_mesh(&[("freezing.yaml", &freezing)], |mesh| {
        for round in 0..3 {
            mesh.write("bystander.yaml", &bystander())?;
            expect_bystander(mesh).with_context(|| format!("round {round}"))?;
            mesh.remove("bystander.yaml")?;
            mesh.exchange(at(HTTPBIN, 9000), b"hello")?
                .expect_close()
                .with_context(|| format!("round {round}"))?;
        }
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        // An object whose settings are missing grants nothing and reports it.
        let reply = mesh.get(at(HTTPBIN, 8080), "httpbin.org", "/get")?;
        ensure!(reply == Reply::Closed, "{reply:?}");
        let problems = mesh.diagnostics("Egress curl/missing")?;
        ensure!(problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")), "{problems:?}");
        expect_no_rejection(mesh)
    })
}

/// Overlaps and duplicates made Envoy reject the listener or the routes, so nobody's changes arrived.
#[test]
fn d5_overlapping_policies_are_merged() -> Result<()> {
    let twice = "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
        metadata: {name: a, namespace: curl}\n\
        spec:\n  sources:\n  - &me {kind: ServiceAccount, name: curl, namespace: curl}\n  \
        - {kind: ServiceAccount, name: curl, namespace: curl}\n  \
        hosts: [httpbin.org, HTTPBIN.org, httpbin.org.]\n  ports: [{number: 8080, protocol: http}]\n  "
        .replace("&me ", "");
    let files = [
        route_group("get", "/get"),
        route_group("status", "/status.*"),
        // One host twice, in one policy and in two, with routes that add up; and a source twice.
        format!("{twice}{}\n", by_route_group("get")),
        egress(
            "b",
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: 8080, protocol: http}}]\n{}",
                by_route_group("status")
            ),
        ),
        // Host lists that overlap.
        egress("c", "hosts: [httpbin.org, www.example.com]\nports: [{number: 8443, protocol: https}]"),
        egress("d", "hosts: [www.example.com, openservicemesh.io]\nports: [{number: 8443, protocol: https}]"),
        // Equal matches.
        egress("e", "ports: [{number: 443, protocol: https}, {number: 9001, protocol: tcp}]"),
        egress("f", "ports: [{number: 443, protocol: tcp}, {number: 9001, protocol: tcp-server-first}]"),
        // Blocks that are equal and that contain one another.
        egress("g", "ipAddresses: [203.0.113.0/24, 203.0.113.20/32]\nports: [{number: 9100, protocol: tcp}]"),
        egress(
            "h",
            "ipAddresses: [203.0.113.20/32, 198.51.100.0/24]\nports: [{number: 9100, protocol: tcp}]",
        ),
    ];
    with_mesh(&[("all.yaml", &files.concat()), ("bystander.yaml", &bystander())], |mesh| {
        let web = at(HTTPBIN, 8080);
        mesh.get(web, "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        mesh.get(web, "httpbin.org", "/status/200")?.expect_origin(HTTPBIN)?;
        mesh.get(web, "httpbin.org", "/ip")?.expect_refusal("route-not-allowed")?;
        for (name, ip) in
            [("httpbin.org", HTTPBIN), ("www.example.com", EXAMPLE), ("openservicemesh.io", EXAMPLE)]
        {
            mesh.get_tls(at(ELSEWHERE, 8443), name)?.expect_origin(ip).with_context(|| name.to_owned())?;
        }
        mesh.get_tls(at(ELSEWHERE, 8443), "other.example")?.expect_close()?;
        mesh.get_tls(at(ELSEWHERE, 443), "other.example")?.expect_origin(ELSEWHERE)?;
        mesh.exchange(at(EXAMPLE, 9001), b"")?.expect_echo(GREETING)?;
        for ip in [HTTPBIN, EXAMPLE, ELSEWHERE] {
            mesh.exchange(at(ip, 9100), b"hello")?.expect_echo(b"hello")?;
        }
        expect_bystander(mesh)?;
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            ensure!(mesh.accepted(&format!("Egress curl/{name}"))?.0, "{name} is not accepted");
        }
        expect_no_rejection(mesh)
    })
}

fn settings(name: &str, host: &str, connections: u32) -> String {
    upstream_settings(name, &format!("{{tcp: {{maxConnections: {connections}}}}}"))
        .replace(&format!("host: {name}"), &format!("host: {host}"))
}

fn max_connections(mesh: &TestMesh<'_>, cluster: &str) -> Result<u64> {
    let cluster = mesh.cluster(cluster)?;
    let limit = cluster["circuit_breakers"]["thresholds"][0]["max_connections"].as_u64();
    limit.with_context(|| format!("{cluster:#}"))
}

/// Of two policies with different settings for one cluster a random one won; settings were looked up too late
/// or not at all.
#[test]
fn d12_the_first_settings_by_name_count() -> Result<()> {
    let policy = |name: &str, uts: &str| {
        egress(
            name,
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: 8080, protocol: http}}]\n{}",
                by_upstream_settings(uts)
            ),
        )
    };
    let web = at(HTTPBIN, 8080);
    let loser_status = |mesh: &TestMesh<'_>, object: &str| -> Result<bool> {
        Ok(mesh.diagnostics(object)?.iter().any(|problem| problem.contains("spec.matches")))
    };
    let first = [
        ("1.yaml", policy("b", "two")),
        ("2.yaml", policy("a", "one")),
        ("3.yaml", settings("two", "httpbin.org", 22) + &settings("one", "httpbin.org", 11)),
    ];
    let first = first.each_ref().map(|(name, text)| (*name, text.as_str()));
    with_mesh(&first, |mesh| {
        // The first by namespace and name, whatever the order of files.
        ensure!(max_connections(mesh, "httpbin.org:8080")? == 11);
        mesh.get(web, "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        ensure!(loser_status(mesh, "Egress curl/b")?, "{:?}", mesh.diagnostics("Egress curl/b")?);
        ensure!(!loser_status(mesh, "Egress curl/a")?, "{:?}", mesh.diagnostics("Egress curl/a")?);
        mesh.write("0.yaml", &policy("c", "two"))?;
        ensure!(max_connections(mesh, "httpbin.org:8080")? == 11);

        // Without the first, the next one.
        mesh.remove("2.yaml")?;
        ensure!(max_connections(mesh, "httpbin.org:8080")? == 22);
        ensure!(!loser_status(mesh, "Egress curl/b")?, "{:?}", mesh.diagnostics("Egress curl/b")?);
        mesh.get(web, "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;

        // The settings' host is for Open Service Mesh's in-mesh traffic, and has no effect here.
        mesh.write("3.yaml", &settings("two", "some.other.host", 33))?;
        ensure!(max_connections(mesh, "httpbin.org:8080")? == 33);
        mesh.get(web, "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;

        // Settings that do not exist: both policies grant nothing.
        mesh.remove("3.yaml")?;
        for name in ["b", "c"] {
            let object = format!("Egress curl/{name}");
            ensure!(mesh.accepted(&object)? == (false, 0), "{name} is accepted");
            let problems = mesh.diagnostics(&object)?;
            ensure!(problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")), "{problems:?}");
        }
        mesh.get(web, "httpbin.org", "/get")?.expect_close()?;
        expect_no_rejection(mesh)
    })
}

/// Each push had different bytes, and each change of any policy was a push to every proxy.
#[test]
fn d13_equal_input_gives_equal_bytes() -> Result<()> {
    let one = route_group("get", "/get")
        + &egress(
            "a",
            &format!(
                "hosts: [httpbin.org, www.example.com]\nports: [{{number: 80, protocol: http}}]\n{}",
                by_route_group("get")
            ),
        );
    let two = egress(
        "b",
        "hosts: ['*.example.com', openservicemesh.io]\nports: [{number: 443, protocol: https}]",
    ) + &egress(
        "c",
        "hosts: [httpbin.org]\nports: [{number: 443, protocol: https}, {number: 8443, protocol: https}]",
    );
    let three =
        egress("d", "ipAddresses: [203.0.113.0/24, '2001:db8::/32']\nports: [{number: 9000, protocol: tcp}]");

    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let text = |control_plane: &ControlPlane<'_>, name: &str| -> Result<u64> {
        let text = control_plane.get("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no {name}"))?.trim().parse()?)
    };
    for (name, text) in [("1.yaml", &one), ("2.yaml", &two), ("3.yaml", &three)] {
        network.write(name, text)?;
    }
    let control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    let connected = |control_plane: &ControlPlane<'_>| {
        control_plane.status().is_ok_and(|status| {
            let proxy = &status["proxies"][0];
            proxy["documentAcknowledged"].is_string()
                && proxy["documentSent"] == proxy["documentAcknowledged"]
        })
    };
    wait_for("the proxy to be up to date", Duration::from_secs(5), || connected(&control_plane))?;
    let dump = || -> Result<Vec<String>> {
        ["dynamic_listeners", "dynamic_active_clusters", "ecds_filters"]
            .into_iter()
            .map(|what| {
                let dump = envoy.admin(&format!("/config_dump?resource={what}"))?;
                // Everything but the time of the update; versions included.
                Ok(dump
                    .lines()
                    .filter(|line| !line.contains("\"last_updated\""))
                    .collect::<Vec<_>>()
                    .join("\n"))
            })
            .collect()
    };
    let before = dump()?;
    ensure!(before.iter().all(|part| part.contains("\"version_info\"")), "{before:?}");

    // Another identity's policy does not affect this proxy.
    let responses = text(&control_plane, "osm_egress_xds_responses_total")?;
    let other = egress_of("other", "other", "hosts: [httpbin.org]\nports: [{number: 80, protocol: http}]");
    network.write("other.yaml", &other)?;
    let seen = || control_plane.status().is_ok_and(|status| status["identities"]["curl/other"].is_object());
    wait_for("the control plane to have it", Duration::from_secs(5), seen)?;
    ensure!(
        text(&control_plane, "osm_egress_xds_responses_total")? == responses,
        "the proxy was told of another's policy"
    );

    // Another control plane with the same objects in other files and another order.
    drop(control_plane);
    for name in ["1.yaml", "2.yaml", "3.yaml", "other.yaml"] {
        network.remove(name)?;
    }
    for (name, text) in [("z.yaml", other), ("y.yaml", three), ("x.yaml", two + &one)] {
        network.write(name, &text)?;
    }
    let control_plane = network.control_plane(&[])?;
    wait_for("the proxy to come to the other control plane", Duration::from_secs(10), || {
        connected(&control_plane)
    })?;
    ensure!(text(&control_plane, "osm_egress_xds_responses_total")? == 0, "the proxy was sent what it has");
    ensure!(dump()? == before, "what Envoy has is not the same");
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// A connection that was allowed once stayed open for as long as the workload wanted.
#[test]
fn d18_revocation_closes_connections_in_flight() -> Result<()> {
    let http =
        |host: &str| egress("http", &format!("hosts: [{host}]\nports: [{{number: 8081, protocol: http}}]"));
    let policies = [
        ("tcp.yaml", egress("tcp", "ipAddresses: [203.0.113.20/32]\nports: [{number: 9000, protocol: tcp}]")),
        ("tls.yaml", egress("tls", "hosts: [httpbin.org]\nports: [{number: 9203, protocol: https}]")),
        ("http.yaml", http("httpbin.org")),
        ("bystander.yaml", bystander()),
    ];
    let policies = policies.each_ref().map(|(name, text)| (*name, text.as_str()));
    let prepare = |network: &TestNetwork| PatternServers::start(&network.outside.netns).map(|_| ());
    with_prepared_mesh(prepare, &policies, |mesh| {
        let connect = |ip, port| -> Result<TcpStream> {
            mesh.pod.workload().run(|| client::connect(at(ip, port)))?.map_err(|e| anyhow!("{e:?}"))
        };
        let mut bystander = connect(HTTPBIN, 9000)?;
        ensure!(still_echoes(&mut bystander), "the bystander");

        let mut tcp = connect(EXAMPLE, 9000)?;
        ensure!(still_echoes(&mut tcp), "TCP");
        mesh.remove("tcp.yaml")?;
        wait_for_end(&tcp).context("TCP")?;

        let stream = connect(EXAMPLE, pattern_servers::TLS_ECHO_PORT)?;
        let mut tls = client::tls(stream, Some("httpbin.org")).map_err(|e| anyhow!("{e:?}"))?;
        ensure!(still_echoes(&mut tls), "TLS");
        mesh.remove("tls.yaml")?;
        wait_for_end(&tls.sock).context("TLS")?;

        let mut held = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
        held.write_all(&client::request("GET", "/held", &[("host", "httpbin.org")]))?;
        let mut text = Vec::new();
        while !text.ends_with(b"first\n") {
            let mut byte = [0];
            held.read_exact(&mut byte)?;
            text.push(byte[0]);
        }
        // The port stays open; only the request is no longer allowed.
        mesh.write("http.yaml", &http("www.example.com"))?;
        wait_for_end(&held).context("a response that is under way")?;

        ensure!(still_echoes(&mut bystander), "another policy's connection was closed");
        wait_for("three lines in the access log", Duration::from_secs(5), || {
            let revoked = |line: &&serde_json::Value| line["decision"] == "deny revoked - -";
            mesh.envoy.access_log().iter().filter(revoked).count() >= 3
        })?;
        expect_no_rejection(mesh)
    })
}

/// One complex path made Envoy reject all routes of a proxy.
#[test]
fn d20_a_large_regex_affects_its_group_only() -> Result<()> {
    // Envoy's own limit is a program of 100 instructions.
    let mut words = String::from("/(");
    for n in 0..300 {
        write!(words, "word{n}|")?;
    }
    words += "get)";
    let policy = |name: &str, port: u16, group: &str| {
        egress(
            name,
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: {port}, protocol: http}}]\n{}",
                by_route_group(group)
            ),
        )
    };
    let files = [
        ("complex.yaml", route_group("complex", &words) + &policy("complex", 80, "complex")),
        ("bystander.yaml", bystander()),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    with_mesh(&files, |mesh| {
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/word299")?.expect_origin(HTTPBIN)?;
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/word300")?.expect_refusal("route-not-allowed")?;

        for (what, path) in [
            ("repetitions", "(a{1000}){1000}".to_owned()),
            ("length", format!("/({}x)", "abcdefgh|".repeat(20_000))),
            ("no expression", "/(get".to_owned()),
        ] {
            mesh.write("large.yaml", &(route_group("large", &path) + &policy("large", 8080, "large")))?;
            let problems = mesh.diagnostics("HTTPRouteGroup curl/large")?;
            let expected = |problem: &String| problem.starts_with("error spec.matches[0].pathRegex: ");
            ensure!(problems.iter().any(expected), "{what}: {:?}", short(&problems));
            // An object that names the group reports it, and grants nothing on that port.
            let problems = mesh.diagnostics("Egress curl/large")?;
            ensure!(
                problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")),
                "{what}: {problems:?}"
            );
            mesh.get(at(HTTPBIN, 8080), "httpbin.org", "/get")?
                .expect_close()
                .with_context(|| what.to_owned())?;
            mesh.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
            expect_bystander(mesh)?;
        }
        expect_no_rejection(mesh)
    })
}

fn short(problems: &[String]) -> Vec<&str> {
    problems.iter().map(|problem| problem.get(..200).unwrap_or(problem)).collect()
}
