//! Random inputs for Envoy and for `osm-egress explain`: both give the same verdict, for the same reason, by
//! the same rule, and the same address. `EGRESS_SEED` repeats a run; `EGRESS_INPUTS` sets the number of
//! inputs.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use egress_compile::CompileOptions;
use egress_compile::blocked_ranges::BlockedRanges;
use egress_compile::explain::policy_source::PolicySource;
use egress_compile::explain::probe::ProbeArgs;
use egress_compile::explain::{ExplainRequest, Report, explain};
use egress_compile::store::{FileUpdate, Store};
use egress_policy::explain::Verdict;
use egress_tests::client::{self, Outcome};
use egress_tests::differential::{Bytes, Input, ORIGIN_BLOCK, POLICIES, Random, Request, WILDCARD_NAMES};
use egress_tests::envoy::{self, Envoy};
use egress_tests::netns::{Pod, ensure_capable};
use egress_tests::network::{EXAMPLE, HTTPBIN, TestNetwork};
use egress_tests::origin::ADDRESS_HEADER;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;

/// The default number of inputs, which takes some 20 seconds.
const INPUTS: usize = 30_000;
/// The number of inputs sent before the log is read.
const BATCH: usize = 10_000;
/// The number of concurrent clients.
const CLIENTS: usize = 4;

/// The result of an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum InputResult {
    /// It reaches an address by a rule.
    Reaches(String),
    /// It is refused, for a reason.
    Refused(String),
    /// Envoy refuses it before the filter.
    RefusedByEnvoy,
    /// An impossible result.
    Odd(String),
}

#[test]
fn explain_agrees_with_envoy() -> Result<()> {
    ensure_capable()?;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = number("EGRESS_SEED").unwrap_or(u64::from(since.subsec_nanos()));
    let inputs = number("EGRESS_INPUTS").and_then(|n| usize::try_from(n).ok()).unwrap_or(INPUTS);
    println!("EGRESS_SEED={seed} EGRESS_INPUTS={inputs}");

    let network = TestNetwork::new()?;
    network.outside.netns.ip(&format!("route add local {ORIGIN_BLOCK} dev lo"))?;
    for name in WILDCARD_NAMES {
        network.dns.set(name, &[EXAMPLE]);
    }
    network.write("policies.yaml", POLICIES)?;
    let _control_plane = network.control_plane(&[])?;
    let pod = network.pod()?;
    let envoy = sidecar::start(&pod, false)?;
    let is_1_39 = envoy::version()?.starts_with("1.39.");
    let evidence = evidence();
    let mut random = Random::new(seed);
    let mut differences: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    let (mut done, mut by_answer) = (0, BTreeMap::<String, usize>::new());
    let start = Instant::now();
    while done < inputs {
        let mut next = |index| {
            loop {
                let input = Input::next(&mut random, index);
                if !(is_1_39 && input.differs_before_1_40()) {
                    return input;
                }
            }
        };
        let batch: Vec<Input> = (0..BATCH.min(inputs - done)).map(&mut next).collect();
        let found = send(&pod, &envoy, &batch)?;
        for (input, found) in batch.iter().zip(found) {
            let (expected, message) = expected(&evidence, input);
            *by_answer.entry(kind(&expected)).or_default() += 1;
            if expected != found {
                let (count, examples) =
                    differences.entry(format!("{} became {}", kind(&expected), kind(&found))).or_default();
                *count += 1;
                if examples.len() < 6 {
                    examples.push(format!(
                        "  {input}\n    explain: {expected:?} {message}\n    Envoy:   {found:?}"
                    ));
                }
            }
        }
        done += batch.len();
    }
    println!("{done} inputs in {:?}: {by_answer:?}", start.elapsed());
    let total: usize = differences.values().map(|(count, _)| count).sum();
    let all: Vec<String> = differences
        .iter()
        .map(|(kind, (count, examples))| format!("{count} times {kind}\n{}", examples.join("\n")))
        .collect();
    ensure!(total == 0, "{total} of {done} inputs differ, with EGRESS_SEED={seed}:\n{}", all.join("\n"));
    Ok(())
}

fn evidence() -> PolicySource {
    let mut store = Store::default();
    store.apply(FileUpdate::read("policies.yaml".into(), POLICIES.as_bytes()));
    PolicySource::compile(Arc::new(store), &CompileOptions::default(), None)
}

/// The kind of a result, without its address.
fn kind(answer: &InputResult) -> String {
    match answer {
        InputResult::Reaches(_) => "allowed".to_owned(),
        InputResult::Refused(reason) => reason.split(' ').next().unwrap_or_default().to_owned(),
        InputResult::RefusedByEnvoy => "refused by Envoy".to_owned(),
        InputResult::Odd(what) => format!("odd: {}", what.split(' ').next().unwrap_or_default()),
    }
}

