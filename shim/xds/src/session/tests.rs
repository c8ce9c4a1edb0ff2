use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;

use super::*;
use egress_envoy::snapshot::type_url::{CLUSTER, EXTENSION, LISTENER};

mod proxies;

use self::proxies::*;

#[test]
fn a_proxy_gets_everything_and_only_changes_after_that() {
    both(|proxy| {
        let first = snapshot(&content(false, 1));
        connect(proxy, &first);
        assert_eq!(proxy.has(), content(false, 1));
        let received = proxy.received();
        proxy.update(&first);
        assert_eq!(proxy.received(), received, "nothing changed");
        proxy.order();
        proxy.update(&snapshot(&content(false, 2)));
        assert_eq!(proxy.order(), [EXTENSION], "policy is the extensions' affair alone");
        assert_eq!(proxy.has(), content(false, 2));
    });
}

#[test]
fn clusters_come_before_what_steers_to_them_and_go_after() {
    both(|proxy| {
        connect(proxy, &snapshot(&content(false, 1)));
        proxy.order();
        proxy.update(&snapshot(&content(true, 2)));
        assert_eq!(proxy.order(), [CLUSTER, EXTENSION]);
        assert_eq!(proxy.has(), content(true, 2));
        proxy.update(&snapshot(&content(false, 3)));
        assert_eq!(proxy.order(), [EXTENSION, CLUSTER]);
        assert_eq!(proxy.has(), content(false, 3));
    });
}

/// The clusters of a proxy after a message.
fn clusters(mut has: BTreeSet<String>, answer: &Answer, is_whole: bool) -> BTreeSet<String> {
    assert_eq!(answer.type_url, CLUSTER);
    if is_whole {
        has.clear();
    }
    has.extend(answer.resources.iter().map(|resource| resource.name().to_owned()));
    has.retain(|name| !answer.removed_resources.contains(name));
    has
}

