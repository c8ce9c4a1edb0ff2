//! The discovery protocol by its specification, from a client other than Envoy.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::control_plane::ControlPlane;
use egress_tests::manifests::{by_upstream_settings, egress, upstream_settings};
use egress_tests::netns::ensure_capable;
use egress_tests::network::{self, TestNetwork};
use egress_tests::wait::wait_for;
use egress_tests::xds::{CLUSTER, EXTENSION, LISTENER, XdsStream};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use tonic::Code;

/// The time to wait for a message that must not come. Messages that are due take milliseconds.
const QUIET_PERIOD: Duration = Duration::from_millis(500);
const PLUGINS: [&str; 2] = ["egress-http-policy", "egress-policy"];

fn sotw(url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: url.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    }
}

fn delta(url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..Default::default()
    }
}

/// The names of the clusters in a message.
fn clusters(answer: &DiscoveryResponse) -> Result<BTreeSet<String>> {
    ensure!(answer.type_url == CLUSTER, "{}", answer.type_url);
    let name = |body: &[u8]| -> Result<String> {
        Ok(envoy_types::pb::envoy::config::cluster::v3::Cluster::decode(body)?.name)
    };
    answer.resources.iter().map(|any| name(&any.value)).collect()
}

fn names(answer: &DeltaDiscoveryResponse) -> BTreeSet<&str> {
    answer.resources.iter().map(|resource| resource.name.as_str()).collect()
}

/// A policy with connection settings.
fn policy(timeout: &str, limit: u32) -> String {
    let by_settings = by_upstream_settings("s");
    egress("web", &format!("hosts: [httpbin.org]\nports: [{{number: 80, protocol: http}}]\n{by_settings}"))
        + &upstream_settings("s", &format!("{{tcp: {{connectTimeout: {timeout}, maxConnections: {limit}}}}}"))
}

