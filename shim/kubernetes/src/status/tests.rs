use std::collections::BTreeSet;

use serde_json::Value;

use super::super::replicas::Tally;
use super::*;
use egress_compile::manifest::{Kind as ObjectKind, ObjectRef, parse_value};
use egress_compile::store::{Change, FileUpdate, Store};
use egress_compile::{CompileOptions, compile};
use egress_core::proxies::ProxyRejection;

const NOW: &str = "2024-05-06T07:08:09Z";

/// The conditions of the policies with these specifications, which are named `n/p0`, `n/p1` and so on.
fn judged(specs: &[Value], others: &[(&str, &str, Value)]) -> BTreeMap<Key, Arc<PolicyConditions>> {
    let mut store = Store::default();
    let mut add = |api_version: &str, kind: ObjectKind, name: &str, spec: &Value| {
        let object = json!({
            "apiVersion": api_version, "kind": kind.as_str(), "spec": spec,
            "metadata": { "name": name, "namespace": "n", "generation": 1 },
        });
        let file = ObjectRef::new(kind, "n", name).to_string().into();
        let change = match parse_value(&file, object) {
            Ok(parsed) => Change::Read(parsed),
            Err(problems) => Change::Void(problems),
        };
        store.apply(FileUpdate { file, change });
    };
    for (i, spec) in specs.iter().enumerate() {
        add(EGRESS.1, ObjectKind::Egress, &format!("p{i}"), spec);
    }
    for (api_version, name, spec) in others {
        add(api_version, ObjectKind::UpstreamTrafficSetting, name, spec);
    }
    policy_conditions(&compile(&store, &CompileOptions::default(), None), &store)
}

fn spec(host: &str, settings: Option<&str>) -> Value {
    let settings =
        settings.map(|name| json!({ "apiGroup": EGRESS.1, "kind": "UpstreamTrafficSetting", "name": name }));
    let mut spec = json!({
        "sources": [{ "kind": "ServiceAccount", "name": "a", "namespace": "n" }],
        "hosts": [host], "ports": [{ "number": 80, "protocol": "http" }],
    });
    if let Some(settings) = settings {
        spec["matches"] = json!([settings]);
    }
    spec
}

fn desired(conditions: &Arc<PolicyConditions>, tally: Option<&Tally>) -> DesiredStatus {
    DesiredStatus { conditions: Arc::clone(conditions), programmed: tally.map(programmed) }
}

/// The object as an API server returns it after this status was written.
fn shown(desired: &DesiredStatus, before: &Observed, generation: i64) -> Observed {
    let status = desired.to_json(before, NOW);
    Observed {
        uid: "u".to_owned(),
        generation: Some(generation),
        conditions: status["conditions"].clone(),
        programmed: status["programmed"].as_str().map(str::to_owned),
    }
}

fn emitted_events(desired: &DesiredStatus, before: &Observed) -> Vec<String> {
    events::events_of_change(desired, before)
        .into_iter()
        .map(|event| format!("{} {}: {}", event.kind, event.reason, event.message))
        .collect()
}

fn blank(generation: i64) -> Observed {
    Observed { uid: "u".to_owned(), generation: Some(generation), ..Observed::default() }
}

fn key(name: &str) -> Key {
    ("n".to_owned(), name.to_owned())
}

#[test]
fn what_proxies_have_in_words() {
    let refusal = Some(ProxyRejection { node: "x.a.n".to_owned(), error: "no".to_owned() });
    let disputed = Some("n/a".to_owned());
    let tally = |current, connected| Tally { current, connected, ..Tally::default() };
    for (tally, status, reason, message, short) in [
        (tally(0, 0), "Unknown", "NoProxies", "no proxy of its sources is connected", "0/0"),
        (tally(2, 3), "False", "Waiting", "2 of 3 proxies have it", "2/3"),
        (tally(3, 3), "True", "Programmed", "3 of 3 proxies have it", "3/3"),
        (
            Tally { refusal, ..tally(2, 3) },
            "False",
            "Rejected",
            "2 of 3 proxies have it; `x.a.n` refused it: no",
            "2/3",
        ),
        (
            Tally { disputed, ..tally(3, 3) },
            "False",
            "Waiting",
            "3 of 3 proxies have it; control planes have different policies for n/a",
            "3/3",
        ),
        (
            Tally { uncounted: true, ..tally(3, 3) },
            "Unknown",
            "TooMany",
            "there are more identities than control planes can tell each other",
            "3/3",
        ),
    ] {
        let (condition, desired) = programmed(&tally);
        assert_eq!(
            (condition.status, condition.reason, &*condition.message, &*desired),
            (status, reason, message, short)
        );
    }
}

