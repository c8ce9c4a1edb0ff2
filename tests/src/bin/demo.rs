//! The demo on real Envoy, step by step. `cargo xtask demo` builds what it needs and runs it.

#![allow(clippy::wildcard_enum_match_arm, reason = "what was not expected is wrong, whatever it is")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use egress_tests::client::{self, Outcome};
use egress_tests::control_plane::ControlPlane;
use egress_tests::envoy::Envoy;
use egress_tests::manifests;
use egress_tests::netns::{self, Netns, Pod};
use egress_tests::network::{self, CONTROL_PLANE, ELSEWHERE, EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::{ADDRESS_HEADER, GREETING};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;

/// Shows stock Envoy letting out what the Egress policies allow, and nothing else.
#[derive(Debug, Parser)]
struct Args {
    /// Leave the mesh up until Ctrl-C, and say how to enter it.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match netns::ensure_capable().and_then(|()| run(&args)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            println!("\n{wrong} steps went wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo's steps and counts the wrong results.
struct Demo<'a> {
    network: &'a TestNetwork,
    pod: &'a Pod,
    envoy: &'a Envoy<'a>,
    step: u32,
    wrong: u32,
}

/// Returns true if a line of the access log has this reason.
fn is_for(line: &serde_json::Value, reason: &str) -> bool {
    line["decision"].as_str().is_some_and(|decision| decision.split(' ').nth(1) == Some(reason))
}

/// The expected result of an attempt.
enum Expect {
    Status(u16),
    /// An origin at this address answers.
    From(IpAddr),
    /// An HTTP answer with this reason.
    Denied(&'static str),
    /// The connection closes, and Envoy's access log has this reason.
    Closed(&'static str),
    Answers(&'static [u8]),
}

impl Demo<'_> {
    fn heading(&self, title: &str) {
        println!("\n{title}");
    }

    /// Retries until the result is as expected, because a manifest takes a moment to reach Envoy, and prints
    /// how long it took.
    fn step(
        &mut self,
        what: &str,
        expect: &Expect,
        mut attempt: impl FnMut() -> Result<Outcome>,
    ) -> Result<()> {
        self.step += 1;
        let logged_before = self.envoy.access_log().len();
        let start = Instant::now();
        let mut shown;
        let mut took;
        let right = loop {
            let last = attempt()?;
            took = start.elapsed().as_secs_f64() * 1000.0;
            shown = show(&last);
            let mut right = expect.is(&last);
            if let (true, Expect::Closed(reason)) = (right, expect) {
                // Lines are written when connections end, which need not be the order of our attempts;
                // and connections in flight during the change are closed for another reason.
                let logged =
                    || self.envoy.access_log().iter().skip(logged_before).any(|line| is_for(line, reason));
                right = wait_for("the reason", Duration::from_millis(200), logged).is_ok();
                shown += &format!(", reason: {}", if right { reason } else { "another" });
            }
            if right || start.elapsed() > Duration::from_secs(3) {
                break right;
            }
        };
        self.wrong += u32::from(!right);
        let mark = if right { "ok   " } else { "WRONG" };
        println!("{mark} {:2}. {what}\n          expected {expect}; got {shown}; {took:.0} ms", self.step);
        Ok(())
    }

    fn http(&mut self, what: &str, to: IpAddr, host: &str, path: &str, expect: Expect) -> Result<()> {
        let pod = self.pod;
        self.step(what, &expect, || workload::get(pod, SocketAddr::new(to, 80), host, path))
    }

    fn https(&mut self, what: &str, to: IpAddr, name: &str, expect: Expect) -> Result<()> {
        let pod = self.pod;
        self.step(what, &expect, || workload::get_tls(pod, SocketAddr::new(to, 443), Some(name)))
    }

    fn tcp(&mut self, what: &str, to: SocketAddr, bytes: &'static [u8], expect: Expect) -> Result<()> {
        let pod = self.pod;
        self.step(what, &expect, || pod.workload().run(|| client::exchange(to, bytes)))
    }

    fn apply(&self, file: &str, text: &str) -> Result<()> {
        println!("   -> {file} is written");
        self.network.write(file, text)
    }

    fn check(&mut self, what: &str, right: bool, found: &str) {
        self.step += 1;
        self.wrong += u32::from(!right);
        println!("{} {:2}. {what}\n          {found}", if right { "ok   " } else { "WRONG" }, self.step);
    }
}

impl Expect {
    fn is(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Self::Status(status), Outcome::Http(answer)) => answer.status == *status,
            (Self::From(address), Outcome::Http(answer)) => {
                answer.status == 200 && answer.header(ADDRESS_HEADER) == Some(address.to_string().as_str())
            }
            (Self::Denied(reason), Outcome::Http(answer)) => {
                answer.status == 403 && answer.header("x-egress-denied") == Some(reason)
            }
            (Self::Closed(_), Outcome::Closed | Outcome::Refused(_)) => true,
            (Self::Answers(text), Outcome::Bytes(bytes)) => bytes == text,
            _ => false,
        }
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::From(address) => write!(f, "status 200 from {address}"),
            Self::Denied(reason) => write!(f, "status 403, {reason}"),
            Self::Closed(reason) => write!(f, "closed, {reason}"),
            Self::Answers(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Http(answer) => {
            let find =
                |name| answer.header(name).map(|value| format!(", {name}: {value}")).unwrap_or_default();
            format!(
                "status {}{}{}{}",
                answer.status,
                find("server"),
                find(ADDRESS_HEADER),
                find("x-egress-denied")
            )
        }
        Outcome::Closed => "closed".to_owned(),
        Outcome::Silence => "silence".to_owned(),
        Outcome::Refused(why) => format!("no connection ({why})"),
        Outcome::Bytes(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

/// A connection that echoes a few bytes continuously and counts them.
struct LongLived {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    ended: mpsc::Receiver<String>,
}

impl LongLived {
    fn start(netns: &Netns, to: SocketAddr) -> Result<Self> {
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sender, ended) = mpsc::channel();
        let (count, end) = (Arc::clone(&bytes), Arc::clone(&stop));
        netns.spawn(move || {
            let result = client::connect(to).map_err(|e| format!("{e:?}")).and_then(|mut stream| {
                while !end.load(Ordering::Relaxed) {
                    echo(&mut stream).map_err(|e| e.to_string())?;
                    count.fetch_add(8, Ordering::Relaxed);
                }
                Ok(())
            });
            let _ = sender.send(result.err().unwrap_or_default());
        })?;
        Ok(Self { bytes, stop, ended })
    }
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 8];
    stream.write_all(b"12345678")?;
    stream.read_exact(&mut answer)?;
    // The client's pace.
    std::thread::sleep(Duration::from_millis(10));
    Ok(())
}

const TCP_POLICY: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: database, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.20/32]
  ports:
  - {number: 9000, protocol: tcp}
  - {number: 9001, protocol: tcp-server-first}
";

fn run(args: &Args) -> Result<u32> {
    let start = Instant::now();
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    network.global_egress(false)?;
    let control_plane = network.control_plane(&[])?;
    let envoy = sidecar::start(&pod, false)?;
    println!(
        "Stock Envoy {}, one workload of the service account curl/curl,",
        egress_tests::envoy::version()?
    );
    println!(
        "the control plane on a folder of manifests, and a world of its own outside ({:.1} s).",
        start.elapsed().as_secs_f64()
    );
    let mut demo = Demo { network: &network, pod: &pod, envoy: &envoy, step: 0, wrong: 0 };
    no_policy(&mut demo)?;
    http(&mut demo)?;
    https(&mut demo)?;
    tcp(&mut demo)?;
    let long_lived = LongLived::start(pod.workload(), SocketAddr::new(EXAMPLE, 9000))?;
    wait_for("a long-lived connection", Duration::from_secs(3), || {
        long_lived.bytes.load(Ordering::Relaxed) > 0
    })?;
    global(&mut demo)?;
    let control_plane = control_plane_dies(&mut demo, control_plane, &network)?;
    long_life(&mut demo, &long_lived, &envoy)?;
    println!("\n{} steps, {} wrong, {:.1} s", demo.step, demo.wrong, start.elapsed().as_secs_f64());
    let wrong = demo.wrong;
    if args.keep {
        keep(&network, &pod, &control_plane)?;
    }
    Ok(wrong)
}

fn no_policy(demo: &mut Demo<'_>) -> Result<()> {
    demo.heading("1. No policy, global egress off: nothing gets out.");
    demo.http("GET http://httpbin.org/get", HTTPBIN, "httpbin.org", "/get", Expect::Closed("no-policy"))?;
    demo.https("GET https://httpbin.org/get", HTTPBIN, "httpbin.org", Expect::Closed("no-policy"))?;
    demo.tcp(
        "TCP to 203.0.113.20:9000",
        SocketAddr::new(EXAMPLE, 9000),
        b"hello",
        Expect::Closed("no-policy"),
    )?;
    let arrived = demo.network.origins.events().len();
    demo.check("Nothing arrived outside", arrived == 0, &format!("{arrived} connections at the origins"));
    Ok(())
}

fn http(demo: &mut Demo<'_>) -> Result<()> {
    demo.heading("2. An Egress policy for HTTP: each request is decided.");
    demo.apply("httpbin-80.yaml", &manifests::sample("httpbin-80.yaml")?)?;
    demo.http("GET http://httpbin.org/get", HTTPBIN, "httpbin.org", "/get", Expect::From(HTTPBIN))?;
    demo.http(
        "GET http://www.example.com/",
        EXAMPLE,
        "www.example.com",
        "/",
        Expect::Denied("host-not-allowed"),
    )?;
    demo.http(
        "httpbin.org asked of another address",
        ELSEWHERE,
        "httpbin.org",
        "/get",
        Expect::From(HTTPBIN),
    )?;
    let routes = manifests::sample("route-group.yaml")?;
    demo.network.remove("httpbin-80.yaml")?;
    demo.apply("route-group.yaml", &routes)?;
    demo.http(
        "GET /status/200, with a route group for /get",
        HTTPBIN,
        "httpbin.org",
        "/status/200",
        Expect::Denied("route-not-allowed"),
    )?;
    demo.http("GET /get", HTTPBIN, "httpbin.org", "/get", Expect::Status(200))?;
    let wider = routes.replace(
        "    pathRegex: /get\n",
        "    pathRegex: /get\n  - name: status\n    pathRegex: /status.*\n",
    );
    demo.apply("route-group.yaml", &wider)?;
    demo.http(
        "GET /status/200, after the group is widened",
        HTTPBIN,
        "httpbin.org",
        "/status/200",
        Expect::Status(200),
    )
}

fn https(demo: &mut Demo<'_>) -> Result<()> {
    demo.heading("3. An Egress policy for HTTPS: the name decides, and the name chooses the address.");
    demo.apply("httpbin-443.yaml", &manifests::sample("httpbin-443.yaml")?)?;
    demo.https("GET https://httpbin.org/get", HTTPBIN, "httpbin.org", Expect::From(HTTPBIN))?;
    demo.https(
        "GET https://www.example.com/",
        EXAMPLE,
        "www.example.com",
        Expect::Closed("sni-not-allowed"),
    )?;
    demo.https("SNI httpbin.org sent to 198.51.100.66", ELSEWHERE, "httpbin.org", Expect::From(HTTPBIN))?;
    let arrived = demo.network.origins.connections_to(ELSEWHERE);
    demo.check("Nothing arrived at 198.51.100.66", arrived == 0, &format!("{arrived} connections"));
    Ok(())
}

fn tcp(demo: &mut Demo<'_>) -> Result<()> {
    demo.heading("4. A TCP policy with ipAddresses.");
    demo.apply("database.yaml", TCP_POLICY)?;
    demo.tcp(
        "TCP to 203.0.113.20:9000",
        SocketAddr::new(EXAMPLE, 9000),
        b"hello",
        Expect::Answers(b"hello"),
    )?;
    demo.tcp(
        "TCP to 203.0.113.10:9000",
        SocketAddr::new(HTTPBIN, 9000),
        b"hello",
        Expect::Closed("no-rule"),
    )?;
    demo.tcp("A server that speaks first", SocketAddr::new(EXAMPLE, 9001), b"", Expect::Answers(GREETING))
}

fn global(demo: &mut Demo<'_>) -> Result<()> {
    demo.heading("5. Global egress: spec.traffic.enableEgress in the MeshConfig.");
    let envoy = demo.envoy;
    let exists = || Ok::<_, anyhow::Error>(envoy.admin("/clusters")?.contains("passthrough-outbound::"));
    demo.network.global_egress(true)?;
    println!("   -> meshconfig.yaml is written with enableEgress: true");
    demo.https("GET https://www.example.com/", EXAMPLE, "www.example.com", Expect::From(EXAMPLE))?;
    demo.tcp(
        "TCP to 198.51.100.66:9000",
        SocketAddr::new(ELSEWHERE, 9000),
        b"hello",
        Expect::Answers(b"hello"),
    )?;
    let there = exists()?;
    demo.check("Cluster passthrough-outbound is there", there, if there { "it is" } else { "it is not" });
    demo.network.global_egress(false)?;
    println!("   -> meshconfig.yaml is written with enableEgress: false");
    demo.https(
        "GET https://www.example.com/",
        EXAMPLE,
        "www.example.com",
        Expect::Closed("sni-not-allowed"),
    )?;
    demo.tcp(
        "TCP to 198.51.100.66:9000",
        SocketAddr::new(ELSEWHERE, 9000),
        b"hello",
        Expect::Closed("no-rule"),
    )?;
    let gone =
        wait_for("the cluster to go", Duration::from_secs(3), || matches!(exists(), Ok(false))).is_ok();
    demo.check("Cluster passthrough-outbound is gone", gone, if gone { "it is" } else { "it is not" });
    Ok(())
}

fn control_plane_dies<'n>(
    demo: &mut Demo<'_>,
    control_plane: ControlPlane<'n>,
    network: &'n TestNetwork,
) -> Result<ControlPlane<'n>> {
    demo.heading(
        "6. The control plane is killed: enforcement goes on. It comes back: nothing is sent again.",
    );
    drop(control_plane);
    demo.https("GET https://httpbin.org/get", HTTPBIN, "httpbin.org", Expect::From(HTTPBIN))?;
    demo.https(
        "GET https://www.example.com/",
        EXAMPLE,
        "www.example.com",
        Expect::Closed("sni-not-allowed"),
    )?;
    let control_plane = network.control_plane(&[])?;
    let metric = |name: &str| -> Result<u64> {
        let text = control_plane.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
        Ok(line.trim().parse()?)
    };
    wait_for("Envoy to come back", Duration::from_secs(30), || {
        metric("osm_egress_proxies ").is_ok_and(|n| n == 1)
    })?;
    wait_for("Envoy to say what it has", Duration::from_secs(5), || {
        metric("osm_egress_xds_acknowledged_total ").is_ok_and(|n| n >= 3)
    })?;
    let sent = metric("osm_egress_xds_responses_total ")?;
    demo.check("Envoy reconnected without a resend", sent == 0, &format!("{sent} responses sent"));
    demo.network.remove("httpbin-443.yaml")?;
    println!("   -> httpbin-443.yaml is removed");
    demo.https("GET https://httpbin.org/get", HTTPBIN, "httpbin.org", Expect::Closed("no-rule"))?;
    Ok(control_plane)
}

