//! The discovery protocol by its text, as another client than Envoy sees it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use egress_tests::mesh::{self, World};
use egress_tests::netns::ensure_capable;
use egress_tests::shim::Shim;
use egress_tests::wait::wait_for;
use egress_tests::xds::{CLUSTER, Conversation, EXTENSION, LISTENER};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use tonic::Code;

/// How long a message may take that must not come.
const QUIET: Duration = Duration::from_millis(500);
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

fn egress(timeout: &str, limit: u32) -> String {
    format!(
        "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: web, namespace: curl}}\n\
         spec:\n  sources: [{{kind: ServiceAccount, name: curl, namespace: curl}}]\n  hosts: [httpbin.org]\n  \
         ports: [{{number: 80, protocol: http}}]\n  \
         matches: [{{apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: s}}]\n\
         ---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: UpstreamTrafficSetting\n\
         metadata: {{name: s, namespace: curl}}\n\
         spec: {{host: s, connectionSettings: {{tcp: {{connectTimeout: {timeout}, maxConnections: {limit}}}}}}}\n"
    )
}

fn with_control_plane(test: impl FnOnce(&World, &Shim<'_>) -> Result<()>) -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    world.write("web.yaml", &egress("1s", 10))?;
    let shim = world.shim(&[])?;
    test(&world, &shim)
}

fn talk<R: egress_tests::xds::Protocol>(world: &World) -> Result<Conversation<R>> {
    Conversation::open(&world.outside.netns, SocketAddr::new(mesh::CONTROL_PLANE, 15128), "p.curl.curl")
}

#[test]
fn wildcards_of_the_state_of_the_world() -> Result<()> {
    with_control_plane(|world, _| {
        let mut stream = talk::<DiscoveryRequest>(world)?;
        stream.say(sotw(CLUSTER, &["egress-dns"], ""))?;
        let named = stream.hear()?;
        ensure!(clusters(&named)? == BTreeSet::from(["egress-dns".to_owned()]));
        // Names, then none: nothing is wanted, and not everything.
        stream.say(sotw(CLUSTER, &[], &named.nonce))?;
        ensure!(stream.hear_within(QUIET)?.is_none(), "a message that nobody asked for");
        world.write("web.yaml", &egress("2s", 10))?;
        ensure!(stream.hear_within(QUIET)?.is_none(), "a message that nobody asked for");
        // All of them, at once.
        stream.say(sotw(CLUSTER, &["*"], &named.nonce))?;
        let all = stream.hear()?;
        ensure!(clusters(&all)?.len() == 5, "{:?}", clusters(&all)?);
        // A node need not be said again, and an empty one says nothing.
        let again = DiscoveryRequest { node: Some(Node::default()), ..sotw(LISTENER, &[], "") };
        stream.say(again)?;
        ensure!(stream.hear()?.type_url == LISTENER);
        Ok(())
    })
}

#[test]
fn wildcards_of_delta() -> Result<()> {
    with_control_plane(|world, _| {
        let mut stream = talk::<DeltaDiscoveryRequest>(world)?;
        // A first message that only gives up names is no wildcard.
        stream.say(delta(CLUSTER, &[], &["egress-dns"]))?;
        ensure!(stream.hear_within(QUIET)?.is_none(), "a message that nobody asked for");
        stream.say(delta(CLUSTER, &["egress-dns"], &[]))?;
        ensure!(names(&stream.hear()?) == BTreeSet::from(["egress-dns"]));
        // Named first, then all: the others come at once.
        stream.say(delta(CLUSTER, &["*"], &[]))?;
        let others = stream.hear()?;
        ensure!(names(&others).len() == 4 && !names(&others).contains("egress-dns"), "{:?}", names(&others));
        // A name that the wildcard covers is given up: whether it is still there is said.
        stream.say(delta(CLUSTER, &[], &["egress-dns"]))?;
        ensure!(names(&stream.hear()?) == BTreeSet::from(["egress-dns"]));
        Ok(())
    })
}

#[test]
fn a_request_without_a_type() -> Result<()> {
    with_control_plane(|world, shim| {
        let mut stream = talk::<DiscoveryRequest>(world)?;
        stream.say(sotw("", &[], ""))?;
        let ended = stream.end()?;
        ensure!(ended.code() == Code::InvalidArgument && ended.message().contains("type_url"), "{ended}");
        let mut stream = talk::<DeltaDiscoveryRequest>(world)?;
        stream.say(delta(LISTENER, &[], &[]))?;
        stream.hear()?;
        stream.say(delta("", &[], &[]))?;
        let ended = stream.end()?;
        ensure!(ended.code() == Code::InvalidArgument, "{ended}");
        ensure!(shim.refused("no-type")? == 2);
        Ok(())
    })
}

/// The proxy refuses a message, and acknowledges the next, which has the same in it.
#[test]
fn a_refusal_is_not_lost() -> Result<()> {
    with_control_plane(|world, shim| {
        let mut stream = talk::<DiscoveryRequest>(world)?;
        stream.say(sotw(EXTENSION, &PLUGINS[1..], ""))?;
        let first = stream.hear()?;
        stream.say(sotw(EXTENSION, &PLUGINS, ""))?;
        let second = stream.hear()?;
        let error_detail = Some(Status { message: "no such thing".to_owned(), ..Default::default() });
        stream.say(DiscoveryRequest { error_detail, ..sotw(EXTENSION, &PLUGINS[1..], &first.nonce) })?;
        stream.say(sotw(EXTENSION, &PLUGINS, &second.nonce))?;
        wait_for("the refusal", Duration::from_secs(5), || {
            shim.status().is_ok_and(|status| status.to_string().contains("no such thing"))
        })?;
        ensure!(shim.status()?["proxies"][0]["documentAcknowledged"].is_null());
        Ok(())
    })
}

/// A change of connection settings is a change of clusters, and of nothing else.
#[test]
fn settings_push_no_policy() -> Result<()> {
    with_control_plane(|world, _| {
        let mut stream = talk::<DeltaDiscoveryRequest>(world)?;
        for (url, names) in [(CLUSTER, &[][..]), (LISTENER, &[]), (EXTENSION, &PLUGINS)] {
            stream.say(delta(url, names, &[]))?;
            let nonce = stream.hear()?.nonce;
            stream.say(DeltaDiscoveryRequest { response_nonce: nonce, ..delta(url, &[], &[]) })?;
        }
        for (timeout, limit) in [("2s", 10), ("2s", 20)] {
            world.write("web.yaml", &egress(timeout, limit))?;
            let changed = stream.hear()?;
            ensure!(changed.type_url == CLUSTER && names(&changed) == BTreeSet::from(["httpbin.org:80"]));
            stream
                .say(DeltaDiscoveryRequest { response_nonce: changed.nonce, ..delta(CLUSTER, &[], &[]) })?;
            ensure!(stream.hear_within(QUIET)?.is_none(), "the policy was sent again");
        }
        Ok(())
    })
}