#[test]
fn a_reported_status_is_not_written_again() {
    let policy_conditions = judged(&[spec("a.org", None)], &[]);
    let conditions = &policy_conditions[&key("p0")];
    assert_eq!(conditions.sources.len(), 1);
    let all = Tally { current: 1, connected: 1, ..Tally::default() };
    let before = blank(1);
    let whole = desired(conditions, Some(&all));
    assert_eq!(whole.diff(&before), StatusDiff::Conditions);
    let after = shown(&whole, &before, 1);
    assert_eq!(whole.diff(&after), StatusDiff::Unchanged);
    let more = desired(conditions, Some(&Tally { connected: 2, ..all }));
    assert_eq!(more.diff(&after), StatusDiff::Programmed);
    // While it is not known what proxies have, what was desired of it stays.
    let unknown = desired(conditions, None);
    assert_eq!(unknown.diff(&after), StatusDiff::Unchanged);
    assert_eq!(shown(&unknown, &after, 1), after);
    // The moment stays while the conditions is the same.
    let later = more.to_json(&after, "2030-01-01T00:00:00Z");
    let moments: Vec<&Value> =
        later["conditions"].as_array().into_iter().flatten().map(|c| &c["lastTransitionTime"]).collect();
    assert_eq!(moments, [NOW, "2030-01-01T00:00:00Z"]);
}

#[test]
fn conflicts_name_their_field() {
    let settings = |connections: u32| json!({ "host": "a.org", "connectionSettings": { "tcp": { "maxConnections": connections } } });
    let policy_conditions = judged(
        &[spec("a.org", Some("s")), spec("a.org", Some("t"))],
        &[(EGRESS.1, "s", settings(1)), (EGRESS.1, "t", settings(2))],
    );
    assert_eq!(policy_conditions[&key("p0")].conflicts, None);
    let second = &policy_conditions[&key("p1")];
    let conflicts = second.conflicts.as_ref().expect("a conflict");
    assert_eq!(
        conflicts.message,
        "spec.matches[0]: cluster `a.org:80` uses the connection settings of policy `n/p0` instead of these"
    );
    assert_eq!((second.accepted.status, &*second.accepted.message), ("True", "1 rule"));
    // It is desired, and taken back when it is over.
    let before = blank(1);
    let after = shown(&desired(second, None), &before, 1);
    assert_eq!(desired(second, None).diff(&after), StatusDiff::Unchanged);
    assert_eq!(desired(&policy_conditions[&key("p0")], None).diff(&after), StatusDiff::Conditions);
}

#[test]
fn an_event_for_each_change_of_the_verdict() {
    let policy_conditions =
        judged(&[spec("a.org", None), spec("not a name", None), json!({ "ports": 1 })], &[]);
    let (good, bad) = (&policy_conditions[&key("p0")], &policy_conditions[&key("p1")]);
    let unreadable = desired(&policy_conditions[&key("p2")], None);
    assert_eq!(
        emitted_events(&desired(good, None), &blank(1)),
        [""; 0],
        "nothing is told of what is as it should be"
    );
    let emitted = emitted_events(&desired(bad, None), &blank(1));
    assert!(emitted[0].starts_with("Warning Invalid: 0 rules; spec.hosts[0]: "), "{emitted:?}");
    assert!(
        emitted_events(&unreadable, &blank(1))[0].starts_with("Warning Unreadable: spec."),
        "{unreadable:?}"
    );
    let wrong = shown(&desired(bad, None), &blank(1), 1);
    assert_eq!(emitted_events(&desired(bad, None), &wrong), [""; 0], "it is told once");
    assert_eq!(emitted_events(&desired(good, None), &wrong), ["Normal Accepted: 1 rule"]);
    let refused = Tally {
        connected: 1,
        refusal: Some(ProxyRejection { node: "x".to_owned(), error: "no".to_owned() }),
        ..Tally::default()
    };
    let fine = shown(&desired(good, None), &blank(1), 1);
    let rejected = desired(good, Some(&refused));
    assert_eq!(
        emitted_events(&rejected, &fine),
        ["Warning Rejected: 0 of 1 proxies have it; `x` refused it: no"]
    );
    assert_eq!(emitted_events(&rejected, &shown(&rejected, &fine, 1)), [""; 0]);
}

