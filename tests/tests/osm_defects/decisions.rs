//! Defects of decisions: destinations that a policy did not mean to allow.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use egress_tests::access_log;
use egress_tests::manifests::{by_route_group, egress, route_group};
use egress_tests::mesh::{Reply, with_mesh};
use egress_tests::network::{ELSEWHERE, EXAMPLE, HTTPBIN};
use egress_tests::origin::OriginEvent;

use super::{at, bystander, expect_bystander, expect_no_rejection};

/// `http` policies ignored `ipAddresses`: any address on the port would do.
#[test]
fn d1_http_enforces_ip_addresses() -> Result<()> {
    let policy = egress(
        "web",
        "hosts: [httpbin.org]\nipAddresses: [203.0.113.10/32]\nports: [{number: 80, protocol: http}]",
    );
    with_mesh(&[("web.yaml", &policy)], |mesh| {
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        for other in [EXAMPLE, ELSEWHERE] {
            let reply = mesh.get(at(other, 80), "httpbin.org", "/get")?;
            ensure!(matches!(reply, Reply::Closed | Reply::Envoy(403, Some(_))), "{other}: {reply:?}");
            ensure!(mesh.network.origins.connections_to(other) == 0, "{other} was reached");
        }
        mesh.get(at(HTTPBIN, 80), "www.example.com", "/get")?.expect_refusal("host-not-allowed")?;
        // The original destination counts, not the name's current address.
        mesh.network.dns.set("httpbin.org", &[ELSEWHERE]);
        mesh.get(at(HTTPBIN, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        ensure!(mesh.network.origins.connections_to(ELSEWHERE) == 0, "the name was followed");
        Ok(())
    })
}

/// A CIDR that could not be parsed was left out; if all were, every address was allowed.
#[test]
fn d2_a_bad_cidr_opens_nothing() -> Result<()> {
    with_mesh(&[("bystander.yaml", &bystander())], |mesh| {
        for (bad, field) in [
            ("999.1.1.1/32", 0),
            ("203.0.113.20/33", 0),
            ("203.0.113/24", 0),
            ("2001:db8::/129", 0),
            ("0xcb.0.113.20/32", 0),
            ("203.0.113.20/32, 999.9.9.9/99", 1),
        ] {
            let spec = format!("ipAddresses: [{bad}]\nports: [{{number: 9100, protocol: tcp}}]");
            mesh.write("bad.yaml", &egress("bad", &spec))?;
            for to in [HTTPBIN, EXAMPLE, ELSEWHERE] {
                mesh.exchange(at(to, 9100), b"hello")?
                    .expect_close()
                    .with_context(|| format!("{bad}: {to}"))?;
                ensure!(mesh.network.origins.events().iter().all(|seen| !is_connection(seen, at(to, 9100))));
            }
            let problems = mesh.diagnostics("Egress curl/bad")?;
            let expected = format!("error spec.ipAddresses[{field}]: ");
            ensure!(problems.iter().any(|problem| problem.starts_with(&expected)), "{bad}: {problems:?}");
            ensure!(mesh.accepted("Egress curl/bad")? == (false, 0), "{bad} is accepted");
            expect_bystander(mesh)?;
        }
        expect_no_rejection(mesh)
    })
}

fn is_connection(seen: &OriginEvent, to: SocketAddr) -> bool {
    *seen == OriginEvent::Connection(to)
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

/// The name in a ClientHello or in a request did not determine the destination.
#[test]
fn d6_a_name_chooses_the_address() -> Result<()> {
    let policies = egress(
        "names",
        "hosts: [httpbin.org]\nports: [{number: 443, protocol: https}, {number: 80, protocol: http}]",
    ) + &egress(
        "both",
        "hosts: [httpbin.org]\nipAddresses: [203.0.113.10/32]\nports: [{number: 8443, protocol: https}]",
    );
    with_mesh(&[("policies.yaml", &policies)], |mesh| {
        mesh.get_tls(at(ELSEWHERE, 443), "httpbin.org")?.expect_origin(HTTPBIN)?;
        mesh.get(at(ELSEWHERE, 80), "httpbin.org", "/get")?.expect_origin(HTTPBIN)?;
        mesh.get_tls(at(ELSEWHERE, 443), "www.example.com")?.expect_close()?;
        // If the rule has addresses, the original destination must be one of them.
        mesh.get_tls(at(HTTPBIN, 8443), "httpbin.org")?.expect_origin(HTTPBIN)?;
        mesh.get_tls(at(ELSEWHERE, 8443), "httpbin.org")?.expect_close()?;
        // The visible name may not be the real one, and the workload chooses the address.
        mesh.exchange(at(HTTPBIN, 8443), &encrypted_hello("httpbin.org"))?.expect_close()?;
        let refused = "deny ech-refused curl/both spec.ports[0]";
        access_log::wait_for_line(mesh.envoy, "the refusal of ECH", |line| {
            line["decision"] == refused && line["encrypted_hello"] == "true"
        })?;
        ensure!(mesh.network.origins.connections_to(ELSEWHERE) == 0, "the dialled address was reached");
        Ok(())
    })
}

/// Paths were matched without normalisation: `/public/../admin` was public.
#[test]
fn d7_paths_are_normalised_first() -> Result<()> {
    let files = route_group("paths", "(/get|/public/.*)")
        + &egress(
            "web",
            &format!(
                "hosts: [httpbin.org]\nports: [{{number: 8080, protocol: http}}]\n{}",
                by_route_group("paths")
            ),
        );
    with_mesh(&[("web.yaml", &files)], |mesh| {
        let web = at(HTTPBIN, 8080);
        // An allowed path arrives in the form that was judged.
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
            let reply = mesh.get(web, "httpbin.org", sent)?;
            let body = reply.expect_origin(HTTPBIN).with_context(|| sent.to_owned())?;
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
            let reply = mesh.get(web, "httpbin.org", sent)?;
            reply.expect_refusal("route-not-allowed").with_context(|| sent.to_owned())?;
        }
        // Paths that servers read in different ways.
        for sent in
            ["/public/..%2fadmin", "/public/%2F..%2fadmin", "/public/..%5cadmin", "/public%5C..%5Cadmin"]
        {
            let reply = mesh.get(web, "httpbin.org", sent)?;
            reply.expect_refusal("route-not-allowed").with_context(|| sent.to_owned())?;
        }
        let other = |seen: &OriginEvent| match seen {
            OriginEvent::Request(_, _, path) => {
                !(path == "/get" || path.starts_with("/public/")) || path.contains("..")
            }
            OriginEvent::Connection(_) => false,
        };
        ensure!(!mesh.network.origins.events().iter().any(other), "{:?}", mesh.network.origins.events());
        Ok(())
    })
}

/// Wildcard hosts of `http` were accepted and answered 503: the name `*.example.com` was looked up.
#[test]
fn d10_wildcard_hosts_of_http_resolve_the_requested_name() -> Result<()> {
    let policy = egress(
        "wild",
        "hosts: ['*.example.com']\nports: [{number: 80, protocol: http}, {number: 443, protocol: https}]",
    );
    with_mesh(&[("wild.yaml", &policy)], |mesh| {
        mesh.network.dns.set("api.example.com", &[HTTPBIN]);
        mesh.network.dns.set("a.b.c.example.com", &[EXAMPLE]);
        mesh.network.dns.set("example.com", &[EXAMPLE]);
        for (name, ip) in
            [("api.example.com", HTTPBIN), ("a.b.c.example.com", EXAMPLE), ("www.example.com", EXAMPLE)]
        {
            let reply = mesh.get(at(ELSEWHERE, 80), name, "/get")?;
            let body = reply.expect_origin(ip).with_context(|| name.to_owned())?;
            ensure!(body.starts_with(&format!("GET {name}/get\n")), "{body}");
            mesh.get_tls(at(ELSEWHERE, 443), name)?.expect_origin(ip).with_context(|| name.to_owned())?;
        }
        for name in ["example.com", "notexample.com", "example.com.evil.org", "*.example.com"] {
            let reply = mesh.get(at(ELSEWHERE, 80), name, "/get")?;
            ensure!(matches!(reply, Reply::Envoy(403 | 400, _)), "{name}: {reply:?}");
        }
        ensure!(mesh.network.origins.connections_to(ELSEWHERE) == 0, "the dialled address was reached");
        Ok(())
    })
}