fn with_control_plane(test: impl FnOnce(&TestNetwork, &ControlPlane<'_>) -> Result<()>) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("web.yaml", &policy("1s", 10))?;
    let control_plane = network.control_plane(&[])?;
    test(&network, &control_plane)
}

fn open_stream<R: egress_tests::xds::Protocol>(network: &TestNetwork) -> Result<XdsStream<R>> {
    XdsStream::open(&network.outside.netns, SocketAddr::new(network::CONTROL_PLANE, 15128), "p.curl.curl")
}

#[test]
fn sotw_wildcards_follow_the_specification() -> Result<()> {
    with_control_plane(|network, _| {
        let mut stream = open_stream::<DiscoveryRequest>(network)?;
        stream.send(sotw(CLUSTER, &["egress-dns"], ""))?;
        let named = stream.receive()?;
        ensure!(clusters(&named)? == BTreeSet::from(["egress-dns".to_owned()]));
        // Names, then none: the client wants nothing, not everything.
        stream.send(sotw(CLUSTER, &[], &named.nonce))?;
        ensure!(stream.receive_within(QUIET_PERIOD)?.is_none(), "a message that nobody asked for");
        network.write("web.yaml", &policy("2s", 10))?;
        ensure!(stream.receive_within(QUIET_PERIOD)?.is_none(), "a message that nobody asked for");
        // All of them, at once.
        stream.send(sotw(CLUSTER, &["*"], &named.nonce))?;
        let all = stream.receive()?;
        ensure!(clusters(&all)?.len() == 5, "{:?}", clusters(&all)?);
        // The node need not be sent again, and an empty one changes nothing.
        let again = DiscoveryRequest { node: Some(Node::default()), ..sotw(LISTENER, &[], "") };
        stream.send(again)?;
        ensure!(stream.receive()?.type_url == LISTENER);
        Ok(())
    })
}

#[test]
fn delta_wildcards_follow_the_specification() -> Result<()> {
    with_control_plane(|network, _| {
        let mut stream = open_stream::<DeltaDiscoveryRequest>(network)?;
        // A first message that only unsubscribes is no wildcard.
        stream.send(delta(CLUSTER, &[], &["egress-dns"]))?;
        ensure!(stream.receive_within(QUIET_PERIOD)?.is_none(), "a message that nobody asked for");
        stream.send(delta(CLUSTER, &["egress-dns"], &[]))?;
        ensure!(names(&stream.receive()?) == BTreeSet::from(["egress-dns"]));
        // Named first, then all: the others come at once.
        stream.send(delta(CLUSTER, &["*"], &[]))?;
        let others = stream.receive()?;
        ensure!(names(&others).len() == 4 && !names(&others).contains("egress-dns"), "{:?}", names(&others));
        // After unsubscribing from a name that the wildcard covers, the server confirms that it exists.
        stream.send(delta(CLUSTER, &[], &["egress-dns"]))?;
        ensure!(names(&stream.receive()?) == BTreeSet::from(["egress-dns"]));
        Ok(())
    })
}

#[test]
fn a_request_without_a_type_is_refused() -> Result<()> {
    with_control_plane(|network, control_plane| {
        let mut stream = open_stream::<DiscoveryRequest>(network)?;
        stream.send(sotw("", &[], ""))?;
        let ended = stream.wait_for_end()?;
        ensure!(ended.code() == Code::InvalidArgument && ended.message().contains("type_url"), "{ended}");
        let mut stream = open_stream::<DeltaDiscoveryRequest>(network)?;
        stream.send(delta(LISTENER, &[], &[]))?;
        stream.receive()?;
        stream.send(delta("", &[], &[]))?;
        let ended = stream.wait_for_end()?;
        ensure!(ended.code() == Code::InvalidArgument, "{ended}");
        ensure!(control_plane.refusal_count("no-type")? == 2);
        Ok(())
    })
}

/// A proxy rejects a message, then acknowledges the next one with the same content.
#[test]
fn a_refusal_is_not_lost() -> Result<()> {
    with_control_plane(|network, control_plane| {
        let mut stream = open_stream::<DiscoveryRequest>(network)?;
        stream.send(sotw(EXTENSION, &PLUGINS[1..], ""))?;
        let first = stream.receive()?;
        stream.send(sotw(EXTENSION, &PLUGINS, ""))?;
        let second = stream.receive()?;
        let error_detail = Some(Status { message: "no such thing".to_owned(), ..Default::default() });
        stream.send(DiscoveryRequest { error_detail, ..sotw(EXTENSION, &PLUGINS[1..], &first.nonce) })?;
        stream.send(sotw(EXTENSION, &PLUGINS, &second.nonce))?;
        wait_for("the refusal", Duration::from_secs(5), || {
            control_plane.status().is_ok_and(|status| status.to_string().contains("no such thing"))
        })?;
        ensure!(control_plane.status()?["proxies"][0]["documentAcknowledged"].is_null());
        Ok(())
    })
}

/// A change of connection settings changes clusters only.
#[test]
fn settings_push_no_policy() -> Result<()> {
    with_control_plane(|network, _| {
        let mut stream = open_stream::<DeltaDiscoveryRequest>(network)?;
        for (url, names) in [(CLUSTER, &[][..]), (LISTENER, &[]), (EXTENSION, &PLUGINS)] {
            stream.send(delta(url, names, &[]))?;
            let nonce = stream.receive()?.nonce;
            stream.send(DeltaDiscoveryRequest { response_nonce: nonce, ..delta(url, &[], &[]) })?;
        }
        for (timeout, limit) in [("2s", 10), ("2s", 20)] {
            network.write("web.yaml", &policy(timeout, limit))?;
            let changed = stream.receive()?;
            ensure!(changed.type_url == CLUSTER && names(&changed) == BTreeSet::from(["httpbin.org:80"]));
            stream
                .send(DeltaDiscoveryRequest { response_nonce: changed.nonce, ..delta(CLUSTER, &[], &[]) })?;
            ensure!(stream.receive_within(QUIET_PERIOD)?.is_none(), "the policy was sent again");
        }
        Ok(())
    })
}