/// Asks `osm-egress explain` for the expected result, and returns the arguments as well.
fn expected(evidence: &PolicySource, input: &Input) -> (InputResult, String) {
    match input {
        Input::Request(Request { address, port, method, path, host, headers }) => {
            let others = headers.iter().map(|(name, value)| format!("{name}: {value}"));
            let args = ProbeArgs {
                to: format!("http://{address}:{port}{path}"),
                method: Some(method.clone()),
                headers: std::iter::once(format!("Host: {host}")).chain(others).collect(),
                ..ProbeArgs::default()
            };
            answer(evidence, *address, &args)
        }
        Input::Bytes(Bytes { address, port, segments, args }) => {
            let hex: String = segments.concat().iter().map(|byte| format!("{byte:02x}")).collect();
            let to = format!("tcp://{address}:{port}");
            let by_bytes = answer(
                evidence,
                *address,
                &ProbeArgs { to: to.clone(), client_hello: Some(hex), ..ProbeArgs::default() },
            );
            if let Some(args) = args {
                let by_words = answer(evidence, *address, &ProbeArgs { to, ..args.clone() });
                if by_words.0 != by_bytes.0 {
                    return (InputResult::Odd(format!("two-answers {by_words:?} {by_bytes:?}")), by_words.1);
                }
            }
            by_bytes
        }
    }
}

fn answer(evidence: &PolicySource, address: IpAddr, args: &ProbeArgs) -> (InputResult, String) {
    let probe = match args.parse() {
        Ok(probe) => probe,
        Err(error) => return (InputResult::Odd(format!("unread: {error}")), String::new()),
    };
    let explain_request = ExplainRequest {
        identity: "curl/curl".parse().expect("an identity"),
        probe,
        addresses: vec![address],
        resolved: false,
        listener_port: 15001,
        blocked: BlockedRanges::default(),
    };
    let report = match explain(evidence, &explain_request) {
        Ok(report) => report,
        Err(error) => return (InputResult::Odd(error.to_string()), String::new()),
    };
    let answer = match (report.verdict, report.reason) {
        (Verdict::Allow, _) => {
            InputResult::Reaches(reached(&report, address, explain_request.probe.is_request()))
        }
        (Verdict::Deny, Some(reason)) => InputResult::Refused(match explain_request.probe.is_request() {
            true => reason.to_string(),
            false => format!("{reason} {}", rule(report.policy.as_deref(), report.rule.as_deref())),
        }),
        (Verdict::Deny, None) => InputResult::RefusedByEnvoy,
    };
    (answer, report.connection)
}

fn rule(policy: Option<&str>, rule: Option<&str>) -> String {
    format!("{} {}", policy.unwrap_or("-"), rule.unwrap_or("-"))
}

/// The destination of an allowed connection; for requests also the request line that the server sees.
fn reached(report: &Report, dialled: IpAddr, is_request: bool) -> String {
    let host = report.route.as_ref().and_then(|leads_to| leads_to.host.as_deref());
    let address = match host {
        None => dialled,
        Some("httpbin.org") => HTTPBIN,
        Some(_) => EXAMPLE,
    };
    if is_request {
        let line = report.connection.split('`').nth(1).unwrap_or_default();
        // A response to HEAD does not show the server's request line.
        let path = line.split_once(' ').filter(|(method, _)| *method != "HEAD").map_or("", |(_, path)| path);
        format!("{address} {}", path.split('?').next().unwrap_or_default())
    } else {
        format!("{address} {}", rule(report.policy.as_deref(), report.rule.as_deref()))
    }
}

/// Sends a batch and returns its results.
fn send(pod: &Pod, envoy: &Envoy<'_>, batch: &[Input]) -> Result<Vec<InputResult>> {
    let logged = envoy.log_bytes().len();
    let outcomes = pod.workload().run(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    scope.spawn(move || {
                        let mut connections = HashMap::new();
                        let own = batch.iter().skip(client).step_by(CLIENTS);
                        own.map(|input| one(input, &mut connections)).collect::<Vec<_>>()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect::<Vec<_>>()
        })
    })?;
    let mut outcomes: Vec<_> = outcomes.into_iter().map(Vec::into_iter).collect();
    let outcomes: Vec<Outcome> =
        (0..batch.len()).filter_map(|index| outcomes[index % CLIENTS].next()).collect();
    // The log has the reason of the close.
    let connections = batch.iter().filter(|input| matches!(input, Input::Bytes(_))).count();
    let mut lines = HashMap::new();
    wait_for("the log of the batch", Duration::from_secs(20), || {
        lines = lines_from(envoy, logged);
        lines.len() >= connections
    })?;
    Ok(batch
        .iter()
        .zip(outcomes)
        .map(|(input, outcome)| match input {
            Input::Request(_) => of_request(outcome),
            Input::Bytes(Bytes { address, port, segments, .. }) => {
                of_bytes(outcome, segments, lines.get(&format!("{address}:{port}")), *address)
            }
        })
        .collect())
}

