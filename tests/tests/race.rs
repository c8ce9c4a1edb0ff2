//! Frequent policy changes under concurrent clients. Two things must hold in every interleaving: nothing
//! arrives where nothing was allowed for a second, and nothing that is allowed all the time is closed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use egress_tests::client;
use egress_tests::envoy::Envoy;
use egress_tests::hello::Hello;
use egress_tests::manifests::egress;
use egress_tests::mesh::with_mesh;
use egress_tests::netns::{Netns, ensure_capable};
use egress_tests::network::{HTTPBIN, TestNetwork};
use egress_tests::sidecar;
use egress_tests::sink::Sink;
use egress_tests::wait::wait_for;

/// The duration of the changes.
const DURATION: Duration = Duration::from_secs(60);
/// The interval of the changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);
/// The longest time until a forbidden destination receives nothing.
const GRACE_PERIOD: Duration = Duration::from_secs(1);
/// The number of clients, including those of [`STEADY_DESTINATIONS`] destinations.
const CLIENTS: usize = 200;
/// The number of destinations that policies open and close.
const CHANGING_DESTINATIONS: usize = 48;
/// The number of destinations that are allowed all the time.
const STEADY_DESTINATIONS: usize = 8;
const FIRST_PORT: u16 = 9700;

/// The rule of a destination, and its clients' first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    TlsByName,
    /// Any name is allowed, or only another one.
    TlsAnyName,
    Http,
}

#[derive(Clone, Copy, Debug)]
struct Destination {
    port: u16,
    kind: Kind,
}

impl Destination {
    fn all() -> impl Iterator<Item = Self> {
        let kinds = [Kind::Tcp, Kind::TlsByName, Kind::TlsAnyName, Kind::Http];
        (FIRST_PORT..)
            .zip(kinds.into_iter().cycle())
            .map(|(port, kind)| Self { port, kind })
            .take(CHANGING_DESTINATIONS + STEADY_DESTINATIONS)
    }

    fn file(self) -> String {
        format!("p{}.yaml", self.port)
    }

    fn policy(self, allowed: bool) -> Option<String> {
        let (protocol, what) = match (self.kind, allowed) {
            (Kind::TlsAnyName, true) => ("https", ""),
            (Kind::TlsAnyName, false) => ("https", "hosts: [www.example.com]\n"),
            (_, false) => return None,
            (Kind::Tcp, true) => ("tcp", "ipAddresses: [203.0.113.10/32]\n"),
            (Kind::TlsByName, true) => ("https", "hosts: [httpbin.org]\n"),
            (Kind::Http, true) => ("http", "hosts: [httpbin.org]\n"),
        };
        let port = self.port;
        Some(egress(&format!("p{port}"), &format!("{what}ports: [{{number: {port}, protocol: {protocol}}}]")))
    }

    fn write(self, network: &TestNetwork, allowed: bool) -> Result<()> {
        match self.policy(allowed) {
            Some(text) => network.write(&self.file(), &text),
            None => network.remove(&self.file()),
        }
    }

    /// The first bytes of a client, and the bytes that it repeats.
    fn bytes(self) -> (Vec<u8>, &'static [u8]) {
        match self.kind {
            Kind::Tcp => (b"hello".to_vec(), b"ping"),
            Kind::TlsByName | Kind::TlsAnyName => (Hello::named("httpbin.org").bytes(), b"ping"),
            Kind::Http => (
                b"POST / HTTP/1.1\r\nhost: httpbin.org\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
                b"4\r\nping\r\n",
            ),
        }
    }
}

/// A deterministic generator of random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or_default()
    }

    /// Pauses; a third of the clients outlast the policy under which they began.
    fn stall(&mut self) {
        let most = if self.below(3) == 0 { 3000 } else { 200 };
        self.pause(most);
    }

    fn pause(&mut self, most: usize) {
        // The client's pace.
        std::thread::sleep(Duration::from_millis(self.below(most) as u64));
    }
}

