//! Connections that are decided by their first bytes, and what becomes of those that send none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::flood::Flood;
use egress_tests::log;
use egress_tests::mesh::{EXAMPLE, HTTPBIN};
use egress_tests::netns::Form;
use egress_tests::origin::GREETING;
use egress_tests::scene::{Reply, Scene, Setting};
use egress_tests::wait::wait_for;

/// Port 9001 belongs to the server that speaks first.
const POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: names, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 443, protocol: https}, {number: 80, protocol: http}, {number: 9001, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: echo, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.20/32]
  ports: [{number: 9000, protocol: tcp}]
";
const AUDIT: &str = "apiVersion: v1
kind: Namespace
metadata: {name: curl, annotations: {openservicemesh.io/egress-mode-delegation: service-accounts}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: curl, namespace: curl, annotations: {openservicemesh.io/egress-mode: audit}}
";

fn play(manifests: &[(&str, &str)], test: impl FnOnce(&Scene<'_>) -> Result<()>) -> Result<()> {
    let flags = ["--first-bytes-timeout", "500ms"];
    Setting { manifests, flags: &flags, form: Form::possible() }.play(|_| Ok(()), test)
}

/// Nothing, part of a record's header, part of a hello, and a byte now and then: each is refused in time,
/// and passes no weaker rule.
#[test]
fn nobody_is_waited_for_for_ever() -> Result<()> {
    play(&[("policy.yaml", POLICY)], |scene| {
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252][..], &[3; 100]].concat();
        for (port, bytes) in [(443, &b""[..]), (443, &[22, 3]), (443, &hello), (80, b"")] {
            let to = SocketAddr::new(HTTPBIN, port);
            let start = Instant::now();
            scene.exchange(to, bytes)?.closed()?;
            let took = start.elapsed();
            ensure!(took > Duration::from_millis(450), "{port}: refused after {took:?}");
            ensure!(took < Duration::from_secs(2), "{port}: refused after {took:?}");
        }
        // Each byte is new hope, but not more time.
        let start = Instant::now();
        scene.pod.workload().run(|| -> Result<()> {
            let mut stream = client::connect(SocketAddr::new(HTTPBIN, 443)).map_err(|e| anyhow!("{e:?}"))?;
            // A pace, not a wait for anything: the client is slow on purpose.
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
            log::line(scene.envoy, "the refusal", |line| {
                line["decision"] == "deny first-bytes-timeout - -" && line["upstream"].is_null()
            })?;
        }
        ensure!(scene.world.origins.seen().is_empty(), "{:?}", scene.world.origins.seen());
        // What does not wait is not concerned.
        let mut stream = scene
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

/// In audit mode nothing is refused: a server that speaks first on a port of names is heard, after the wait.
#[test]
fn in_audit_mode_the_wait_ends_in_a_connection() -> Result<()> {
    play(&[("policy.yaml", POLICY), ("audit.yaml", AUDIT)], |scene| {
        let start = Instant::now();
        let heard = scene.exchange(SocketAddr::new(EXAMPLE, 9001), b"")?;
        ensure!(heard == Reply::Bytes(GREETING.to_vec()), "{heard:?}");
        ensure!(start.elapsed() > Duration::from_millis(450), "it did not wait: {:?}", start.elapsed());
        log::decided(scene.envoy, "allow audit - - first-bytes-timeout", "203.0.113.20:9001")?;
        // What came before the end of the wait is not lost.
        let answer = scene.pod.workload().run(|| -> Result<Vec<u8>> {
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

/// Hellos that never end hold bytes in Envoy and in the filter: the oldest go, and a client that means it gets
/// through meanwhile.
#[test]
fn what_waits_is_bounded() -> Result<()> {
    const MANY: usize = 9000;
    // Whatever the machine takes for it.
    let setting = Setting {
        manifests: &[("policy.yaml", POLICY)],
        flags: &["--first-bytes-timeout", "120s"],
        form: Form::possible(),
    };
    setting.play(
        |_| Ok(()),
        |scene| {
            let before = scene.envoy.memory()?;
            let hello = [&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 252][..], &[3; 16_000]].concat();
            let to = SocketAddr::new(HTTPBIN, 443);
            let streams = scene.pod.workload().run(|| -> Result<Vec<TcpStream>> {
                let begin = |_| {
                    let mut stream = client::connect(to).map_err(|e| anyhow!("{e:?}"))?;
                    // It may be refused by now.
                    let _ = stream.write_all(&hello);
                    Ok(stream)
                };
                (0..MANY).map(begin).collect()
            })??;
            scene.get_tls(to, "httpbin.org")?.from_origin(HTTPBIN)?;
            let refused = || -> Result<usize> {
                let log = scene.envoy.access_log();
                Ok(log.iter().filter(|line| line["reason"] == "too-many-pending").count())
            };
            wait_for("the oldest to go", Duration::from_secs(20), || {
                refused().is_ok_and(|refused| refused >= MANY - 4096)
            })?;
            let after = scene.envoy.memory()?;
            println!(
                "{MANY} hellos without an end: {} refused, {before} kB before, {after} kB after",
                refused()?
            );
            let kept = streams.iter().filter(|stream| ends_now(stream).is_ok_and(|ended| !ended)).count();
            // 16 MiB of them.
            ensure!(kept < 1100, "{kept} are kept");
            Ok(())
        },
    )
}

/// The beginnings of requests whose headers never end.
#[derive(Debug, Clone, Copy)]
enum Unfinished {
    First,
    /// Another request was refused before, and these came with it.
    Next,
    /// The same, where Envoy refuses before any filter sees it.
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

/// HTTP/2's preface and a header block without END_HEADERS, of fields that are literals without indexing.
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

/// What Envoy has allocated, in kB: what is free of its memory is given back late.
fn allocated(envoy: &Envoy<'_>) -> Result<u64> {
    let memory: serde_json::Value = serde_json::from_str(&envoy.admin("/memory")?)?;
    let bytes: u64 = memory["allocated"].as_str().context("no memory")?.parse()?;
    Ok(bytes / 1024)
}

/// Headers that never end hold bytes in Envoy: the oldest go, and a client that means it gets through meanwhile.
#[test]
fn headers_that_do_not_end_are_bounded() -> Result<()> {
    const MANY: usize = 4000;
    play(&[("policy.yaml", POLICY)], |scene| {
        let to = SocketAddr::new(HTTPBIN, 80);
        scene.get(to, "httpbin.org", "/")?.from_origin(HTTPBIN)?;
        let before = allocated(scene.envoy)?;
        for unfinished in Unfinished::ALL {
            let evicted = || {
                let log = scene.envoy.access_log();
                log.iter().filter(|line| line["reason"] == "too-many-pending").count()
            };
            let earlier = evicted();
            let flood = Flood::plain(scene.pod.workload(), to, MANY, &unfinished.bytes(48_000))?;
            scene.get(to, "httpbin.org", "/")?.from_origin(HTTPBIN)?;
            // 16 MiB stay, or of what may be bodies 64.
            wait_for("the oldest to go", Duration::from_secs(20), || flood.open() < 1500)?;
            wait_for("the log", Duration::from_secs(20), || evicted() - earlier > MANY / 2)?;
            let (kept, after, resident) = (flood.open(), allocated(scene.envoy)?, scene.envoy.memory()?);
            println!("{unfinished:?}: {kept} kept, {before} kB before, {after} after, {resident} resident");
            ensure!(after < before + 200_000, "{unfinished:?}: {before} kB before, {after} kB after");
        }
        Ok(())
    })
}

fn ends_now(mut stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut [0; 16]);
    Ok(!matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock))
}
