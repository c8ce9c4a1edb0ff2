//! First bytes: connections that are decided by them, and connections that never send them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::access_log;
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::flood::Flood;
use egress_tests::manifests::{audited_account, egress};
use egress_tests::mesh::{MeshOptions, Reply, TestMesh};
use egress_tests::netns::PodForm;
use egress_tests::network::{EXAMPLE, HTTPBIN};
use egress_tests::origin::GREETING;
use egress_tests::wait::wait_for;

/// Policies with a port (9001) of the server that speaks first.
fn policies() -> String {
    let names = "hosts: [httpbin.org]\n\
        ports: [{number: 443, protocol: https}, {number: 80, protocol: http}, {number: 9001, protocol: https}]";
    let echo = "ipAddresses: [203.0.113.20/32]\nports: [{number: 9000, protocol: tcp}]";
    egress("names", names) + &egress("echo", echo)
}

fn with_mesh(manifests: &[(&str, &str)], test: impl FnOnce(&TestMesh<'_>) -> Result<()>) -> Result<()> {
    let flags = ["--first-bytes-timeout", "500ms"];
    MeshOptions { manifests, flags: &flags, form: PodForm::supported() }.run(|_| Ok(()), test)
}

/// Nothing, part of a record's header, part of a hello, and a byte now and then: each is refused in time, and
/// no weaker rule applies.
#[test]
fn incomplete_first_bytes_are_refused_in_time() -> Result<()> {
    with_mesh(&[("policy.yaml", &policies())], |mesh| {
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252][..], &[3; 100]].concat();
        for (port, bytes) in [(443, &b""[..]), (443, &[22, 3]), (443, &hello), (80, b"")] {
            let to = SocketAddr::new(HTTPBIN, port);
            let start = Instant::now();
            mesh.exchange(to, bytes)?.expect_close()?;
            let took = start.elapsed();
            ensure!(took > Duration::from_millis(450), "{port}: refused after {took:?}");
            ensure!(took < Duration::from_secs(2), "{port}: refused after {took:?}");
        }
        // Another byte does not extend the time.
        let start = Instant::now();
        mesh.pod.workload().run(|| -> Result<()> {
            let mut stream = client::connect(SocketAddr::new(HTTPBIN, 443)).map_err(|e| anyhow!("{e:?}"))?;
            // The client's pace: it is slow on purpose.
            while hello.iter().any(|byte| stream.write_all(&[*byte]).is_ok()) {
                std::thread::sleep(Duration::from_millis(50));
                if start.elapsed() > Duration::from_secs(3) {
                    break;
                }
            }
            Ok(())
        })??;
        ensure!(start.elapsed() < Duration::from_secs(2), "ended after {:?}", start.elapsed());
        for _ in 0..2 {
            access_log::wait_for_line(mesh.envoy, "the refusal", |line| {
                line["decision"] == "deny first-bytes-timeout - -" && line["upstream"].is_null()
            })?;
        }
        ensure!(mesh.network.origins.events().is_empty(), "{:?}", mesh.network.origins.events());
        // A rule that needs no first bytes has no timeout.
        let mut stream = mesh
            .pod
            .workload()
            .run(|| client::connect(SocketAddr::new(EXAMPLE, 9000)))?
            .map_err(|e| anyhow!("{e:?}"))?;
        let quiet = Instant::now();
        wait_for("more than the timeout to pass", Duration::from_secs(2), || {
            quiet.elapsed() > Duration::from_millis(700)
        })?;
        stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"ping");
        Ok(())
    })
}

/// Audit mode refuses nothing: a server that speaks first on a port of names is heard after the timeout.
#[test]
fn in_audit_mode_the_timeout_connects() -> Result<()> {
    with_mesh(&[("policy.yaml", &policies()), ("audit.yaml", &audited_account("curl"))], |mesh| {
        let start = Instant::now();
        let received = mesh.exchange(SocketAddr::new(EXAMPLE, 9001), b"")?;
        ensure!(received == Reply::Bytes(GREETING.to_vec()), "{received:?}");
        ensure!(start.elapsed() > Duration::from_millis(450), "it did not wait: {:?}", start.elapsed());
        access_log::wait_for_decision(
            mesh.envoy,
            "allow audit - - first-bytes-timeout",
            "203.0.113.20:9001",
        )?;
        // Bytes that came before the timeout are not lost.
        let answer = mesh.pod.workload().run(|| -> Result<Vec<u8>> {
            let to = SocketAddr::new(EXAMPLE, 9001);
            let mut stream = client::connect(to).map_err(|e| anyhow!("{e:?}"))?;
            stream.write_all(&[22, 3])?;
            let mut answer = vec![0; GREETING.len() + 2];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        })??;
        ensure!(answer == [GREETING, &[22, 3]].concat(), "{answer:?}");
        Ok(())
    })
}

