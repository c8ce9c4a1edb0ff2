use std::collections::BTreeSet;

use kube::runtime::watcher::Event;

use super::*;
use egress_compile::compile;
use egress_compile::store::{FileUpdate, Store};
use egress_core::proxies::{Fleet, ProxyRejection};

fn compiled(port: u16) -> Compiled {
    let text = format!(
        "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: p, namespace: n}}\n\
         spec: {{sources: [{{kind: ServiceAccount, name: a, namespace: n}}], ports: [{{number: {port}, protocol: tcp}}]}}"
    );
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    compile(&store, &CompileOptions::default(), None)
}

fn version(compiled: &Compiled) -> String {
    compiled.documents.values().next().expect("a document").version.clone()
}

fn fleet(has: &[(&str, u64)], refusal: Option<(&str, &str)>) -> BTreeMap<String, Fleet> {
    let refusal =
        refusal.map(|(node, error)| ProxyRejection { node: node.to_owned(), error: error.to_owned() });
    let has = has.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect();
    BTreeMap::from([("n/a".to_owned(), Fleet { has, refusal })])
}

fn counted(reports: &[Report], compiled: &Compiled) -> Tally {
    let reports = reports.iter().enumerate().map(|(i, r)| (i.to_string(), Arc::new(r.clone()))).collect();
    tally(&BTreeSet::from(["n/a".parse().expect("an identity")]), &reports, compiled)
}

#[test]
fn proxies_of_all_control_planes_count() {
    let compiled = compiled(1);
    let now = version(&compiled);
    let one = Report::of(fleet(&[(&now, 2), ("old", 1)], None), &compiled);
    let two = Report::of(fleet(&[(&now, 1), ("", 1)], Some(("b", "no"))), &compiled);
    let three = Report::of(fleet(&[(&now, 1)], Some(("a", &"x".repeat(1000)))), &compiled);
    assert_eq!(Report::read(&two.to_json()).as_ref(), Some(&two));
    let tally = counted(&[one, two, three], &compiled);
    assert_eq!((tally.current, tally.connected), (4, 6));
    let refusal = tally.refusal.expect("a refusal");
    assert_eq!((refusal.node.as_str(), refusal.error.len()), ("a", 300));
    assert_eq!(counted(&[], &compiled), Tally::default());
    // Of identities that no policy names nothing is said.
    assert_eq!(Report::of(fleet(&[("v", 1)], None), &Compiled::default()), Report::default());
}

/// Those that do not agree on a document come to the same result.
#[test]
fn control_planes_that_do_not_agree() {
    let (before, after) = (compiled(1), compiled(2));
    let (old, new) = (version(&before), version(&after));
    let behind = Report::of(fleet(&[(&old, 3)], None), &before);
    let ahead = Report::of(fleet(&[(&new, 1), (&old, 1)], None), &after);
    let reports = [behind, ahead];
    let tally = counted(&reports, &before);
    assert_eq!(tally, counted(&reports, &after));
    assert_eq!((tally.current, tally.connected), (1, 5));
    assert_eq!(tally.disputed.as_deref(), Some("n/a"));
}

#[test]
fn a_report_is_bounded() {
    let mut text = String::new();
    let mut fleets = BTreeMap::new();
    let name = |i: usize| format!("a{i:060}");
    for i in 0..8000 {
        text += &format!(
            "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: p{i}, namespace: n}}\n\
             spec: {{sources: [{{kind: ServiceAccount, name: {}, namespace: n}}], ports: [{{number: 1, protocol: tcp}}]}}\n",
            name(i)
        );
        fleets.insert(
            format!("n/{}", name(i)),
            Fleet { has: BTreeMap::from([("v".repeat(16), 1)]), refusal: None },
        );
    }
    let mut store = Store::default();
    store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
    let compiled = compile(&store, &CompileOptions::default(), None);
    let report = Report::of(fleets, &compiled);
    assert!(report.to_json().len() < 1 << 20, "{}", report.to_json().len());
    let reports = BTreeMap::from([(String::new(), Arc::new(report))]);
    let of = |name: &str| {
        let tally = tally(&BTreeSet::from([name.parse().expect("an identity")]), &reports, &compiled);
        (tally.connected, tally.uncounted)
    };
    assert_eq!(of(&format!("n/{}", name(0))), (1, false));
    assert_eq!(of(&format!("n/{}", name(7999))), (0, true));
}

fn map(name: &str, instance: &str, mark: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "data": { "instance": instance, "renewed": mark, "proxies": "{\"identities\":{}}" },
    }))
    .expect("an object")
}

fn names(peers: &PeerTracker, now: Instant) -> Option<Vec<String>> {
    peers.live_reports(now).map(|reports| reports.into_keys().collect())
}

fn following(now: Instant) -> PeerTracker {
    let mut peers = PeerTracker::new("own", "i");
    for event in [Event::Init, Event::InitApply(map("a", "1", "1")), Event::InitApply(map("b", "1", "1"))] {
        peers.apply_event(event, now);
        assert_eq!(names(&peers, now), None, "half a list says nothing");
    }
    peers.apply_event(Event::InitDone, now);
    peers
}

#[test]
fn the_silent_do_not_count_and_the_dead_are_removed() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut peers = following(start);
    assert_eq!(names(&peers, at(0)).expect("known"), ["a", "b"]);
    for second in (10..600).step_by(10) {
        peers.apply_event(Event::Apply(map("a", "1", &second.to_string())), at(second));
        if second <= 300 {
            // It comes again, as in a list, and is not new.
            peers.apply_event(Event::Apply(map("b", "1", "1")), at(second));
        }
        let expected = if second < 30 { &["a", "b"][..] } else { &["a"] };
        assert_eq!(names(&peers, at(second)).expect("known"), expected, "after {second} s");
        let dead = peers.take_expired(at(second));
        assert_eq!(dead, if second == 300 { vec!["b".to_owned()] } else { vec![] }, "after {second} s");
        if second == 290 {
            peers.apply_event(Event::Apply(map("c", "1", "1")), at(290));
            peers.apply_event(Event::Delete(map("c", "1", "1")), at(290));
        }
    }
}

/// While the API server is unavailable no report can be renewed.
#[test]
fn reports_are_written_without_peers() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut peers = following(start);
    peers.lose();
    assert_eq!(names(&peers, at(1)), None);
    assert!(peers.take_expired(at(1000)).is_empty());
    peers.apply_event(Event::Apply(map("a", "1", "2")), at(1000));
    assert_eq!(names(&peers, at(1001)).expect("known"), ["a", "b"]);
    assert_eq!(names(&peers, at(1030)).expect("known"), [""; 0]);
}

#[test]
fn a_name_must_be_one_s_own() {
    let now = Instant::now();
    let mut peers = following(now);
    // What a former process left behind.
    peers.apply_event(Event::Apply(map("own", "former", "7")), now);
    assert!(names(&peers, now).is_some());
    peers.apply_event(Event::Apply(map("own", "i", "1")), now);
    assert_eq!(names(&peers, now).expect("known"), ["a", "b"]);
    peers.apply_event(Event::Apply(map("own", "twin", "8")), now);
    assert_eq!(names(&peers, now), None);
}
