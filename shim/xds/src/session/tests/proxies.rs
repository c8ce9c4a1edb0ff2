//! Model proxies of both protocols.

use std::collections::BTreeMap;
use std::sync::Arc;

use egress_policy::{ApiVersion, Document, Mode};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;

use super::*;
use egress_envoy::snapshot::type_url::{CLUSTER, EXTENSION, LISTENER};

pub(super) type Content = BTreeMap<(&'static str, &'static str), u8>;

pub(super) fn snapshot(content: &Content) -> Snapshot {
    let document = Document {
        api_version: ApiVersion::V1,
        identity: "n/a".parse().expect("an identity"),
        version: "d".to_owned(),
        mode: Mode::Enforce,
        rules: vec![],
        in_mesh: [].into(),
    };
    Snapshot::new(
        Arc::new(document),
        vec![],
        content.iter().map(|((url, name), body)| {
            let body = Any { type_url: (*url).to_owned(), value: vec![*body] };
            (*url, Arc::new(Resource::new((*name).to_owned(), body)))
        }),
    )
}

pub(super) fn content(passthrough: bool, policy: u8) -> Content {
    let mut content = Content::from([
        ((LISTENER, "outbound"), 1),
        ((CLUSTER, "dns"), 1),
        ((EXTENSION, "network"), policy),
        ((EXTENSION, "http"), policy),
    ]);
    if passthrough {
        content.insert((CLUSTER, "passthrough-outbound"), 1);
    }
    content
}

/// An Envoy of either protocol: it asks for all listeners and clusters, and for the extensions that it
/// has heard of.
pub(super) trait Proxy {
    fn subscribe(&mut self, url: &'static str, names: &[&'static str], to: &Snapshot);
    /// Everything that came is acknowledged.
    fn update(&mut self, to: &Snapshot);
    /// The proxy loses its stream and opens another.
    fn reconnect(&mut self, to: &Snapshot);
    fn has(&self) -> Content;
    /// Number of responses received.
    fn received(&self) -> usize;
    /// The types of the responses that came, in their order.
    fn order(&mut self) -> Vec<&'static str>;
    /// Publishes a snapshot and returns the responses to it, before any is answered.
    fn push(&mut self, to: &Snapshot) -> Vec<Answer>;
    /// Answers one of these. Gives what follows.
    fn reply(&mut self, to_answer: &Answer, error: Option<&str>, to: &Snapshot) -> Vec<Answer>;
    /// The time for answers is over.
    fn finish(&mut self, to: &Snapshot) -> Vec<Answer>;
    /// Returns whether clusters wait to be removed.
    fn has_removals(&self) -> bool;
    /// Returns whether each response has all resources.
    fn is_whole(&self) -> bool;
}

#[derive(Default)]
pub(super) struct Common {
    pub(super) names: BTreeMap<&'static str, Vec<&'static str>>,
    pub(super) has: Content,
    pub(super) received: usize,
    pub(super) order: Vec<&'static str>,
}

pub(super) fn known(text: &str) -> &'static str {
    ["outbound", "dns", "old", "new", "passthrough-outbound", "network", "http", LISTENER, CLUSTER, EXTENSION]
        .into_iter()
        .find(|name| *name == text)
        .expect("known")
}

#[derive(Default)]
pub(super) struct SotwProxy {
    pub(super) session: Sotw,
    pub(super) versions: BTreeMap<&'static str, String>,
    pub(super) nonces: BTreeMap<&'static str, String>,
    pub(super) common: Common,
}

impl SotwProxy {
    pub(super) fn request(&self, url: &'static str, nonce: String, error: Option<&str>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: url.to_owned(),
            resource_names: self.common.names[url].iter().map(|n| (*n).to_owned()).collect(),
            version_info: self.versions.get(url).cloned().unwrap_or_default(),
            response_nonce: nonce,
            error_detail: error.map(|message| Status { message: message.to_owned(), ..Default::default() }),
            ..Default::default()
        }
    }

    pub(super) fn send(&mut self, request: DiscoveryRequest, to: &Snapshot) {
        let (responses, _) = self.session.on_request(&request, to);
        self.take(responses, to);
    }

    pub(super) fn take(&mut self, responses: Vec<Answer>, to: &Snapshot) {
        for response in responses {
            let url = known(&response.type_url);
            self.common.received += 1;
            self.common.order.push(url);
            self.common.has.retain(|(u, _), _| *u != url);
            for resource in &response.resources {
                self.common.has.insert((url, known(resource.name())), resource.body().value[0]);
            }
            self.versions.insert(url, response.version_info);
            self.nonces.insert(url, response.nonce.clone());
            let request = self.request(url, response.nonce, None);
            self.send(request, to);
        }
    }
}