/// A client of one destination until `stop`: it connects, pauses, begins, pauses, continues, and holds the
/// connection.
struct Client<'a> {
    to: Destination,
    is_steady: bool,
    stop: &'a AtomicBool,
    begun: &'a AtomicUsize,
}

impl Client<'_> {
    /// Runs connections; a steady client fails if one is closed.
    fn run(&self, mut random: Random) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            let hold = if self.is_steady { random.below(20_000) } else { random.below(3000) };
            let ended = self.connection(&mut random, Duration::from_millis(hold as u64));
            if self.is_steady {
                ended.with_context(|| format!("{:?}", self.to))?;
            }
        }
        Ok(())
    }

    fn connection(&self, random: &mut Random, hold: Duration) -> Result<()> {
        let to = SocketAddr::new(HTTPBIN, self.to.port);
        let mut stream = client::connect(to).map_err(|e| anyhow!("no connection: {e:?}"))?;
        let (first, again) = self.to.bytes();
        random.stall();
        let (start, rest) = first.split_at(random.below(first.len()));
        stream.write_all(start).context("the first bytes")?;
        random.stall();
        stream.write_all(rest).context("the rest of the first bytes")?;
        let until = Instant::now() + hold;
        while Instant::now() < until && !self.stop.load(Ordering::Relaxed) {
            stream.write_all(again).context("more bytes")?;
            is_open(&mut stream)?;
            self.begun.fetch_add(1, Ordering::Relaxed);
            random.pause(40);
        }
        Ok(())
    }
}

/// Requires that the server, which never answers, has not closed.
fn is_open(stream: &mut TcpStream) -> Result<()> {
    stream.set_nonblocking(true)?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer);
    stream.set_nonblocking(false)?;
    match read {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(anyhow!("closed: {error}")),
        Ok(0) => Err(anyhow!("closed")),
        Ok(length) => Err(anyhow!("answered: {}", String::from_utf8_lossy(&answer[..length]))),
    }
}

/// The times at which each destination was opened and closed.
type History = BTreeMap<u16, Vec<(Instant, bool)>>;

fn change(network: &TestNetwork, destinations: &[Destination]) -> Result<History> {
    let mut random = Random(0x5eed);
    let mut allowed = vec![true; destinations.len()];
    let begin = Instant::now();
    let mut history: History = destinations.iter().map(|to| (to.port, vec![(begin, true)])).collect();
    let mut changes = 0;
    while begin.elapsed() < DURATION {
        let at = random.below(destinations.len());
        let (to, allowed) = (destinations[at], &mut allowed[at]);
        *allowed = !*allowed;
        // An opening counts from before the write, a closing from after it.
        let before = Instant::now();
        to.write(network, *allowed)?;
        let when = if *allowed { before } else { Instant::now() };
        history.entry(to.port).or_default().push((when, *allowed));
        changes += 1;
        // The interval of the changes.
        std::thread::sleep((begin + CHANGE_INTERVAL * changes).saturating_duration_since(Instant::now()));
    }
    println!("{changes} changes");
    Ok(history)
}

/// The time for which a destination had been forbidden at a moment.
fn forbidden_for(history: &[(Instant, bool)], at: Instant) -> Duration {
    match history.iter().rev().find(|(when, _)| *when <= at) {
        Some((when, false)) => at.duration_since(*when),
        Some((_, true)) | None => Duration::ZERO,
    }
}