/// Hellos that never end hold memory in Envoy and in the filter: the oldest are closed, and other clients are
/// served meanwhile.
#[test]
fn pending_connections_are_bounded() -> Result<()> {
    const MANY: usize = 9000;
    // The duration is the machine's.
    let setting = MeshOptions {
        manifests: &[("policy.yaml", &policies())],
        flags: &["--first-bytes-timeout", "120s"],
        form: PodForm::supported(),
    };
    setting.run(
        |_| Ok(()),
        |mesh| {
            let before = mesh.envoy.memory()?;
            let hello = [&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 252][..], &[3; 16_000]].concat();
            let to = SocketAddr::new(HTTPBIN, 443);
            let streams = mesh.pod.workload().run(|| -> Result<Vec<TcpStream>> {
                let begin = |_| {
                    let mut stream = client::connect(to).map_err(|e| anyhow!("{e:?}"))?;
                    // It may have been refused.
                    let _ = stream.write_all(&hello);
                    Ok(stream)
                };
                (0..MANY).map(begin).collect()
            })??;
            mesh.get_tls(to, "httpbin.org")?.expect_origin(HTTPBIN)?;
            let refused = || -> Result<usize> {
                let log = mesh.envoy.access_log();
                Ok(log.iter().filter(|line| line["reason"] == "too-many-pending").count())
            };
            wait_for("the oldest to go", Duration::from_secs(20), || {
                refused().is_ok_and(|refused| refused >= MANY - 4096)
            })?;
            let after = mesh.envoy.memory()?;
            println!(
                "{MANY} hellos without an end: {} refused, {before} kB before, {after} kB after",
                refused()?
            );
            let kept = streams.iter().filter(|stream| has_ended(stream).is_ok_and(|ended| !ended)).count();
            // 16 MiB of them.
            ensure!(kept < 1100, "{kept} are kept");
            Ok(())
        },
    )
}

/// Beginnings of requests whose headers never end.
#[derive(Debug, Clone, Copy)]
enum Unfinished {
    First,
    /// Sent together with a first request, which is refused.
    Next,
    /// Sent together with a first request, which Envoy refuses before any filter sees it.
    Unseen,
    Http2,
}

impl Unfinished {
    const ALL: [Self; 4] = [Self::First, Self::Next, Self::Unseen, Self::Http2];

    fn bytes(self, size: usize) -> Vec<u8> {
        let before = match self {
            Self::First => "",
            Self::Next => "GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n",
            Self::Unseen => "OPTIONS * HTTP/1.1\r\nhost: httpbin.org\r\n\r\n",
            Self::Http2 => return header_block(size),
        };
        let fill = "y".repeat(size);
        format!("{before}GET / HTTP/1.1\r\nhost: httpbin.org\r\nx: {fill}").into_bytes()
    }
}

/// HTTP/2's preface and a header block without END_HEADERS, of literal fields without indexing.
fn header_block(size: usize) -> Vec<u8> {
    let field = [&[0, 1, b'x', 126][..], &[b'y'; 126]].concat();
    let payload = field.repeat(100);
    let length = u16::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let frames = (0..size / payload.len()).map(|n| {
        let kind = if n == 0 { 1 } else { 9 };
        [&[0], &length[..], &[kind, 0, 0, 0, 0, 1], &payload].concat()
    });
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let frames: Vec<u8> = frames.flatten().collect();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &frames].concat()
}

/// Envoy's allocated memory, in kB. Its resident memory shrinks late.
fn allocated_memory(envoy: &Envoy<'_>) -> Result<u64> {
    let memory: serde_json::Value = serde_json::from_str(&envoy.admin("/memory")?)?;
    let bytes: u64 = memory["allocated"].as_str().context("no memory")?.parse()?;
    Ok(bytes / 1024)
}

/// Headers that never end hold memory in Envoy: the oldest connections are closed, and other clients are
/// served meanwhile.
#[test]
fn unfinished_headers_are_bounded() -> Result<()> {
    const MANY: usize = 4000;
    with_mesh(&[("policy.yaml", &policies())], |mesh| {
        let to = SocketAddr::new(HTTPBIN, 80);
        mesh.get(to, "httpbin.org", "/")?.expect_origin(HTTPBIN)?;
        let before = allocated_memory(mesh.envoy)?;
        for unfinished in Unfinished::ALL {
            let evicted = || {
                let log = mesh.envoy.access_log();
                log.iter().filter(|line| line["reason"] == "too-many-pending").count()
            };
            let earlier = evicted();
            let flood = Flood::plain(mesh.pod.workload(), to, MANY, &unfinished.bytes(48_000))?;
            mesh.get(to, "httpbin.org", "/")?.expect_origin(HTTPBIN)?;
            // 16 MiB of them stay, or 64 MiB of possible bodies.
            wait_for("the oldest to go", Duration::from_secs(20), || flood.open() < 1500)?;
            wait_for("the log", Duration::from_secs(20), || evicted() - earlier > MANY / 2)?;
            let (kept, after, resident) = (flood.open(), allocated_memory(mesh.envoy)?, mesh.envoy.memory()?);
            println!("{unfinished:?}: {kept} kept, {before} kB before, {after} after, {resident} resident");
            ensure!(after < before + 200_000, "{unfinished:?}: {before} kB before, {after} kB after");
        }
        Ok(())
    })
}

fn has_ended(mut stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 16]);
    Ok(!matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock))
}
