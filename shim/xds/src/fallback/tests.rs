use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, Limits, compile};
use proptest::prelude::*;

use super::*;
use crate::session::Event;

/// Compiles Egress objects of these names for `n/a`. Later in the alphabet is newer.
fn compiled(policies: &[&str]) -> Compiled {
    let mut text = String::new();
    for name in policies {
        let port = name.bytes().fold(1, |sum, byte| sum + u16::from(byte));
        text.push_str(&format!(
            "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
             metadata: {{name: {name}, namespace: n}}\n\
             spec: {{sources: [{{kind: ServiceAccount, name: a, namespace: n}}], \
             ports: [{{number: {port}, protocol: tcp}}]}}\n"
        ));
    }
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    compile(&store, &CompileOptions::default(), None)
}

struct Made(Compiled);

impl SnapshotBuilder for Made {
    fn build_snapshot(&self, document: &Document, clusters: &[OwnCluster]) -> Arc<Snapshot> {
        Arc::new(Snapshot::new(Arc::new(document.clone()), clusters.to_vec(), []))
    }

    fn sort_newest_first(&self, policies: &mut [String]) {
        self.0.sort_newest_first(policies);
    }
}

fn cluster(name: &str) -> OwnCluster {
    OwnCluster { name: name.to_owned(), host: None, limits: Limits::default() }
}

/// A proxy that refuses some policies and clusters, and what it has in force.
struct Proxy {
    fallback: Fallback,
    refuses: Vec<&'static str>,
    refuses_clusters: Vec<&'static str>,
    in_force: Vec<String>,
    clusters: Vec<String>,
    sent: Vec<Vec<String>>,
}

/// The answer of a proxy to a message.
fn answer(type_url: &str, error: Option<&str>, names: &[&str], is_last: bool) -> Event {
    let (type_url, version) = (type_url.to_owned(), "v".to_owned());
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    match error {
        Some(error) => Event::Rejected { type_url, version, error: error.to_owned(), names, is_last },
        None => Event::Acknowledged { type_url, version, in_force: names, is_whole: true },
    }
}

fn policies(snapshot: &Snapshot) -> Vec<String> {
    snapshot.document().rules.iter().map(|rule| rule.policy.replace("n/", "")).collect()
}

impl Proxy {
    fn new(refuses: &[&'static str], refuses_clusters: &[&'static str]) -> Self {
        let target =
            Made(compiled(&[])).build_snapshot(&compiled(&[]).document(&"n/a".parse().expect("valid")), &[]);
        Self {
            fallback: Fallback::new(target),
            refuses: refuses.to_vec(),
            refuses_clusters: refuses_clusters.to_vec(),
            in_force: vec![],
            clusters: vec![],
            sent: vec![],
        }
    }

    /// The proxy should have these; everything that is sent is answered.
    fn update(&mut self, objects: &[&str], clusters: &[&str]) {
        let builder = Made(compiled(objects));
        let document = builder.0.document(&"n/a".parse().expect("valid"));
        self.update_to(&document, &builder, clusters);
    }

    fn update_to(&mut self, document: &Document, builder: &Made, clusters: &[&str]) {
        let clusters: Vec<_> = clusters.iter().map(|name| cluster(name)).collect();
        let target = builder.build_snapshot(document, &clusters);
        self.sent.clear();
        let mut next = Some(self.fallback.retarget(target, builder));
        let mut steps = 0;
        while let Some(snapshot) = next {
            steps += 1;
            assert!(steps < 500, "it goes on for ever");
            self.sent.push(policies(&snapshot));
            let sent: Vec<&str> = snapshot.clusters().iter().map(|c| c.name.as_str()).collect();
            let answer = |type_url: &str, error: Option<&str>| answer(type_url, error, &sent, true);
            let bad = |name: &&'static str, all: &[String]| all.iter().any(|one| one == *name);
            let names: Vec<String> = snapshot.clusters().iter().map(|c| c.name.clone()).collect();
            // A refused message changes nothing.
            let bad_cluster = self.refuses_clusters.iter().find(|name| bad(name, &names)).copied();
            if bad_cluster.is_none() {
                self.clusters = names;
            }
            let bad_policy = self.refuses.iter().find(|name| bad(name, &policies(&snapshot))).copied();
            if bad_policy.is_none() {
                self.in_force = policies(&snapshot);
            }
            let events = [answer(type_url::CLUSTER, bad_cluster), answer(type_url::EXTENSION, bad_policy)];
            next = self.fallback.observe(&events, builder);
        }
        self.clusters.sort();
    }

    fn held_back(&self) -> Option<HeldBack> {
        self.fallback.held_back(&Made(compiled(&["a", "b", "bad", "c", "d", "e"])))
    }
}

#[test]
fn what_is_accepted_is_no_trouble() {
    let mut proxy = Proxy::new(&[], &[]);
    proxy.update(&["a", "b"], &["1", "2"]);
    assert_eq!((proxy.in_force.join(" "), proxy.clusters.join(" ")), ("a b".to_owned(), "1 2".to_owned()));
    assert_eq!(proxy.sent.len(), 1);
    assert_eq!(proxy.held_back(), None);
}