/// Headers that never end are refused after a minute. The test is here because it takes as long.
#[test]
fn headers_that_never_end_are_refused() -> Result<()> {
    let to = Destination { port: 80, kind: Kind::Http };
    let policy = to.policy(true).context("a policy")?;
    with_mesh(&[("web.yaml", &policy)], |mesh| {
        let request = b"GET / HTTP/1.1\r\nhost: httpbin.org\r\nx-never: ends";
        let answer = mesh.pod.workload().run(|| -> Result<Vec<u8>> {
            let mut stream = client::connect(SocketAddr::new(HTTPBIN, 80)).map_err(|e| anyhow!("{e:?}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(90)))?;
            stream.write_all(request)?;
            let mut answer = vec![0; 4096];
            let length = stream.read(&mut answer)?;
            answer.truncate(length);
            Ok(answer)
        })??;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 403") && answer.contains("first-bytes-timeout"), "{answer}");
        ensure!(mesh.network.origins.events().is_empty());
        Ok(())
    })
}

#[test]
fn nothing_forbidden_arrives_and_nothing_allowed_is_closed() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let all: Vec<_> = Destination::all().collect();
    let sink = Sink::start(&network.outside.netns, HTTPBIN, all.iter().map(|to| to.port))?;
    let pod = network.pod()?;
    for to in &all {
        to.write(&network, true)?;
    }
    // Clients stall on purpose, on a busy machine for longer than they mean to.
    let _control_plane = network.control_plane(&["--first-bytes-timeout", "30s"])?;
    let envoy = Envoy::start(&pod, &sidecar::bootstrap("curl/curl", false)?, 2)?;
    let (changing, steady) = all.split_at(CHANGING_DESTINATIONS);
    let workload: &Netns = pod.workload();
    for to in steady {
        // The connections stay open until they have arrived.
        let mut attempts = Vec::new();
        wait_for("the policy", Duration::from_secs(10), || {
            let attempt = || client::connect(SocketAddr::new(HTTPBIN, to.port)).ok();
            if let Ok(Some(mut stream)) = workload.run(attempt)
                && stream.write_all(&to.bytes().0).is_ok()
            {
                attempts.push(stream);
            }
            sink.connections(to.port) > 0
        })?;
    }
    let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (history, failures) = std::thread::scope(|scope| -> Result<_> {
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let is_steady = number % 4 == 0;
            let to = if is_steady {
                steady[number / 4 % STEADY_DESTINATIONS]
            } else {
                changing[number % CHANGING_DESTINATIONS]
            };
            let client = Client { to, is_steady, stop: &stop, begun: &begun };
            let random = Random(number as u64 * 7919 + 1);
            clients.push(scope.spawn(move || workload.run(|| client.run(random)).and_then(|result| result)));
        }
        let history = change(&network, changing);
        stop.store(true, Ordering::Relaxed);
        let ended =
            clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err(anyhow!("panicked"))));
        Ok((history?, ended.filter_map(Result::err).collect::<Vec<_>>()))
    })?;
    let arrivals = sink.arrivals();
    let late: Vec<_> = arrivals
        .iter()
        .filter_map(|arrival| {
            let late = forbidden_for(history.get(&arrival.to.port())?, arrival.at);
            (late > Duration::ZERO).then_some((late, arrival.to, arrival.bytes))
        })
        .collect();
    let latest = late.iter().map(|(late, ..)| *late).max().unwrap_or_default();
    println!(
        "{} arrivals of {} connections, {} exchanges; {} after a change that forbids them, the latest {latest:?}",
        arrivals.len(),
        arrivals.iter().filter(|arrival| arrival.bytes == 0).count(),
        begun.load(Ordering::Relaxed),
        late.len(),
    );
    let wrong: Vec<_> = late.iter().filter(|(late, ..)| *late > GRACE_PERIOD).collect();
    ensure!(
        wrong.is_empty(),
        "{} arrivals at forbidden destinations, such as {:?}",
        wrong.len(),
        wrong.first()
    );
    ensure!(failures.is_empty(), "{} steady clients were closed: {:#}", failures.len(), failures[0]);
    let revoked = envoy.access_log().iter().filter(|line| line["reason"] == "revoked").count();
    ensure!(revoked > 100, "only {revoked} were revoked: nothing was tried");
    println!("{revoked} were revoked");
    Ok(())
}
