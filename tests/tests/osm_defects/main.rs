//! The defects of Open Service Mesh that are shown to be cured: each test has the number of one, and
//! says first what Open Service Mesh did.
//!
//! D8, D9 and the others without a test here concern Kubernetes, are limits that the threat model
//! names, or are the features themselves.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::bulk::{self, Bulk};
use egress_tests::client;
use egress_tests::echo::{ends, lives};
use egress_tests::log;
use egress_tests::mesh::{self, ELSEWHERE, EXAMPLE, HTTPBIN, World};
use egress_tests::netns::ensure_capable;
use egress_tests::origin::{GREETING, Seen};
use egress_tests::scene::{Reply, Scene, play, play_in};
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;

/// An Egress of `curl/curl`, with the rest of its specification as written.
fn egress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
         metadata: {{name: {name}, namespace: curl}}\n\
         spec: {{sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}], {spec}}}\n"
    )
}

/// A route group with one match.
fn group(name: &str, path: &str) -> String {
    format!(
        "---\napiVersion: specs.smi-spec.io/v1alpha4\nkind: HTTPRouteGroup\n\
         metadata: {{name: {name}, namespace: curl}}\nspec: {{matches: [{{name: m, pathRegex: '{path}'}}]}}\n"
    )
}

fn by_group(name: &str) -> String {
    format!("matches: [{{apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: {name}}}]")
}

fn settings(name: &str, host: &str, connections: u32) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
         metadata: {{name: {name}, namespace: curl}}\n\
         spec: {{host: {host}, connectionSettings: {{tcp: {{maxConnections: {connections}}}}}}}\n"
    )
}