/// The revocation comes with the first message after the refusal, and what is new as far as it can.
#[test]
fn a_revocation_does_not_wait() {
    let mut proxy = Proxy::new(&["bad"], &[]);
    proxy.update(&["a", "b"], &[]);
    proxy.update(&["b", "bad", "d", "e"], &[]);
    assert_eq!(proxy.sent[..2], [vec!["b", "bad", "d", "e"], vec!["b"]]);
    // One, two, then all three that are new are left out.
    assert_eq!(proxy.sent[2..], [vec!["b", "bad", "d"], vec!["b", "bad"], vec!["b"]]);
    assert_eq!(proxy.in_force, ["b"]);
    let held_back = proxy.held_back().expect("something");
    assert_eq!(held_back.policies, ["n/e", "n/d", "n/bad"]);
    // As long as the object stands, revocations come first.
    proxy.update(&["bad", "d", "e"], &[]);
    assert_eq!(proxy.sent[0], Vec::<String>::new());
    assert_eq!(proxy.in_force, Vec::<String>::new());
    // And when it goes, everything is there again.
    proxy.update(&["a", "d", "e"], &[]);
    assert_eq!(proxy.in_force, ["a", "d", "e"]);
    assert_eq!(proxy.held_back(), None);
}

/// The newest object is the likeliest.
#[test]
fn the_newest_object_alone_is_left_out() {
    let mut proxy = Proxy::new(&["e"], &[]);
    proxy.update(&["a"], &[]);
    proxy.update(&["b", "c", "e"], &[]);
    assert_eq!(proxy.sent, [vec!["b", "c", "e"], vec![], vec!["b", "c"]]);
    let held_back = proxy.held_back().expect("something");
    assert_eq!((held_back.bridged, &held_back.policies[..]), (false, &["n/e".to_owned()][..]));
    assert_eq!(held_back.to_string(), "e; in force without what is new in n/e");
}

/// The state of a proxy that has just connected is unknown, so nothing that it may have is removed.
#[test]
fn a_proxy_without_known_state_loses_nothing() {
    let mut proxy = Proxy::new(&["e"], &[]);
    proxy.update(&["a", "b", "e"], &[]);
    assert_eq!(proxy.sent, [vec!["a", "b", "e"], vec!["a", "b"]]);
    let mut proxy = Proxy::new(&["a", "b", "c"], &[]);
    proxy.update(&["a", "b", "c"], &[]);
    assert_eq!(proxy.in_force, Vec::<String>::new());
}