impl Proxy for SotwProxy {
    fn subscribe(&mut self, url: &'static str, names: &[&'static str], to: &Snapshot) {
        let nonce = self.nonces.get(url).cloned().unwrap_or_default();
        self.common.names.insert(url, names.to_vec());
        let request = self.request(url, nonce, None);
        self.send(request, to);
    }

    fn update(&mut self, to: &Snapshot) {
        let (responses, _) = self.session.on_snapshot(to);
        self.take(responses, to);
        let (removals, _) = self.session.finish_removals(to);
        self.take(removals, to);
    }

    fn reconnect(&mut self, to: &Snapshot) {
        self.session = Sotw::default();
        self.nonces.clear();
        for url in self.common.names.keys().copied().collect::<Vec<_>>() {
            let request = self.request(url, String::new(), None);
            self.send(request, to);
        }
    }

    fn has(&self) -> Content {
        self.common.has.clone()
    }

    fn received(&self) -> usize {
        self.common.received
    }

    fn order(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.common.order)
    }

    fn push(&mut self, to: &Snapshot) -> Vec<Answer> {
        self.session.on_snapshot(to).0
    }

    fn reply(&mut self, to_answer: &Answer, error: Option<&str>, to: &Snapshot) -> Vec<Answer> {
        let request = self.request(known(&to_answer.type_url), to_answer.nonce.clone(), error);
        let mut answers = self.session.on_request(&request, to).0;
        // As the server does after the delay of `RemovalTimer`.
        if self.session.is_policy_answered() {
            answers.extend(self.session.finish_removals(to).0);
        }
        answers
    }

    fn finish(&mut self, to: &Snapshot) -> Vec<Answer> {
        self.session.finish_removals(to).0
    }

    fn has_removals(&self) -> bool {
        self.session.has_removals()
    }

    fn is_whole(&self) -> bool {
        true
    }
}

#[derive(Default)]
pub(super) struct DeltaProxy {
    pub(super) session: Delta,
    pub(super) versions: BTreeMap<(&'static str, &'static str), String>,
    pub(super) common: Common,
}

impl DeltaProxy {
    pub(super) fn send(&mut self, request: &DeltaDiscoveryRequest, to: &Snapshot) {
        let (responses, _) = self.session.on_request(request, to);
        self.take(responses, to);
    }

    pub(super) fn take(&mut self, responses: Vec<Answer>, to: &Snapshot) {
        for response in responses {
            let url = known(&response.type_url);
            self.common.received += 1;
            self.common.order.push(url);
            for resource in &response.resources {
                let key = (url, known(resource.name()));
                self.common.has.insert(key, resource.body().value[0]);
                self.versions.insert(key, resource.version().to_owned());
            }
            for name in &response.removed_resources {
                self.common.has.remove(&(url, known(name)));
                self.versions.remove(&(url, known(name)));
            }
            let request = DeltaDiscoveryRequest {
                type_url: url.to_owned(),
                response_nonce: response.nonce,
                ..Default::default()
            };
            self.send(&request, to);
        }
    }
}

impl Proxy for DeltaProxy {
    fn subscribe(&mut self, url: &'static str, names: &[&'static str], to: &Snapshot) {
        let before = self.common.names.insert(url, names.to_vec()).unwrap_or_default();
        let owned = |names: Vec<&&str>| names.into_iter().map(|n| (**n).to_owned()).collect();
        let gone: Vec<_> = before.iter().filter(|n| !names.contains(n)).collect();
        for name in &gone {
            self.common.has.remove(&(url, **name));
            self.versions.remove(&(url, **name));
        }
        let request = DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            resource_names_subscribe: owned(names.iter().filter(|n| !before.contains(n)).collect()),
            resource_names_unsubscribe: owned(gone),
            ..Default::default()
        };
        self.send(&request, to);
    }

    fn update(&mut self, to: &Snapshot) {
        let (responses, _) = self.session.on_snapshot(to);
        self.take(responses, to);
        let (removals, _) = self.session.finish_removals(to);
        self.take(removals, to);
    }

    fn reconnect(&mut self, to: &Snapshot) {
        self.session = Delta::default();
        for (url, names) in self.common.names.clone() {
            let request = DeltaDiscoveryRequest {
                type_url: url.to_owned(),
                resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
                initial_resource_versions: self
                    .versions
                    .iter()
                    .filter(|((u, _), _)| *u == url)
                    .map(|((_, name), version)| ((*name).to_owned(), version.clone()))
                    .collect(),
                ..Default::default()
            };
            self.send(&request, to);
        }
    }

    fn has(&self) -> Content {
        self.common.has.clone()
    }

    fn received(&self) -> usize {
        self.common.received
    }

    fn order(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.common.order)
    }

    fn push(&mut self, to: &Snapshot) -> Vec<Answer> {
        self.session.on_snapshot(to).0
    }

    fn reply(&mut self, to_answer: &Answer, error: Option<&str>, to: &Snapshot) -> Vec<Answer> {
        let request = DeltaDiscoveryRequest {
            type_url: to_answer.type_url.clone(),
            response_nonce: to_answer.nonce.clone(),
            error_detail: error.map(|message| Status { message: message.to_owned(), ..Default::default() }),
            ..Default::default()
        };
        let mut answers = self.session.on_request(&request, to).0;
        // As the server does after the delay of `RemovalTimer`.
        if self.session.is_policy_answered() {
            answers.extend(self.session.finish_removals(to).0);
        }
        answers
    }

    fn finish(&mut self, to: &Snapshot) -> Vec<Answer> {
        self.session.finish_removals(to).0
    }

    fn has_removals(&self) -> bool {
        self.session.has_removals()
    }

    fn is_whole(&self) -> bool {
        false
    }
}

pub(super) fn both(test: impl Fn(&mut dyn Proxy)) {
    test(&mut SotwProxy::default());
    test(&mut DeltaProxy::default());
}

pub(super) fn connect(proxy: &mut dyn Proxy, to: &Snapshot) {
    proxy.subscribe(CLUSTER, &[], to);
    proxy.subscribe(LISTENER, &[], to);
    proxy.subscribe(EXTENSION, &["network"], to);
    proxy.subscribe(EXTENSION, &["network", "http"], to);
}
