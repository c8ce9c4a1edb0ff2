//! The cost of a decision, by the number of hosts in the policy.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use egress_policy::{ConnectionOutcome, ConnectionStart, Document, Headers, Policy, Request, StartOutcome};

struct NoHeaders;

impl Headers for NoHeaders {
    fn values(&self, _name: &str) -> Vec<std::borrow::Cow<'_, str>> {
        Vec::new()
    }
}

/// One rule per host and protocol, as many Egress objects would give.
fn document(hosts: usize) -> String {
    let mut rules: Vec<_> = (0..hosts)
        .map(|n| {
            let (port, protocol) = if n % 2 == 0 { (443, "https") } else { (80, "http") };
            format!(
                r#"{{"policy":"team-{}/egress-{n}","name":"spec.ports[0]","port":{port},"protocol":"{protocol}","hosts":["host-{n}.example.com"]}}"#,
                n % 100
            )
        })
        .collect();
    // As the control plane writes them.
    rules.sort();
    format!(
        r#"{{"apiVersion":"egress-policy/v1","identity":{{"namespace":"ns","serviceAccount":"sa"}},"version":"v","mode":"enforce","rules":[{}]}}"#,
        rules.join(",")
    )
}

fn load(text: &str) -> Policy {
    let document = Document::from_json(text).expect("a document");
    Policy::new(document).expect("a policy")
}

fn benches(c: &mut Criterion) {
    let tls: SocketAddr = "203.0.113.1:443".parse().expect("valid");
    let http: SocketAddr = "203.0.113.1:80".parse().expect("valid");
    for hosts in [10, 1_000, 100_000] {
        let text = document(hosts);
        let mut group = c.benchmark_group("load");
        group.sample_size(20);
        group.bench_function(BenchmarkId::from_parameter(hosts), |b| b.iter(|| load(black_box(&text))));
        group.finish();
        let policy = load(&text);
        // Spread over the table, so that it is not one entry in the cache that is measured.
        let names: Vec<String> =
            (0..64).map(|n| format!("host-{}.example.com", n * hosts / 64 / 2 * 2)).collect();
        let paths: Vec<String> =
            (0..64).map(|n| format!("host-{}.example.com", n * hosts / 64 / 2 * 2 + 1)).collect();
        let mut group = c.benchmark_group("decide");
        let mut n = 0;
        group.bench_function(BenchmarkId::new("tls", hosts), |b| {
            b.iter(|| {
                n += 1;
                assert_eq!(policy.decide_connection(black_box(tls)), ConnectionOutcome::NeedFirstBytes);
                let start = ConnectionStart::Tls { server_name: Some(&names[n % 64]), encrypted: false };
                matches!(policy.decide_start(black_box(tls), start), StartOutcome::Decided(d) if d.is_allowed())
            });
        });
        group.bench_function(BenchmarkId::new("http", hosts), |b| {
            b.iter(|| {
                n += 1;
                let request = Request {
                    authority: Some(&paths[n % 64]),
                    method: "GET",
                    path: "/",
                    upgrade: None,
                    headers: &NoHeaders,
                };
                policy.decide_request(black_box(http), &request).is_allowed()
            });
        });
        group.finish();
    }
}

criterion_group!(all, benches);
criterion_main!(all);
