//! Metrics of the control plane, for Prometheus.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::status::AdminState;
use egress_compile::manifest::Severity;
use egress_xds::identify::{Identification, StreamRefusal, Tokens};
use egress_xds::proxies::Labelled;

/// Renders the metrics in the OpenMetrics format.
#[must_use]
pub fn render_metrics(shared: &AdminState) -> String {
    let mut registry = Registry::with_prefix("osm_egress");
    let counts = &shared.proxies.counts;
    let compiled = shared.compiled.borrow();
    let state = shared.source.borrow();
    let count = |value: &std::sync::atomic::AtomicU64| ConstCounter::new(value.load(Ordering::Relaxed));
    let gauge = |value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of this program", build);
    registry.register("xds_streams", "Streams that proxies opened", count(&counts.streams));
    initialize_to_zero(&counts.refused, "reason", &StreamRefusal::REASONS);
    registry.register(
        "xds_refused",
        "Streams refused or closed for lack of valid credentials, by reason",
        counts.refused.clone(),
    );
    registry.register("xds_responses", "Responses sent to proxies", count(&counts.sent));
    registry.register("xds_acknowledged", "Responses that proxies acknowledged", count(&counts.acknowledged));
    registry.register("xds_rejected", "Responses that proxies rejected", count(&counts.rejected));
    registry.register("proxies", "Connected proxies", gauge(shared.proxies.connected()));
    registry.register(
        "proxies_outdated",
        "Connected proxies that have not acknowledged what was sent last",
        gauge(shared.proxies.outdated()),
    );
    registry.register(
        "proxies_refusing",
        "Connected proxies that reject their current configuration",
        gauge(shared.proxies.refusing()),
    );
    registry.register("objects", "Objects in use", gauge(compiled.statuses.len()));
    registry.register("identities", "Identities with a policy", gauge(compiled.documents.len()));
    let problems = state.store.diagnostics().chain(compiled.diagnostics().cloned());
    let errors = problems.filter(|problem| problem.severity == Severity::Error).count();
    registry.register("problems", "Errors in files and objects", gauge(errors));
    let available = usize::from(state.availability.is_available());
    registry.register("source_available", "1 while the source of objects is available", gauge(available));
    registry.register(
        "admission",
        "Objects reviewed by the webhooks, by webhook and verdict",
        shared.reviews.clone(),
    );
    let evictions: Family<[(&'static str, &'static str); 1], Counter> = Family::default();
    for (port, pool) in shared.pools.named() {
        evictions.get_or_create(&[("port", port)]).inc_by(pool.evictions());
    }
    registry.register(
        "connections_evicted",
        "Connections closed because too many were idle, by port",
        evictions,
    );
    if let Some(tls) = &shared.tls {
        let counts = tls.counters();
        let expires: Gauge = Gauge::default();
        expires.set(tls.certificate_expiry());
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "Expiry of the current certificate, in seconds since 1970",
            expires,
        );
        registry.register("tls_reloads", "Certificate reloads that took effect", count(&counts.reloads));
        registry.register("tls_reload_failures", "Certificate reloads that failed", count(&counts.failures));
        registry.register(
            "tls_handshake_failures",
            "Connections that ended before they were encrypted",
            count(&counts.failed_handshakes),
        );
    }
    if let Identification::Credentials(accepted) = &*shared.identification
        && let Some(tokens) = &accepted.tokens
    {
        initialize_to_zero(&tokens.counts, "result", &Tokens::RESULTS);
        registry.register("token_reviews", "Token reviews, by result", tokens.counts.clone());
    }
    if let Some(flows) = &shared.flows {
        let counters = &flows.counters;
        registry.register(
            "flow_entries",
            "Connections and requests reported by proxies",
            count(&counters.entries),
        );
        registry.register(
            "flow_entries_undecided",
            "Log entries of proxies without a decision",
            count(&counters.undecided),
        );
        registry.register("flows_dropped", "Flows that were evicted to make room", count(&counters.dropped));
        registry.register("flow_db_errors", "Failed writes to the flow database", count(&counters.db_errors));
        registry.register("flows", "Flows in the flow table", gauge(flows.len()));
    }
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        // Only a failing formatter causes this, and a string does not fail.
        let _ = writeln!(text, "# EOF");
    }
    text
}

/// Creates the counters at zero: Prometheus only sees an increase of a series that existed before.
fn initialize_to_zero(counts: &Labelled, label: &'static str, values: &[&'static str]) {
    for value in values {
        drop(counts.get_or_create(&[(label, *value)]));
    }
}