#[test]
fn a_cluster_costs_its_own_rules_only() {
    let mut proxy = Proxy::new(&[], &["3", "7"]);
    proxy.update(&["a"], &["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(proxy.clusters.join(" "), "1 2 4 5 6 8");
    assert_eq!(proxy.in_force, ["a"]);
    let held_back = proxy.held_back().expect("something");
    assert_eq!(held_back.clusters.len(), 2);
    assert!(held_back.clusters.iter().all(|name| ["3", "7"].contains(&name.as_str())));
    // They are not tried again, and what is new is.
    proxy.update(&["a"], &["1", "2", "3", "7", "9"]);
    assert_eq!((proxy.clusters.join(" "), proxy.sent.len()), ("1 2 9".to_owned(), 1));
    proxy.update(&["a"], &["1"]);
    assert_eq!(proxy.held_back(), None);
}

/// A message may be on its way before an earlier one is refused: each answer counts for what its message carried.
#[test]
fn an_earlier_message_is_refused() {
    let builder = Made(compiled(&[]));
    let document = builder.0.document(&"n/a".parse().expect("valid"));
    let target = |names: &[&str]| {
        let clusters: Vec<_> = names.iter().map(|name| cluster(name)).collect();
        builder.build_snapshot(&document, &clusters)
    };
    let names = |snapshot: &Snapshot| {
        snapshot.clusters().iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(" ")
    };
    let mut fallback = Fallback::new(target(&["c1", "c2"]));
    fallback.retarget(target(&["c1", "c2", "c3"]), &builder);
    let mut respond = |error, names: &[&str], is_last| {
        fallback.observe(&[answer(type_url::CLUSTER, error, names, is_last)], &builder)
    };
    let sent = respond(Some("no"), &["c1", "c2"], false).expect("others");
    assert_eq!(names(&sent), "c1 c3");
    // The second message was replaced meanwhile; the third brings c1 again.
    let sent = respond(Some("no"), &["c1"], true).expect("others");
    assert_eq!(names(&sent), "c2 c3");
    assert!(respond(None, &["c2", "c3"], true).is_none());
    let held_back = fallback.held_back(&builder).expect("something");
    assert_eq!(held_back.clusters, ["c1"]);
    // The policy of an earlier message was replaced, or is still what was sent.
    let refused = |names: &[&str]| [answer(type_url::EXTENSION, Some("no"), names, false)];
    assert!(fallback.observe(&refused(&[]), &builder).is_none());
    assert_eq!(fallback.held_back(&builder).expect("something").error, "no");
    assert_eq!(fallback.error, None);
    fallback.observe(&refused(&["network"]), &builder);
    assert_eq!(fallback.error.as_deref(), Some("no"));
}

fn passthrough() -> Document {
    let none = Document::clone(&compiled(&[]).document(&"n/a".parse().expect("valid")));
    Document { mode: Mode::Passthrough, version: "passthrough".to_owned(), ..none }
}

/// A refused object does not close what the others allow, and the passthrough ends after some tries.
#[test]
fn from_passthrough_to_rules() {
    let mut proxy = Proxy::new(&["bad"], &[]);
    proxy.update_to(&passthrough(), &Made(compiled(&[])), &[]);
    proxy.update(&["a", "b", "bad", "c"], &[]);
    assert_eq!(proxy.sent, [vec!["a", "b", "bad", "c"], vec!["a", "b", "bad"], vec!["a", "b"]]);
    assert_eq!(proxy.in_force, ["a", "b"]);
    assert_eq!(proxy.held_back().expect("something").policies, ["n/c", "n/bad"]);
    // From there on everything is as ever.
    proxy.update(&["b", "bad", "c"], &[]);
    assert_eq!(proxy.sent[0], ["b"]);
    // If all are refused, nothing is allowed.
    let mut proxy = Proxy::new(&["a", "b"], &[]);
    proxy.update_to(&passthrough(), &Made(compiled(&[])), &[]);
    proxy.in_force = vec!["everything".to_owned()];
    proxy.update(&["a", "b"], &[]);
    assert_eq!(proxy.sent, [vec!["a", "b"], vec!["a"], vec![]]);
    assert_eq!(proxy.in_force, Vec::<String>::new());
}

/// Changes that come faster than the answers do not keep the passthrough.
#[test]
fn changes_do_not_hold_up_the_end_of_passthrough() {
    let builder = Made(compiled(&["a", "b", "bad", "c", "d", "e"]));
    let document = |objects: &[&str]| compiled(objects).document(&"n/a".parse().expect("valid"));
    let target = |objects: &[&str]| builder.build_snapshot(&document(objects), &[]);
    let mut fallback = Fallback::new(builder.build_snapshot(&passthrough(), &[]));
    let respond = |fallback: &mut Fallback, error| {
        fallback.observe(&[answer(type_url::EXTENSION, error, &[], true)], &builder)
    };
    assert!(respond(&mut fallback, None).is_none());
    fallback.retarget(target(&["a", "bad", "c", "d"]), &builder);
    assert_eq!(policies(&respond(&mut fallback, Some("no")).expect("a try")), ["a", "bad", "c"]);
    for objects in [["a", "bad", "c", "e"], ["a", "bad", "d", "e"]] {
        fallback.retarget(target(&objects), &builder);
        respond(&mut fallback, Some("no")).expect("a try");
    }
    let sent = fallback.retarget(target(&["a", "bad", "d"]), &builder);
    assert_eq!(policies(&sent), Vec::<String>::new(), "all are left out by now");
    // It takes that, and then the whole of the newest is tried.
    let whole = respond(&mut fallback, None).expect("the whole");
    assert_eq!(policies(&whole), ["a", "bad", "d"]);
    assert!(respond(&mut fallback, None).is_none());
    assert_eq!(fallback.held_back(&builder), None);
}

/// Reports a change only if the held-back policies change, not with each message.
#[test]
fn an_answer_that_changes_nothing_costs_nothing() {
    let mut proxy = Proxy::new(&["e"], &[]);
    proxy.update(&["a"], &[]);
    proxy.update(&["a", "e"], &[]);
    assert!(proxy.fallback.take_change() && proxy.held_back().is_some());
    assert!(!proxy.fallback.take_change());
    let builder = Made(compiled(&["a", "e"]));
    let taken = answer(type_url::EXTENSION, None, &[], true);
    let sent = Event::Sent { type_url: type_url::EXTENSION.to_owned(), version: "v".to_owned() };
    let replaced = answer(type_url::EXTENSION, Some("no"), &[], false);
    let cluster = answer(type_url::CLUSTER, Some("no"), &["none"], true);
    assert!(proxy.fallback.observe(&[taken, sent, replaced, cluster], &builder).is_none());
    assert!(!proxy.fallback.take_change());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is refused: it ends, nothing that was revoked stays, and what is in force is part of the target.
    #[test]
    fn nothing_revoked_stays(
        refused in proptest::sample::subsequence(vec!["a", "b", "c", "d", "e", "f"], 0..4),
        changes in proptest::collection::vec(
            proptest::sample::subsequence(vec!["a", "b", "c", "d", "e", "f"], 0..6), 1..8,
        ),
    ) {
        let mut proxy = Proxy::new(&refused, &[]);
        // It accepts that there is nothing.
        proxy.update(&[], &[]);
        for objects in changes {
            proxy.update(&objects, &[]);
            for policy in &proxy.in_force {
                prop_assert!(objects.contains(&policy.as_str()), "{policy} stays, of {objects:?}");
            }
            let good = objects.iter().all(|object| !refused.contains(object));
            prop_assert_eq!(proxy.held_back().is_none(), good);
            if good {
                prop_assert_eq!(&proxy.in_force, &objects);
            }
        }
    }
}