#[test]
fn an_object_over_a_budget_is_too_large() {
    let mut large = spec("a.org", None);
    large["ports"] = (1..=4097).map(|port| json!({ "number": port, "protocol": "tcp" })).collect();
    let policy_conditions = judged(&[large, spec("a.org", None)], &[]);
    let accepted = &policy_conditions[&key("p0")].accepted;
    assert_eq!((accepted.status, accepted.reason), ("False", "TooLarge"));
    assert_eq!(accepted.message, "0 rules; spec.ports: 4097 ports exceed the limit of 4096");
    assert_eq!(policy_conditions[&key("p1")].accepted.status, "True");
}

#[test]
fn the_names_of_events() {
    let name =
        |policy: &str, uid, generation, reason| events::event_name(policy, uid, Some(generation), reason);
    let one = name("p", "u", 1, "Invalid");
    assert_eq!(one, name("p", "u", 1, "Invalid"));
    let others = [name("p", "v", 1, "Invalid"), name("p", "u", 2, "Invalid"), name("p", "u", 1, "Accepted")];
    assert_eq!(BTreeSet::from(others.clone()).len(), 3);
    assert!(!others.contains(&one), "{others:?}");
    let long = name(&format!("{}.{}", "a".repeat(199), "b".repeat(50)), "u", 1, "Invalid");
    assert!(long.len() < 253 && !long.contains(".."), "{long}");
}

#[test]
fn events_are_bounded() {
    let start = Instant::now();
    let mut events = EventBudget::new(start);
    let mut made = |seconds| (0..1000).filter(|_| events.take(start + Duration::from_secs(seconds))).count();
    assert_eq!([made(0), made(1), made(3600)], [50, 5, 50]);
}

/// A thousand proxies that take a policy one after another make few writes.
#[tokio::test]
async fn what_changes_quickly_is_written_seldom() {
    let config = kube::Config::new("http://127.0.0.1:9".parse().expect("a URI"));
    let mut writer = StatusWriter::new(Client::try_from(config).expect("a client"));
    let known = judged(&[spec("a.org", None)], &[]);
    let mut observed = blank(1);
    let mut step = |now: Instant, current: u64| {
        let tally = Tally { current, connected: 1000, ..Tally::default() };
        let statuses: Statuses = Arc::new(BTreeMap::from([(key("p0"), Arc::new(observed.clone()))]));
        let (chosen, _) = writer.choose_writes(&known, &statuses, now, |_| Some(programmed(&tally)));
        let count = chosen.len();
        for StatusWrite { key, desired, before, events: _ } in chosen {
            observed = shown(&desired, &before, 1);
            writer.done.insert(key, WrittenStatus { desired, over: before, at: now });
        }
        (count, observed.programmed.clone().unwrap_or_default())
    };
    let start = Instant::now();
    let writes: usize = (0..=1000).map(|n| step(start + Duration::from_millis(5 * n), n).0).sum();
    assert!((3..=6).contains(&writes), "{writes} writes in 5 s");
    // What holds is written, and that is the last.
    let later: Vec<_> =
        (1..4).map(|n| step(start + Duration::from_secs(5) + WRITE_INTERVAL * n, 1000)).collect();
    assert_eq!(later.iter().map(|(count, _)| count).sum::<usize>(), 1, "{later:?}");
    assert_eq!(later[2].1, "1000/1000");
}