/// Clusters of these names, and a policy.
fn with_clusters(clusters: &[&'static str], policy: u8) -> Snapshot {
    let mut content = content(false, policy);
    content.extend(clusters.iter().map(|name| ((CLUSTER, *name), 1)));
    snapshot(&content)
}

#[test]
fn a_removed_cluster_stays_until_the_policy_is_answered() {
    for ending in ["taken", "refused", "in time"] {
        both(|proxy| {
            let (before, after) = (with_clusters(&["old"], 1), with_clusters(&["new"], 2));
            connect(proxy, &before);
            let (has, is_whole) = (names(&["dns", "old"]), proxy.is_whole());
            let sent = proxy.push(&after);
            let urls: Vec<&str> = sent.iter().map(|answer| answer.type_url.as_str()).collect();
            assert_eq!(urls, [CLUSTER, EXTENSION]);
            let has = clusters(has, &sent[0], is_whole);
            assert_eq!(has, names(&["dns", "new", "old"]));
            assert!(proxy.has_removals());
            assert!(proxy.reply(&sent[0], None, &after).is_empty(), "the policy is not there yet");
            let last = match ending {
                "taken" => proxy.reply(&sent[1], None, &after),
                "refused" => proxy.reply(&sent[1], Some("no"), &after),
                _ => proxy.finish(&after),
            };
            assert_eq!(last.len(), 1, "{ending}");
            assert_eq!(clusters(has, &last[0], is_whole), names(&["dns", "new"]), "{ending}");
            assert!(!proxy.has_removals());
            assert!(proxy.reply(&last[0], None, &after).is_empty());
            assert!(proxy.push(&after).is_empty() && proxy.finish(&after).is_empty());
        });
    }
}

/// Another change comes before the answer; what it needs again was not removed meanwhile.
#[test]
fn a_removed_resource_may_come_back() {
    both(|proxy| {
        let first = with_clusters(&["old"], 1);
        connect(proxy, &first);
        let (has, is_whole) = (names(&["dns", "old"]), proxy.is_whole());
        let second = with_clusters(&["new"], 2);
        let sent = proxy.push(&second);
        let has = clusters(has, &sent[0], is_whole);
        let third = with_clusters(&["old"], 3);
        let again = proxy.push(&third);
        let urls: Vec<&str> = again.iter().map(|answer| answer.type_url.as_str()).collect();
        assert_eq!(urls, [EXTENSION]);
        assert!(proxy.has_removals(), "the new one is gone now");
        proxy.reply(&sent[0], None, &third);
        assert!(proxy.reply(&sent[1], None, &third).is_empty(), "that was another policy");
        let last = proxy.reply(&again[0], None, &third);
        assert_eq!(clusters(has, &last[0], is_whole), names(&["dns", "old"]));
    });
}

/// Global egress ends with the change, whatever else waits.
#[test]
fn passthrough_waits_for_nothing() {
    both(|proxy| {
        let mut before = content(true, 1);
        before.insert((CLUSTER, "old"), 1);
        connect(proxy, &snapshot(&before));
        let after = with_clusters(&["new"], 2);
        let (has, is_whole) = (names(&["dns", "old", "passthrough-outbound"]), proxy.is_whole());
        let sent = proxy.push(&after);
        let urls: Vec<&str> = sent.iter().map(|answer| answer.type_url.as_str()).collect();
        assert_eq!(urls, [CLUSTER, EXTENSION, CLUSTER]);
        let has = clusters(has, &sent[0], is_whole);
        assert_eq!(has, names(&["dns", "new", "old", "passthrough-outbound"]));
        let has = clusters(has, &sent[2], is_whole);
        assert_eq!(has, names(&["dns", "new", "old"]));
        let last = proxy.reply(&sent[1], None, &after);
        assert_eq!(clusters(has, &last[0], is_whole), names(&["dns", "new"]));
    });
}

/// A cluster that was refused with others is not sent again, only because it is gone.
#[test]
fn what_was_refused_does_not_stay() {
    both(|proxy| {
        connect(proxy, &with_clusters(&[], 1));
        let bad = with_clusters(&["old"], 2);
        let sent = proxy.push(&bad);
        proxy.reply(&sent[0], Some("no"), &bad);
        let good = with_clusters(&["new"], 3);
        let sent = proxy.push(&good);
        let sent: Vec<_> = sent.iter().filter(|answer| answer.type_url == CLUSTER).collect();
        assert!(sent.iter().all(|answer| answer.resources.iter().all(|resource| resource.name() != "old")));
        assert!(sent.iter().any(|answer| answer.resources.iter().any(|resource| resource.name() == "new")));
    });
}

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

fn sent_names(answers: &[Answer]) -> Vec<BTreeSet<String>> {
    let names = |answer: &Answer| answer.resources.iter().map(|r| r.name().to_owned()).collect();
    answers.iter().map(names).collect()
}

/// The protocol's text, "How the client specifies what resources to return".
#[test]
fn wildcards_of_the_state_of_the_world() {
    let now = with_clusters(&["old"], 1);
    let mut session = Sotw::default();
    let mut discovery_request =
        |names: &[&str], nonce: &str| session.on_request(&sotw(CLUSTER, names, nonce), &now).0;
    let named = discovery_request(&["dns"], "");
    assert_eq!(sent_names(&named), [names(&["dns"])]);
    let nonce = named[0].nonce.clone();
    assert!(discovery_request(&["dns"], &nonce).is_empty(), "an acknowledgement");
    // From names to nothing: no wildcard.
    assert!(discovery_request(&[], &nonce).is_empty(), "nothing is wanted any more");
    // The wildcard beside a name answers at once; and again a name that was given up.
    let all = discovery_request(&["dns", "*"], &nonce);
    assert_eq!(sent_names(&all), [names(&["dns", "old"])]);
    let nonce = all[0].nonce.clone();
    assert!(discovery_request(&["*"], &nonce).is_empty(), "the wildcard covers it");
    // A name that was not given before answers, even if the wildcard covered it.
    let one = discovery_request(&["old"], &nonce);
    assert_eq!(sent_names(&one), [names(&["old"])]);
    let nonce = one[0].nonce.clone();
    // The resources that are left are the only ones that change.
    let changed = session.on_snapshot(&with_clusters(&["old", "new"], 1)).0;
    assert!(changed.is_empty(), "{changed:?}");
    let mut discovery_request =
        |names: &[&str], nonce: &str| session.on_request(&sotw(CLUSTER, names, nonce), &now).0;
    assert!(discovery_request(&[], &nonce).is_empty());
    let all = discovery_request(&["*"], &nonce);
    assert_eq!(sent_names(&all), [names(&["dns", "old"])], "named first, then all");

    // All at first, which a name ends; then nothing is nothing.
    let mut session = Sotw::default();
    let mut discovery_request =
        |names: &[&str], nonce: &str| session.on_request(&sotw(CLUSTER, names, nonce), &now).0;
    let all = discovery_request(&[], "");
    assert_eq!(sent_names(&all), [names(&["dns", "old"])]);
    let nonce = all[0].nonce.clone();
    assert!(discovery_request(&[], &nonce).is_empty(), "an acknowledgement");
    let nonce = discovery_request(&["old"], &nonce)[0].nonce.clone();
    assert!(discovery_request(&[], &nonce).is_empty());
    assert!(session.on_snapshot(&with_clusters(&["new"], 1)).0.is_empty(), "nothing is wanted");
}

#[test]
fn giving_up_an_extension_pushes_nothing() {
    let (now, later) = (snapshot(&content(false, 1)), snapshot(&content(false, 2)));
    let mut session = Sotw::default();
    let sent = session.on_request(&sotw(EXTENSION, &["network", "http"], ""), &now).0;
    let nonce = sent[0].nonce.clone();
    assert!(session.on_request(&sotw(EXTENSION, &["network"], &nonce), &now).0.is_empty());
    let sent = session.on_snapshot(&later).0;
    assert_eq!(sent_names(&sent), [names(&["network"])]);
    let again = session.on_request(&sotw(EXTENSION, &["network", "http"], &sent[0].nonce), &later).0;
    assert_eq!(sent_names(&again), [names(&["http", "network"])]);
}

#[test]
fn wildcards_of_delta() {
    let now = with_clusters(&["old"], 1);
    let mut session = Delta::default();
    let sent = session.on_request(&delta(CLUSTER, &["dns"], &[]), &now).0;
    assert_eq!(sent_names(&sent), [names(&["dns"])]);
    // Named first, then all: what is new comes at once.
    let sent = session.on_request(&delta(CLUSTER, &["*"], &[]), &now).0;
    assert_eq!(sent_names(&sent), [names(&["old"])]);
    // A name that the wildcard covers is given up: the proxy is told whether it still has it.
    let sent = session.on_request(&delta(CLUSTER, &[], &["dns"]), &now).0;
    assert_eq!(sent_names(&sent), [names(&["dns"])]);
    let sent = session.on_request(&delta(CLUSTER, &["missing"], &[]), &now).0;
    assert_eq!(sent[0].removed_resources, ["missing"]);
    let sent = session.on_request(&delta(CLUSTER, &[], &["missing"]), &now).0;
    assert_eq!((sent[0].resources.len(), &sent[0].removed_resources[..]), (0, &["missing".to_owned()][..]));
    // Without the wildcard only names count, and what is forgotten is not removed.
    assert!(session.on_request(&delta(CLUSTER, &[], &["*"]), &now).0.is_empty());
    assert!(session.on_snapshot(&with_clusters(&["new"], 1)).0.is_empty());

    // A first message that only gives up is no wildcard.
    let mut session = Delta::default();
    assert!(session.on_request(&delta(CLUSTER, &[], &["dns"]), &now).0.is_empty());
    assert!(session.on_snapshot(&with_clusters(&["new"], 1)).0.is_empty());
    let sent = session.on_request(&delta(CLUSTER, &["*"], &[]), &now).0;
    assert_eq!(sent_names(&sent), [names(&["dns", "old"])]);
    // One without any name is.
    let mut session = Delta::default();
    let sent = session.on_request(&delta(CLUSTER, &[], &[]), &now).0;
    assert_eq!(sent_names(&sent), [names(&["dns", "old"])]);
}

#[test]
fn a_proxy_that_comes_back_with_everything_is_sent_nothing() {
    both(|proxy| {
        let first = snapshot(&content(true, 1));
        connect(proxy, &first);
        let received = proxy.received();
        proxy.reconnect(&first);
        assert_eq!(proxy.received(), received);
        proxy.order();
        proxy.reconnect(&snapshot(&content(true, 2)));
        assert_eq!(proxy.order(), [EXTENSION]);
        assert_eq!(proxy.has(), content(true, 2));
        proxy.update(&snapshot(&content(false, 2)));
        assert_eq!(proxy.has(), content(false, 2), "what it came back with is known to be there");
    });
}

#[test]
fn unsubscribing() {
    both(|proxy| {
        connect(proxy, &snapshot(&content(false, 1)));
        proxy.subscribe(EXTENSION, &["network"], &snapshot(&content(false, 1)));
        let mut expected = content(false, 2);
        expected.remove(&(EXTENSION, "http"));
        proxy.update(&snapshot(&content(false, 2)));
        let mut has = proxy.has();
        has.remove(&(EXTENSION, "http"));
        assert_eq!(has, expected);
    });
}

#[test]
fn a_refused_version_is_not_sent_again() {
    let first = snapshot(&content(false, 1));
    let mut proxy = SotwProxy::default();
    connect(&mut proxy, &first);
    let second = snapshot(&content(false, 2));
    let (responses, _) = proxy.session.on_snapshot(&second);
    let refusal = proxy.request(EXTENSION, responses[0].nonce.clone(), Some("no"));
    let (again, events) = proxy.session.on_request(&refusal, &second);
    assert!(again.is_empty());
    let version = responses[0].version_info.clone();
    let names = BTreeSet::from(["http".to_owned(), "network".to_owned()]);
    let (type_url, error) = (EXTENSION.to_owned(), "no".to_owned());
    assert_eq!(events, [Event::Rejected { type_url, version, error, names, is_last: true }]);
    assert!(proxy.session.on_request(&refusal, &second).1.is_empty(), "each message has one answer");
    assert!(proxy.session.on_snapshot(&second).0.is_empty());
    proxy.update(&snapshot(&content(false, 3)));
    assert_eq!(proxy.has(), content(false, 3));

    let mut proxy = DeltaProxy::default();
    connect(&mut proxy, &first);
    let (responses, _) = proxy.session.on_snapshot(&second);
    let refusal = DeltaDiscoveryRequest {
        type_url: EXTENSION.to_owned(),
        response_nonce: responses[0].nonce.clone(),
        error_detail: Some(Status { message: "no".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let (again, events) = proxy.session.on_request(&refusal, &second);
    assert!(again.is_empty());
    assert!(matches!(&events[..], [Event::Rejected { error, .. }] if error == "no"));
    assert!(proxy.session.on_snapshot(&second).0.is_empty());
    // Back to what was there before the refusal: it must be sent, for the session cannot know.
    proxy.update(&first);
    assert_eq!(proxy.has(), content(false, 1));
}

/// Envoy applies nothing of a message in which one resource throws: what came beside it must come again.
#[test]
fn what_came_beside_a_refused_resource_is_sent_again() {
    let mut bad = content(true, 1);
    bad.remove(&(LISTENER, "outbound"));
    let (bad, good) = (snapshot(&bad), snapshot(&content(false, 1)));
    let mut session = Delta::default();
    let discovery_request = DeltaDiscoveryRequest { type_url: CLUSTER.to_owned(), ..Default::default() };
    let (responses, _) = session.on_request(&discovery_request, &bad);
    assert_eq!(responses[0].resources.len(), 2);
    let refusal = DeltaDiscoveryRequest {
        type_url: CLUSTER.to_owned(),
        response_nonce: responses[0].nonce.clone(),
        error_detail: Some(Status { message: "no".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    assert!(session.on_request(&refusal, &bad).0.is_empty());
    assert!(session.on_snapshot(&bad).0.is_empty(), "the same again");
    let (responses, _) = session.on_snapshot(&good);
    let names: Vec<&str> = responses[0].resources.iter().map(|resource| resource.name()).collect();
    assert_eq!(names, ["dns"]);
    assert_eq!(responses[0].removed_resources, ["passthrough-outbound"]);
    // Once that is accepted, it is not sent again.
    let accepted =
        DeltaDiscoveryRequest { error_detail: None, response_nonce: responses[0].nonce.clone(), ..refusal };
    assert!(session.on_request(&accepted, &good).0.is_empty());
    assert!(session.on_snapshot(&good).0.is_empty());
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn no() -> Status {
    Status { message: "no".to_owned(), ..Default::default() }
}

/// Another message may be on its way before the proxy refuses the one before.
#[test]
fn a_refusal_of_an_earlier_message_is_not_lost() {
    let clusters = |names: &[&'static str]| {
        snapshot(&names.iter().map(|name| ((CLUSTER, *name), 1)).collect::<Content>())
    };
    let mut session = Delta::default();
    let discovery_request = DeltaDiscoveryRequest { type_url: CLUSTER.to_owned(), ..Default::default() };
    let (two, three, one) = (clusters(&["c1", "c2"]), clusters(&["c1", "c2", "c3"]), clusters(&["c2", "c3"]));
    let nonce = |sent: &[Answer]| sent.first().expect("a message").nonce.clone();
    let first = nonce(&session.on_request(&discovery_request, &two).0);
    let second = nonce(&session.on_snapshot(&three).0);
    let mut answer = |nonce: &str, error: Option<Status>, to: &Snapshot| {
        let answer = DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..discovery_request.clone()
        };
        session.on_request(&answer, to).1
    };
    let refused = answer(&first, Some(no()), &three);
    assert!(
        matches!(&refused[..], [Event::Rejected { names: refused, is_last: false, .. }]
            if *refused == names(&["c1", "c2"])),
        "{refused:?}"
    );
    assert!(answer(&first, Some(no()), &three).is_empty(), "each message has one answer");
    let taken = answer(&second, None, &three);
    assert!(
        matches!(&taken[..], [Event::Acknowledged { in_force, is_whole: false, .. }]
            if *in_force == names(&["c3"])),
        "{taken:?}"
    );
    // What came with the mistake comes again.
    let (sent, _) = session.on_snapshot(&one);
    assert_eq!(sent[0].resources.iter().map(|resource| resource.name()).collect::<Vec<_>>(), ["c2"]);
    assert_eq!(sent[0].removed_resources, ["c1"]);
    let last = DeltaDiscoveryRequest { response_nonce: sent[0].nonce.clone(), ..discovery_request.clone() };
    let (_, taken) = session.on_request(&last, &one);
    assert!(
        matches!(&taken[..], [Event::Acknowledged { in_force, is_whole: true, .. }]
            if *in_force == names(&["c2", "c3"])),
        "{taken:?}"
    );
}

/// The answer to a message that was replaced as a whole says nothing of what replaced it.
#[test]
fn a_refusal_of_what_was_replaced() {
    let mut session = Delta::default();
    let (first, second) = (snapshot(&content(false, 1)), snapshot(&content(false, 2)));
    let discovery_request = DeltaDiscoveryRequest {
        type_url: EXTENSION.to_owned(),
        resource_names_subscribe: vec!["network".to_owned(), "http".to_owned()],
        ..Default::default()
    };
    let old = session.on_request(&discovery_request, &first).0[0].nonce.clone();
    let new = session.on_snapshot(&second).0[0].nonce.clone();
    let answer = |nonce, error_detail| DeltaDiscoveryRequest {
        type_url: EXTENSION.to_owned(),
        response_nonce: nonce,
        error_detail,
        ..Default::default()
    };
    let (_, events) = session.on_request(&answer(old, Some(no())), &second);
    assert!(
        matches!(&events[..], [Event::Rejected { names, is_last: false, .. }] if names.is_empty()),
        "{events:?}"
    );
    let (_, events) = session.on_request(&answer(new, None), &second);
    assert!(matches!(&events[..], [Event::Acknowledged { is_whole: true, .. }]), "{events:?}");
}

/// Envoy acknowledges the bytes of an extension that it refused before, without applying them.
#[test]
fn a_refusal_is_not_lost_by_the_acknowledgement_of_the_next() {
    let mut session = Sotw::default();
    let now = snapshot(&content(false, 1));
    let request = |nonce: &str, names: &[&str], error_detail| DiscoveryRequest {
        type_url: EXTENSION.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        error_detail,
        ..Default::default()
    };
    let first = session.on_request(&request("", &["network"], None), &now).0[0].nonce.clone();
    // The other extension comes before the answer.
    let subscribed = session.on_request(&request("", &["network", "http"], None), &now);
    let second = subscribed.0[0].nonce.clone();
    let (_, events) = session.on_request(&request(&first, &["network"], Some(no())), &now);
    assert!(
        matches!(&events[..], [Event::Rejected { names: refused, is_last: false, .. }]
            if *refused == names(&["network"])),
        "{events:?}"
    );
    let (_, events) = session.on_request(&request(&second, &["network", "http"], None), &now);
    assert!(matches!(&events[..], [Event::Acknowledged { is_whole: false, .. }]), "{events:?}");
    assert!(session.on_request(&request(&second, &["network", "http"], None), &now).1.is_empty());
    // What is sent in its place has an answer of its own.
    let changed = snapshot(&content(false, 2));
    let third = session.on_snapshot(&changed).0[0].nonce.clone();
    let (_, events) = session.on_request(&request(&third, &["network", "http"], None), &changed);
    assert!(matches!(&events[..], [Event::Acknowledged { is_whole: true, .. }]), "{events:?}");
}

#[test]
fn stale_nonces_and_strange_types() {
    let first = snapshot(&content(false, 1));
    let mut proxy = SotwProxy::default();
    connect(&mut proxy, &first);
    let stale = proxy.request(CLUSTER, "0".to_owned(), Some("old"));
    let (responses, events) = proxy.session.on_request(&stale, &first);
    assert!(responses.is_empty() && events.is_empty());
    let strange = DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned(),
        resource_names: vec!["x".to_owned()],
        ..Default::default()
    };
    let (responses, _) = proxy.session.on_request(&strange, &first);
    assert_eq!(responses.len(), 1, "an answer, so that nobody waits");
    assert!(responses[0].resources.is_empty());

    let mut session = Delta::default();
    let discovery_request = DeltaDiscoveryRequest {
        type_url: EXTENSION.to_owned(),
        resource_names_subscribe: vec!["http".to_owned(), "missing".to_owned()],
        ..Default::default()
    };
    let (responses, _) = session.on_request(&discovery_request, &first);
    assert_eq!(responses[0].resources.len(), 1);
    assert_eq!(responses[0].removed_resources, ["missing"]);
}

#[derive(Debug, Clone)]
enum Act {
    Change(bool, u8),
    Reconnect,
    Subscribe(bool),
}

proptest! {
    #[test]
    fn whatever_happens_the_proxy_has_the_snapshot(acts in prop::collection::vec(prop_oneof![
        (any::<bool>(), 0_u8..4).prop_map(|(passthrough, policy)| Act::Change(passthrough, policy)),
        Just(Act::Reconnect),
        any::<bool>().prop_map(Act::Subscribe),
    ], 0..20)) {
        both(|proxy| {
            let mut now = content(false, 0);
            let mut http = true;
            connect(proxy, &snapshot(&now));
            for act in &acts {
                match act {
                    Act::Change(passthrough, policy) => {
                        now = content(*passthrough, *policy);
                        proxy.update(&snapshot(&now));
                    }
                    Act::Reconnect => proxy.reconnect(&snapshot(&now)),
                    Act::Subscribe(both) => {
                        http = *both;
                        let names: &[_] = if http { &["network", "http"] } else { &["network"] };
                        proxy.subscribe(EXTENSION, names, &snapshot(&now));
                    }
                }
                let (mut has, mut expected) = (proxy.has(), now.clone());
                if !http {
                    has.remove(&(EXTENSION, "http"));
                    expected.remove(&(EXTENSION, "http"));
                }
                assert_eq!(has, expected, "after {act:?}");
            }
        });
    }
}