fn by_settings(name: &str) -> String {
    format!(
        "matches: [{{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: {name}}}]"
    )
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The policy that lives beside the one that is tried: it must not notice.
fn bystander() -> String {
    egress("bystander", "ipAddresses: [203.0.113.10/32], ports: [{number: 9000, protocol: tcp}]")
}

fn bystander_works(scene: &Scene<'_>) -> Result<()> {
    scene.exchange(at(HTTPBIN, 9000), b"hello")?.echoed(b"hello").context("another policy")
}

/// Envoy rejected nothing, and its listener is what it was.
fn nothing_was_rejected(scene: &Scene<'_>) -> Result<()> {
    let rejected = scene.metric("osm_egress_xds_rejected_total")?;
    ensure!(rejected == 0, "Envoy rejected {rejected} updates:\n{:#}", scene.shim.status()?);
    ensure!(scene.envoy.stat("listener_manager.listener_modified")? == 0, "a listener was modified");
    Ok(())
}

/// `http` policies ignored `ipAddresses`: any address on the port would do.
#[test]
fn d1_http_enforces_ip_addresses() -> Result<()> {
    let policy = egress(
        "web",
        "hosts: [httpbin.org], ipAddresses: [203.0.113.10/32], ports: [{number: 80, protocol: http}]",
    );
    play(&[("web.yaml", &policy)], |scene| {
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        for other in [EXAMPLE, ELSEWHERE] {
            let reply = scene.get(at(other, 80), "httpbin.org", "/get")?;
            ensure!(matches!(reply, Reply::Closed | Reply::Envoy(403, Some(_))), "{other}: {reply:?}");
            ensure!(scene.world.origins.connections_to(other) == 0, "{other} was reached");
        }
        scene.get(at(HTTPBIN, 80), "www.example.com", "/get")?.refused("host-not-allowed")?;
        // The dialled address counts, not what the name resolves to now.
        scene.world.dns.set("httpbin.org", &[ELSEWHERE]);
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        ensure!(scene.world.origins.connections_to(ELSEWHERE) == 0, "the name was followed");
        Ok(())
    })
}

/// A CIDR that could not be parsed was left out; if all were, every address was allowed.
#[test]
fn d2_a_bad_cidr_opens_nothing() -> Result<()> {
    play(&[("bystander.yaml", &bystander())], |scene| {
        for (bad, field) in [
            ("999.1.1.1/32", 0),
            ("203.0.113.20/33", 0),
            ("203.0.113/24", 0),
            ("2001:db8::/129", 0),
            ("0xcb.0.113.20/32", 0),
            ("203.0.113.20/32, 999.9.9.9/99", 1),
        ] {
            let spec = format!("ipAddresses: [{bad}], ports: [{{number: 9100, protocol: tcp}}]");
            scene.write("bad.yaml", &egress("bad", &spec))?;
            for to in [HTTPBIN, EXAMPLE, ELSEWHERE] {
                scene.exchange(at(to, 9100), b"hello")?.closed().with_context(|| format!("{bad}: {to}"))?;
                ensure!(scene.world.origins.seen().iter().all(|seen| !is_connection(seen, at(to, 9100))));
            }
            let problems = scene.problems("Egress curl/bad")?;
            let said = format!("error spec.ipAddresses[{field}]: ");
            ensure!(problems.iter().any(|problem| problem.starts_with(&said)), "{bad}: {problems:?}");
            ensure!(scene.accepted("Egress curl/bad")? == (false, 0), "{bad} is accepted");
            bystander_works(scene)?;
        }
        nothing_was_rejected(scene)
    })
}

fn is_connection(seen: &Seen, to: SocketAddr) -> bool {
    *seen == Seen::Connection(to)
}

/// Protocols in upper case made no filter chain, and unknown ones were ignored without a word.
#[test]
fn d3_protocols_in_any_case_and_unknown_ones_are_named() -> Result<()> {
    let policy = egress(
        "cases",
        "hosts: [httpbin.org], ports: [{number: 80, protocol: HTTP}, {number: 443, protocol: Https}, \
         {number: 9100, protocol: TCP}, {number: 9001, protocol: TCP-Server-First}]",
    );
    play(&[("cases.yaml", &policy)], |scene| {
        scene.get(at(EXAMPLE, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        scene.get_tls(at(EXAMPLE, 443), "httpbin.org")?.from_origin(HTTPBIN)?;
        scene.exchange(at(EXAMPLE, 9100), b"hello")?.echoed(b"hello")?;
        scene.exchange(at(EXAMPLE, 9001), b"")?.echoed(GREETING)?;
        ensure!(scene.accepted("Egress curl/cases")? == (true, 4));

        for unknown in ["htttp", "udp", "http2", "grpc", "''"] {
            let ports =
                format!("ports: [{{number: 9101, protocol: {unknown}}}, {{number: 9102, protocol: tcp}}]");
            scene.write("unknown.yaml", &egress("unknown", &ports))?;
            scene.exchange(at(EXAMPLE, 9101), b"hello")?.closed().with_context(|| unknown.to_owned())?;
            // The object's other ports live on.
            scene.exchange(at(EXAMPLE, 9102), b"hello")?.echoed(b"hello")?;
            let problems = scene.problems("Egress curl/unknown")?;
            let said = |problem: &String| problem.starts_with("error spec.ports[0].protocol: ");
            ensure!(problems.iter().any(said), "{unknown}: {problems:?}");
        }
        nothing_was_rejected(scene)
    })
}

/// A policy with protocol `HTTP`, or one whose settings did not exist, stopped all updates of a proxy,
/// revocations with them.
#[test]
fn d4_no_policy_stops_updates() -> Result<()> {
    let freezing = egress("upper", "hosts: [httpbin.org], ports: [{number: 80, protocol: HTTP}]")
        + &egress(
            "missing",
            &format!(
                "hosts: [httpbin.org], ports: [{{number: 8080, protocol: http}}], {}",
                by_settings("none")
            ),
        );
    play(&[("freezing.yaml", &freezing)], |scene| {
        for round in 0..3 {
            scene.write("bystander.yaml", &bystander())?;
            bystander_works(scene).with_context(|| format!("round {round}"))?;
            scene.remove("bystander.yaml")?;
            scene
                .exchange(at(HTTPBIN, 9000), b"hello")?
                .closed()
                .with_context(|| format!("round {round}"))?;
        }
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        // Whose settings are missing grants nothing, and says so.
        let reply = scene.get(at(HTTPBIN, 8080), "httpbin.org", "/get")?;
        ensure!(reply == Reply::Closed, "{reply:?}");
        let problems = scene.problems("Egress curl/missing")?;
        ensure!(problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")), "{problems:?}");
        nothing_was_rejected(scene)
    })
}

/// Overlaps and duplicates made Envoy reject the listener or the routes: nobody's changes came through.
#[test]
fn d5_overlapping_policies_are_merged() -> Result<()> {
    let twice = "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
        metadata: {name: a, namespace: curl}\n\
        spec:\n  sources:\n  - &me {kind: ServiceAccount, name: curl, namespace: curl}\n  \
        - {kind: ServiceAccount, name: curl, namespace: curl}\n  \
        hosts: [httpbin.org, HTTPBIN.org, httpbin.org.]\n  ports: [{number: 8080, protocol: http}]\n  "
        .replace("&me ", "");
    let files = [
        group("get", "/get"),
        group("status", "/status.*"),
        // One host twice, in one policy and in two, with routes that add up; and a source twice.
        format!("{twice}{}\n", by_group("get")),
        egress(
            "b",
            &format!(
                "hosts: [httpbin.org], ports: [{{number: 8080, protocol: http}}], {}",
                by_group("status")
            ),
        ),
        // Host lists that overlap.
        egress("c", "hosts: [httpbin.org, www.example.com], ports: [{number: 8443, protocol: https}]"),
        egress("d", "hosts: [www.example.com, openservicemesh.io], ports: [{number: 8443, protocol: https}]"),
        // Equal matches.
        egress("e", "ports: [{number: 443, protocol: https}, {number: 9001, protocol: tcp}]"),
        egress("f", "ports: [{number: 443, protocol: tcp}, {number: 9001, protocol: tcp-server-first}]"),
        // Blocks that are equal and that contain one another.
        egress("g", "ipAddresses: [203.0.113.0/24, 203.0.113.20/32], ports: [{number: 9100, protocol: tcp}]"),
        egress(
            "h",
            "ipAddresses: [203.0.113.20/32, 198.51.100.0/24], ports: [{number: 9100, protocol: tcp}]",
        ),
    ];
    play(&[("all.yaml", &files.concat()), ("bystander.yaml", &bystander())], |scene| {
        let web = at(HTTPBIN, 8080);
        scene.get(web, "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        scene.get(web, "httpbin.org", "/status/200")?.from_origin(HTTPBIN)?;
        scene.get(web, "httpbin.org", "/ip")?.refused("route-not-allowed")?;
        for (name, ip) in
            [("httpbin.org", HTTPBIN), ("www.example.com", EXAMPLE), ("openservicemesh.io", EXAMPLE)]
        {
            scene.get_tls(at(ELSEWHERE, 8443), name)?.from_origin(ip).with_context(|| name.to_owned())?;
        }
        scene.get_tls(at(ELSEWHERE, 8443), "other.example")?.closed()?;
        scene.get_tls(at(ELSEWHERE, 443), "other.example")?.from_origin(ELSEWHERE)?;
        scene.exchange(at(EXAMPLE, 9001), b"")?.echoed(GREETING)?;
        for ip in [HTTPBIN, EXAMPLE, ELSEWHERE] {
            scene.exchange(at(ip, 9100), b"hello")?.echoed(b"hello")?;
        }
        bystander_works(scene)?;
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            ensure!(scene.accepted(&format!("Egress curl/{name}"))?.0, "{name} is not accepted");
        }
        nothing_was_rejected(scene)
    })
}

/// A ClientHello with a name, and with a second one that is encrypted.
fn encrypted_hello(name: &str) -> Vec<u8> {
    fn vector(bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), bytes].concat()
    }
    let extension = |kind: u16, data: &[u8]| [kind.to_be_bytes().to_vec(), vector(data)].concat();
    let names = vector(&[vec![0], vector(name.as_bytes())].concat());
    let extensions = [extension(0, &names), extension(43, &[2, 3, 4]), extension(0xfe0d, &[0; 64])].concat();
    let body = [vec![3, 3], vec![7; 32], vec![0, 0, 2, 0x13, 0x01, 1, 0], vector(&extensions)].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [vec![22, 3, 1], vector(&message)].concat()
}

/// The name in a ClientHello or in a request said nothing about where the bytes went.
#[test]
fn d6_a_name_chooses_the_address() -> Result<()> {
    let policies = egress(
        "names",
        "hosts: [httpbin.org], ports: [{number: 443, protocol: https}, {number: 80, protocol: http}]",
    ) + &egress(
        "both",
        "hosts: [httpbin.org], ipAddresses: [203.0.113.10/32], ports: [{number: 8443, protocol: https}]",
    );
    play(&[("policies.yaml", &policies)], |scene| {
        scene.get_tls(at(ELSEWHERE, 443), "httpbin.org")?.from_origin(HTTPBIN)?;
        scene.get(at(ELSEWHERE, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        scene.get_tls(at(ELSEWHERE, 443), "www.example.com")?.closed()?;
        // With addresses, the dialled one counts, and it must be one of them.
        scene.get_tls(at(HTTPBIN, 8443), "httpbin.org")?.from_origin(HTTPBIN)?;
        scene.get_tls(at(ELSEWHERE, 8443), "httpbin.org")?.closed()?;
        // A name that may not be the one that counts, where the workload chooses the address.
        scene.exchange(at(HTTPBIN, 8443), &encrypted_hello("httpbin.org"))?.closed()?;
        let refused = "deny ech-refused curl/both spec.ports[0]";
        log::line(scene.envoy, "the refusal of ECH", |line| {
            line["decision"] == refused && line["encrypted_hello"] == "true"
        })?;
        ensure!(scene.world.origins.connections_to(ELSEWHERE) == 0, "the dialled address was reached");
        Ok(())
    })
}

/// Paths were matched as they came: `/public/../admin` was public.
#[test]
fn d7_paths_are_normalised_first() -> Result<()> {
    let files = group("paths", "(/get|/public/.*)")
        + &egress(
            "web",
            &format!(
                "hosts: [httpbin.org], ports: [{{number: 8080, protocol: http}}], {}",
                by_group("paths")
            ),
        );
    play(&[("web.yaml", &files)], |scene| {
        let web = at(HTTPBIN, 8080);
        // What is let through arrives as it was judged.
        for (sent, arrives) in [
            ("/get", "/get"),
            ("//get", "/get"),
            ("/./get", "/get"),
            ("/admin/../get", "/get"),
            ("/%67et", "/get"),
            ("/public/a//b", "/public/a/b"),
            ("/public/a/../b?c=/../admin", "/public/b"),
            // `..` takes the empty segment away.
            ("/public//../admin", "/public/admin"),
        ] {
            let reply = scene.get(web, "httpbin.org", sent)?;
            let body = reply.from_origin(HTTPBIN).with_context(|| sent.to_owned())?;
            ensure!(body.starts_with(&format!("GET httpbin.org{arrives}\n")), "{sent}: {body}");
        }
        for sent in [
            "/public/../admin",
            "/public/%2e%2e/admin",
            "/public/.%2E/admin",
            "/public/x/../../admin",
            "/public/./../admin",
            "/public\\..\\..\\admin",
            "/getx",
            "/anything/get",
        ] {
            let reply = scene.get(web, "httpbin.org", sent)?;
            reply.refused("route-not-allowed").with_context(|| sent.to_owned())?;
        }
        // What servers read in different ways.
        for sent in
            ["/public/..%2fadmin", "/public/%2F..%2fadmin", "/public/..%5cadmin", "/public%5C..%5Cadmin"]
        {
            let reply = scene.get(web, "httpbin.org", sent)?;
            reply.refused("route-not-allowed").with_context(|| sent.to_owned())?;
        }
        let other = |seen: &Seen| match seen {
            Seen::Request(_, _, path) => {
                !(path == "/get" || path.starts_with("/public/")) || path.contains("..")
            }
            Seen::Connection(_) => false,
        };
        ensure!(!scene.world.origins.seen().iter().any(other), "{:?}", scene.world.origins.seen());
        Ok(())
    })
}

/// Wildcard hosts of `http` were accepted and answered 503: the name `*.example.com` was looked up.
#[test]
fn d10_wildcard_hosts_of_http() -> Result<()> {
    let policy = egress(
        "wild",
        "hosts: ['*.example.com'], ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]",
    );
    play(&[("wild.yaml", &policy)], |scene| {
        scene.world.dns.set("api.example.com", &[HTTPBIN]);
        scene.world.dns.set("a.b.c.example.com", &[EXAMPLE]);
        scene.world.dns.set("example.com", &[EXAMPLE]);
        for (name, ip) in
            [("api.example.com", HTTPBIN), ("a.b.c.example.com", EXAMPLE), ("www.example.com", EXAMPLE)]
        {
            let reply = scene.get(at(ELSEWHERE, 80), name, "/get")?;
            let body = reply.from_origin(ip).with_context(|| name.to_owned())?;
            ensure!(body.starts_with(&format!("GET {name}/get\n")), "{body}");
            scene.get_tls(at(ELSEWHERE, 443), name)?.from_origin(ip).with_context(|| name.to_owned())?;
        }
        for name in ["example.com", "notexample.com", "example.com.evil.org", "*.example.com"] {
            let reply = scene.get(at(ELSEWHERE, 80), name, "/get")?;
            ensure!(matches!(reply, Reply::Envoy(403 | 400, _)), "{name}: {reply:?}");
        }
        ensure!(scene.world.origins.connections_to(ELSEWHERE) == 0, "the dialled address was reached");
        Ok(())
    })
}

fn max_connections(scene: &Scene<'_>, cluster: &str) -> Result<u64> {
    let cluster = scene.cluster(cluster)?;
    let limit = cluster["circuit_breakers"]["thresholds"][0]["max_connections"].as_u64();
    limit.with_context(|| format!("{cluster:#}"))
}

/// Of two policies with different settings for one cluster a random one won; settings were looked up
/// too late or not at all.
#[test]
fn d12_which_settings_count() -> Result<()> {
    let policy = |name: &str, uts: &str| {
        egress(
            name,
            &format!("hosts: [httpbin.org], ports: [{{number: 8080, protocol: http}}], {}", by_settings(uts)),
        )
    };
    let web = at(HTTPBIN, 8080);
    let loser_says = |scene: &Scene<'_>, object: &str| -> Result<bool> {
        Ok(scene.problems(object)?.iter().any(|problem| problem.contains("spec.matches")))
    };
    let first = [
        ("1.yaml", policy("b", "two")),
        ("2.yaml", policy("a", "one")),
        ("3.yaml", settings("two", "httpbin.org", 22) + &settings("one", "httpbin.org", 11)),
    ];
    let first = first.each_ref().map(|(name, text)| (*name, text.as_str()));
    play(&first, |scene| {
        // The first by namespace and name, whatever the order of files.
        ensure!(max_connections(scene, "httpbin.org:8080")? == 11);
        scene.get(web, "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        ensure!(loser_says(scene, "Egress curl/b")?, "{:?}", scene.problems("Egress curl/b")?);
        ensure!(!loser_says(scene, "Egress curl/a")?, "{:?}", scene.problems("Egress curl/a")?);
        scene.write("0.yaml", &policy("c", "two"))?;
        ensure!(max_connections(scene, "httpbin.org:8080")? == 11);

        // Without the first, the next one.
        scene.remove("2.yaml")?;
        ensure!(max_connections(scene, "httpbin.org:8080")? == 22);
        ensure!(!loser_says(scene, "Egress curl/b")?, "{:?}", scene.problems("Egress curl/b")?);
        scene.get(web, "httpbin.org", "/get")?.from_origin(HTTPBIN)?;

        // The settings' own host is for Open Service Mesh's in-mesh traffic: it does not matter.
        scene.write("3.yaml", &settings("two", "some.other.host", 33))?;
        ensure!(max_connections(scene, "httpbin.org:8080")? == 33);
        scene.get(web, "httpbin.org", "/get")?.from_origin(HTTPBIN)?;

        // Settings that do not exist: both policies grant nothing.
        scene.remove("3.yaml")?;
        for name in ["b", "c"] {
            let object = format!("Egress curl/{name}");
            ensure!(scene.accepted(&object)? == (false, 0), "{name} is accepted");
            let problems = scene.problems(&object)?;
            ensure!(problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")), "{problems:?}");
        }
        scene.get(web, "httpbin.org", "/get")?.closed()?;
        nothing_was_rejected(scene)
    })
}

/// Each push had other bytes, and each change of any policy was a push to everybody.
#[test]
fn d13_equal_input_gives_equal_bytes() -> Result<()> {
    let one = group("get", "/get")
        + &egress(
            "a",
            &format!(
                "hosts: [httpbin.org, www.example.com], ports: [{{number: 80, protocol: http}}], {}",
                by_group("get")
            ),
        );
    let two = egress(
        "b",
        "hosts: ['*.example.com', openservicemesh.io], ports: [{number: 443, protocol: https}]",
    ) + &egress(
        "c",
        "hosts: [httpbin.org], ports: [{number: 443, protocol: https}, {number: 8443, protocol: https}]",
    );
    let three =
        egress("d", "ipAddresses: [203.0.113.0/24, '2001:db8::/32'], ports: [{number: 9000, protocol: tcp}]");

    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let text = |shim: &Shim<'_>, name: &str| -> Result<u64> {
        let text = shim.get("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no {name}"))?.trim().parse()?)
    };
    for (name, text) in [("1.yaml", &one), ("2.yaml", &two), ("3.yaml", &three)] {
        world.write(name, text)?;
    }
    let shim = world.shim(&[])?;
    let envoy = mesh::sidecar(&pod, false)?;
    let connected = |shim: &Shim<'_>| {
        shim.status().is_ok_and(|status| {
            let proxy = &status["proxies"][0];
            proxy["documentAcknowledged"].is_string()
                && proxy["documentSent"] == proxy["documentAcknowledged"]
        })
    };
    wait_for("the proxy to be up to date", Duration::from_secs(5), || connected(&shim))?;
    let dump = || -> Result<Vec<String>> {
        ["dynamic_listeners", "dynamic_active_clusters", "ecds_filters"]
            .into_iter()
            .map(|what| {
                let dump = envoy.admin(&format!("/config_dump?resource={what}"))?;
                // All but when it was updated: with the versions.
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

    // A policy of somebody else is nothing to this proxy.
    let responses = text(&shim, "osm_egress_xds_responses_total")?;
    let other = egress("other", "hosts: [httpbin.org], ports: [{number: 80, protocol: http}]")
        .replace("name: curl, namespace: curl}]", "name: other, namespace: curl}]");
    world.write("other.yaml", &other)?;
    let seen = || shim.status().is_ok_and(|status| status["identities"]["curl/other"].is_object());
    wait_for("the control plane to have it", Duration::from_secs(5), seen)?;
    ensure!(
        text(&shim, "osm_egress_xds_responses_total")? == responses,
        "the proxy was told of another's policy"
    );

    // Another control plane, with the same objects in other files that came in another order.
    drop(shim);
    for name in ["1.yaml", "2.yaml", "3.yaml", "other.yaml"] {
        world.remove(name)?;
    }
    for (name, text) in [("z.yaml", other), ("y.yaml", three), ("x.yaml", two + &one)] {
        world.write(name, &text)?;
    }
    let shim = world.shim(&[])?;
    wait_for("the proxy to come to the other control plane", Duration::from_secs(10), || connected(&shim))?;
    ensure!(text(&shim, "osm_egress_xds_responses_total")? == 0, "the proxy was sent what it has");
    ensure!(dump()? == before, "what Envoy has is not the same");
    ensure!(envoy.stat("listener_manager.listener_modified")? == 0);
    Ok(())
}

/// A connection that was allowed once lived as long as it liked.
#[test]
fn d18_revocation_ends_what_is_under_way() -> Result<()> {
    let http =
        |host: &str| egress("http", &format!("hosts: [{host}], ports: [{{number: 8081, protocol: http}}]"));
    let policies = [
        ("tcp.yaml", egress("tcp", "ipAddresses: [203.0.113.20/32], ports: [{number: 9000, protocol: tcp}]")),
        ("tls.yaml", egress("tls", "hosts: [httpbin.org], ports: [{number: 9203, protocol: https}]")),
        ("http.yaml", http("httpbin.org")),
        ("bystander.yaml", bystander()),
    ];
    let policies = policies.each_ref().map(|(name, text)| (*name, text.as_str()));
    let prepare = |world: &World| Bulk::start(&world.outside.netns).map(|_| ());
    play_in(prepare, &policies, |scene| {
        let connect = |ip, port| -> Result<TcpStream> {
            scene.pod.workload().run(|| client::connect(at(ip, port)))?.map_err(|e| anyhow!("{e:?}"))
        };
        let mut bystander = connect(HTTPBIN, 9000)?;
        ensure!(lives(&mut bystander), "the bystander");

        let mut tcp = connect(EXAMPLE, 9000)?;
        ensure!(lives(&mut tcp), "TCP");
        scene.remove("tcp.yaml")?;
        ends(&tcp).context("TCP")?;

        let stream = connect(EXAMPLE, bulk::TLS_ECHO)?;
        let mut tls = client::tls(stream, Some("httpbin.org")).map_err(|e| anyhow!("{e:?}"))?;
        ensure!(lives(&mut tls), "TLS");
        scene.remove("tls.yaml")?;
        ends(&tls.sock).context("TLS")?;

        let mut held = connect(EXAMPLE, bulk::HTTP)?;
        held.write_all(&client::request("GET", "/held", &[("host", "httpbin.org")]))?;
        let mut text = Vec::new();
        while !text.ends_with(b"first\n") {
            let mut byte = [0];
            held.read_exact(&mut byte)?;
            text.push(byte[0]);
        }
        // The port stays open: it is the request that is not allowed any more.
        scene.write("http.yaml", &http("www.example.com"))?;
        ends(&held).context("a response that is under way")?;

        ensure!(lives(&mut bystander), "another policy's connection was closed");
        wait_for("three lines in the access log", Duration::from_secs(5), || {
            let revoked = |line: &&serde_json::Value| line["decision"] == "deny revoked - -";
            scene.envoy.access_log().iter().filter(revoked).count() >= 3
        })?;
        nothing_was_rejected(scene)
    })
}

/// One complex path made Envoy reject all routes of a proxy.
#[test]
fn d20_a_large_regex_concerns_its_group_alone() -> Result<()> {
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
                "hosts: [httpbin.org], ports: [{{number: {port}, protocol: http}}], {}",
                by_group(group)
            ),
        )
    };
    let files = [
        ("complex.yaml", group("complex", &words) + &policy("complex", 80, "complex")),
        ("bystander.yaml", bystander()),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    play(&files, |scene| {
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/word299")?.from_origin(HTTPBIN)?;
        scene.get(at(HTTPBIN, 80), "httpbin.org", "/word300")?.refused("route-not-allowed")?;

        for (what, path) in [
            ("repetitions", "(a{1000}){1000}".to_owned()),
            ("length", format!("/({}x)", "abcdefgh|".repeat(20_000))),
            ("no expression", "/(get".to_owned()),
        ] {
            scene.write("large.yaml", &(group("large", &path) + &policy("large", 8080, "large")))?;
            let problems = scene.problems("HTTPRouteGroup curl/large")?;
            let said = |problem: &String| problem.starts_with("error spec.matches[0].pathRegex: ");
            ensure!(problems.iter().any(said), "{what}: {:?}", short(&problems));
            // Who names the group is told, and grants nothing on that port.
            let problems = scene.problems("Egress curl/large")?;
            ensure!(
                problems.iter().any(|p| p.starts_with("error spec.matches[0]: ")),
                "{what}: {problems:?}"
            );
            scene.get(at(HTTPBIN, 8080), "httpbin.org", "/get")?.closed().with_context(|| what.to_owned())?;
            scene.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.from_origin(HTTPBIN)?;
            bystander_works(scene)?;
        }
        nothing_was_rejected(scene)
    })
}

fn short(problems: &[String]) -> Vec<&str> {
    problems.iter().map(|problem| problem.get(..200).unwrap_or(problem)).collect()
}