fn long_life(demo: &mut Demo<'_>, connection: &LongLived, envoy: &Envoy<'_>) -> Result<()> {
    demo.heading("The long-lived connection to 203.0.113.20:9000 all the while:");
    let before = connection.bytes.load(Ordering::Relaxed);
    let lives =
        wait_for("more bytes", Duration::from_secs(3), || connection.bytes.load(Ordering::Relaxed) > before)
            .is_ok();
    let bytes = connection.bytes.load(Ordering::Relaxed);
    let error = connection.ended.try_recv().unwrap_or_default();
    demo.check("It is alive", lives, &format!("{bytes} bytes echoed {error}"));
    connection.stop.store(true, Ordering::Relaxed);
    let modified = envoy.stat("listener_manager.listener_modified")?;
    demo.check("No listener was modified", modified == 0, &format!("listener_modified: {modified}"));
    Ok(())
}

fn keep(network: &TestNetwork, pod: &Pod, control_plane: &ControlPlane<'_>) -> Result<()> {
    let admin = SocketAddr::new(CONTROL_PLANE, 15129);
    // This process holds the workload's network namespace and files for `nsenter`.
    let mut holder = pod.command("sleep", network::NAME_SERVER)?.arg("infinity").spawn()?;
    let users = if netns::can_switch_uid() { "" } else { "--user --preserve-credentials " };
    println!("\nThe mesh stays up until Ctrl-C.");
    println!("  a shell in the workload: nsenter {users}--target {} --net --mount", holder.id());
    println!("                           there: curl -v http://httpbin.org/get");
    println!("  the manifests:           {}", network.manifests.path().display());
    println!(
        "  what is known:           nsenter {users}--target {} --net {} status --admin {admin}",
        network.outside.netns.pid(),
        egress_tests::control_plane::binary()?.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c())?;
    println!("\nThe mesh goes down.");
    holder.kill()?;
    holder.wait()?;
    ensure!(control_plane.get("/readyz").is_ok(), "the control plane was gone");
    Ok(())
}
