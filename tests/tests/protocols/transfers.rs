//! Large transfers and many requests.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client::{self, Outcome};
use egress_tests::network::{EXAMPLE, HTTPBIN};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::pattern_servers::{self, PatternCheck, PatternServers};
use egress_tests::wait::wait_for;

use super::{MEGABYTE, allow, at, connect, head, in_workload, with_mesh};

#[test]
fn a_gigabyte_downloads_over_http() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
            let request = client::request("GET", &format!("/pattern/{length}"), &[("host", "httpbin.org")]);
            stream.write_all(&request)?;
            let head = head(&mut stream)?;
            ensure!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
            ensure!(head.contains(&format!("{ADDRESS_HEADER}: {HTTPBIN}\r\n")), "{head}");
            PatternCheck::read(&mut stream, length)
        })?;
        println!("1 GB over HTTP took {:?}", start.elapsed());
        let line =
            access_log::wait_for_decision(envoy, &allow("web", 1), &at(HTTPBIN, pattern_servers::HTTP_PORT))?;
        ensure!(access_log::number(&line, "received") == Some(length) && line["status"] == 200, "{line}");
        Ok(())
    })
}

#[test]
fn a_gigabyte_downloads_over_tls() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let stream = connect(EXAMPLE, pattern_servers::HTTPS_PORT)?;
            let mut stream = client::tls(stream, Some("httpbin.org")).map_err(|e| anyhow!("{e:?}"))?;
            let request = client::request("GET", &format!("/pattern/{length}"), &[("host", "httpbin.org")]);
            stream.write_all(&request)?;
            let head = head(&mut stream)?;
            ensure!(head.contains(&format!("{ADDRESS_HEADER}: {HTTPBIN}\r\n")), "{head}");
            PatternCheck::read(&mut stream, length)
        })?;
        println!("1 GB over TLS took {:?}", start.elapsed());
        let line = access_log::wait_for_decision(
            envoy,
            &allow("web", 2),
            &at(HTTPBIN, pattern_servers::HTTPS_PORT),
        )?;
        ensure!(access_log::number(&line, "received") > Some(length), "{line}");
        Ok(())
    })
}

#[test]
fn a_gigabyte_downloads_over_tcp() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 1000 * MEGABYTE;
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::SEND_ON_DEMAND_PORT)?;
            stream.write_all(&length.to_be_bytes())?;
            PatternCheck::read(&mut stream, length)?;
            ensure!(stream.read(&mut [0])? == 0, "more than was asked for");
            Ok(())
        })?;
        println!("1 GB over TCP took {:?}", start.elapsed());
        let line = access_log::wait_for_decision(
            envoy,
            &allow("plain", 4),
            &at(EXAMPLE, pattern_servers::SEND_ON_DEMAND_PORT),
        )?;
        ensure!(
            access_log::number(&line, "received") == Some(length)
                && access_log::number(&line, "sent") == Some(8),
            "{line}"
        );
        Ok(())
    })
}

#[test]
fn a_hundred_megabytes_upload_in_chunks() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let _server = PatternServers::start(&network.outside.netns)?;
        let length = 100 * MEGABYTE;
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, pattern_servers::HTTP_PORT)?;
            let headers = [("host", "httpbin.org"), ("transfer-encoding", "chunked")];
            stream.write_all(&client::request("POST", "/count", &headers))?;
            for piece in pattern_servers::pieces(length) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
            }
            let Outcome::Http(answer) = client::http_on(&mut stream, b"0\r\n\r\n") else {
                anyhow::bail!("no answer")
            };
            ensure!(answer.body == format!("Some({length})\n").as_bytes(), "{answer:?}");
            ensure!(answer.header(ADDRESS_HEADER) == Some(&HTTPBIN.to_string()), "{answer:?}");
            Ok(())
        })?;
        let line =
            access_log::wait_for_decision(envoy, &allow("web", 1), &at(HTTPBIN, pattern_servers::HTTP_PORT))?;
        ensure!(access_log::number(&line, "sent") == Some(length) && line["status"] == 200, "{line}");
        Ok(())
    })
}

#[test]
fn ten_thousand_requests_pass_on_one_connection() -> Result<()> {
    with_mesh(|network, pod, envoy| {
        let start = Instant::now();
        in_workload(pod, || {
            let mut stream = connect(EXAMPLE, 8080)?;
            for n in 0..10_000 {
                let request = client::request("GET", &format!("/get/{n}"), &[("host", "httpbin.org")]);
                let outcome = client::http_on(&mut stream, &request);
                let Outcome::Http(answer) = outcome else { anyhow::bail!("request {n}: {outcome:?}") };
                ensure!(answer.status == 200, "request {n}: {answer:?}");
                ensure!(
                    answer.header(ADDRESS_HEADER) == Some(&HTTPBIN.to_string()),
                    "request {n}: {answer:?}"
                );
                let first = format!("GET httpbin.org/get/{n}\n");
                ensure!(answer.body.starts_with(first.as_bytes()), "another request's answer: {answer:?}");
            }
            Ok(())
        })?;
        println!("10,000 requests took {:?}", start.elapsed());
        let upstream = at(HTTPBIN, 8080);
        wait_for("a line for each request", Duration::from_secs(5), || {
            let good = |line: &&serde_json::Value| {
                line["decision"] == allow("web", 0) && line["upstream"] == upstream && line["status"] == 200
            };
            envoy.access_log().iter().filter(good).count() == 10_000
        })?;
        ensure!(envoy.stat("listener.0.0.0.0_15001.downstream_cx_total")? == 1, "more than one connection");
        ensure!(network.origins.connections_to(EXAMPLE) == 0, "something arrived at the dialled address");
        Ok(())
    })
}

/// All of a large response arrives before the close that follows it.
#[test]
fn a_large_response_arrives_before_its_close() -> Result<()> {
    with_mesh(|_, pod, envoy| {
        for n in 0..20 {
            in_workload(pod, || {
                let mut stream = connect(EXAMPLE, 8080)?;
                let headers = [("host", "httpbin.org"), ("connection", "close")];
                stream.write_all(&client::request("GET", &format!("/bytes/{MEGABYTE}"), &headers))?;
                let mut all = Vec::new();
                stream.read_to_end(&mut all).with_context(|| format!("after {} bytes", all.len()))?;
                let body = all.windows(4).position(|w| w == b"\r\n\r\n").context("no head")? + 4;
                ensure!(all.len() - body == usize::try_from(MEGABYTE)?, "{} bytes", all.len() - body);
                Ok(())
            })
            .with_context(|| format!("round {n}"))?;
        }
        let line = access_log::wait_for_decision(envoy, &allow("web", 0), &at(HTTPBIN, 8080))?;
        ensure!(access_log::number(&line, "received") == Some(MEGABYTE), "{line}");
        Ok(())
    })
}