/// The access log's lines of connections, by original destination.
fn lines_from(envoy: &Envoy<'_>, offset: usize) -> HashMap<String, serde_json::Value> {
    let bytes = envoy.log_bytes();
    let text = String::from_utf8_lossy(bytes.get(offset..).unwrap_or_default());
    let lines = text.lines().filter(|line| line.starts_with('{') && line.contains("198.1"));
    let lines = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines
        .filter(|line| line["kind"] == "connection")
        .map(|line| (line["dialled"].as_str().unwrap_or_default().to_owned(), line))
        .filter(|(dialled, _)| dialled.split_once(':').is_some_and(|(_, port)| port.starts_with("91")))
        .collect()
}

fn one(input: &Input, connections: &mut HashMap<SocketAddr, TcpStream>) -> Outcome {
    match input {
        Input::Request(Request { address, port, method, path, host, headers }) => {
            // What no client sends.
            let target = path.split('#').next().unwrap_or_default();
            // Clients encode what is not ASCII.
            let target: String = target
                .bytes()
                .map(
                    |byte| {
                        if byte.is_ascii() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
                    },
                )
                .collect();
            let mut all = vec![("host", host.as_str())];
            all.extend(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let bytes = client::request(method, &target, &all);
            let to = SocketAddr::new(*address, *port);
            let mut outcome = Outcome::Closed;
            // A connection that is being closed gives no result.
            for _ in 0..3 {
                let mut stream = match connections.remove(&to).map_or_else(|| client::connect(to), Ok) {
                    Ok(stream) => stream,
                    Err(outcome) => return outcome,
                };
                outcome = client::http_on(&mut stream, &bytes);
                if let Outcome::Http(answer) = &outcome {
                    if answer.header("connection") != Some("close")
                        && answer.status != 400
                        && answer.status < 500
                    {
                        connections.insert(to, stream);
                    }
                    if answer.status != 503 {
                        break;
                    }
                }
            }
            outcome
        }
        Input::Bytes(Bytes { address, port, segments, .. }) => {
            let parts: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
            client::exchange_in_parts(SocketAddr::new(*address, *port), &parts, true)
        }
    }
}

fn of_request(outcome: Outcome) -> InputResult {
    let Outcome::Http(answer) = outcome else { return InputResult::Odd(format!("{outcome:?}")) };
    match (answer.header("x-egress-denied"), answer.header(ADDRESS_HEADER)) {
        (Some(reason), _) => InputResult::Refused(reason.to_owned()),
        (None, Some(address)) => {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            // `METHOD AUTHORITY/PATH`; an answer to HEAD has none.
            let line = body.lines().next().unwrap_or_default();
            let path =
                line.split_once(' ').and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
            InputResult::Reaches(format!("{address} {}", path.unwrap_or_default()))
        }
        (None, None) if answer.header("x-envoy-upstream-service-time").is_some() => {
            InputResult::Odd(format!("origin-{}", answer.status))
        }
        (None, None) if (400..500).contains(&answer.status) => InputResult::RefusedByEnvoy,
        (None, None) => InputResult::Odd(format!("status-{}", answer.status)),
    }
}

fn of_bytes(
    outcome: Outcome,
    segments: &[Vec<u8>],
    line: Option<&serde_json::Value>,
    dialled: IpAddr,
) -> InputResult {
    let Some(line) = line else { return InputResult::Odd(format!("no-line {outcome:?}")) };
    let text = |field: &str| line[field].as_str();
    let by = rule(text("policy"), text("rule"));
    match &outcome {
        Outcome::Bytes(bytes) if segments.concat().starts_with(bytes) => {
            let upstream = text("upstream").and_then(|upstream| upstream.parse::<SocketAddr>().ok());
            InputResult::Reaches(format!("{} {by}", upstream.map_or(dialled, |upstream| upstream.ip())))
        }
        Outcome::Closed => InputResult::Refused(format!("{} {by}", text("reason").unwrap_or("-"))),
        Outcome::Bytes(_) | Outcome::Refused(_) | Outcome::Silence | Outcome::Http(_) => {
            InputResult::Odd(format!("{outcome:?}"))
        }
    }
}
