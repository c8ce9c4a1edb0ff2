use std::rc::Rc;

use egress_policy::contract::{filter_state, log_field};

use super::*;
use crate::fake_host::{FakeHost, config, scope};
use crate::tick::StreamAction;

fn connect(rules: &str, mode: &str, to: &str) -> NetworkFilter<FakeHost> {
    let host = FakeHost { original_destination: to.parse().ok(), ..FakeHost::default() };
    NetworkFilter::new(host, 1, Some(plugin(mode, rules)))
}

fn plugin(mode: &str, rules: &str) -> PluginHandle {
    PluginHandle { scope: scope("network", mode, rules), is_ticking: Rc::default() }
}

fn scope_of(connection: &NetworkFilter<FakeHost>) -> Rc<Scope> {
    Rc::clone(&connection.plugin.as_ref().expect("a plugin").scope)
}

/// Does the root's work of a tick.
fn tick(connection: &NetworkFilter<FakeHost>, now: u64) -> Vec<StreamAction> {
    let scope = scope_of(connection);
    let plan = scope.plan_tick(now);
    for action in &plan.actions {
        end_wait(&connection.host, &scope, action.key, action.kind);
    }
    plan.actions
}

fn outcome(connection: &NetworkFilter<FakeHost>, action: FilterAction) -> String {
    let fake = &connection.host;
    let cluster = fake.state.borrow().get(filter_state::TCP_CLUSTER).cloned().unwrap_or_default();
    let state = fake.state.borrow();
    let name = state.get(filter_state::DYNAMIC_HOST).or(state.get(filter_state::EXACT_NAME));
    let host = name.cloned().unwrap_or_default();
    let port = fake.state.borrow().get(filter_state::DYNAMIC_PORT).cloned().unwrap_or_default();
    let decision = fake.log_field(log_field::DECISION.column);
    format!("{action:?} closed={} {decision} cluster={cluster} {host}:{port}", fake.closed.get())
}

const RULES: &str = r#"[
    {"policy":"a/tcp","name":"n","port":22,"protocol":"tcp"},
    {"policy":"a/tls","name":"n","port":443,"protocol":"https","hosts":["a.org"]},
    {"policy":"a/web","name":"n","port":80,"protocol":"http","hosts":["a.org"]}]"#;

#[test]
fn the_original_destination_decides_where_it_is_enough() {
    for (mode, to, expected) in [
        ("enforce", "1.2.3.4:22", "Continue closed=false allow rule a/tcp n cluster=egress-original-dst :"),
        ("enforce", "1.2.3.4:25", "Pause closed=true deny no-rule - - cluster= :"),
        ("enforce", "1.2.3.4:15001", "Pause closed=true deny not-intercepted - - cluster= :"),
        ("passthrough", "1.2.3.4:15001", "Pause closed=true deny not-intercepted - - cluster= :"),
        ("enforce", "nothing", "Pause closed=true deny not-intercepted - - cluster= :"),
        ("passthrough", "1.2.3.4:25", "Continue closed=false allow passthrough - - cluster= :"),
        (
            "audit",
            "1.2.3.4:25",
            "Continue closed=false allow audit - - no-rule cluster=egress-original-dst :",
        ),
        ("enforce", "1.2.3.4:443", "Pause closed=false  cluster= :"),
    ] {
        let mut connection = connect(RULES, mode, to);
        let action = connection.on_new_connection();
        assert_eq!(outcome(&connection, action), expected, "{mode} {to}");
    }
}

#[test]
fn without_a_policy_everything_is_refused() {
    let mut connection = NetworkFilter::new(
        FakeHost { original_destination: "1.2.3.4:22".parse().ok(), ..FakeHost::default() },
        1,
        None,
    );
    let action = connection.on_new_connection();
    assert_eq!(outcome(&connection, action), "Pause closed=true deny policy-invalid - - cluster= :");
    assert_eq!(connection.on_data(10, false), FilterAction::Pause);
}

#[test]
fn the_first_bytes_decide_in_any_segmentation() {
    let hello = |name: &str| hello_for(name);
    for (case, to, bytes, expected) in [
        (
            "allowed",
            "1.2.3.4:443",
            hello("a.org"),
            "Continue closed=false allow rule a/tls n cluster=egress-dns a.org:443",
        ),
        ("refused", "1.2.3.4:443", hello("b.org"), "Pause closed=true deny sni-not-allowed - - cluster= :"),
        (
            "plaintext",
            "1.2.3.4:443",
            b"GET / HTTP/1.1
"
            .to_vec(),
            "Pause closed=true deny tls-required - - cluster= :",
        ),
        ("http", "1.2.3.4:80", b"G".to_vec(), "Continue closed=false  cluster=egress-http :"),
        (
            "cut off",
            "1.2.3.4:443",
            hello("a.org")[..20].to_vec(),
            "Pause closed=true deny tls-malformed - - cluster= :",
        ),
        ("nothing", "1.2.3.4:443", vec![], "Pause closed=true deny tls-malformed - - cluster= :"),
    ] {
        // All at once, and byte by byte; Envoy keeps what a plugin waits on in its buffer.
        for step in [bytes.len().max(1), 1] {
            let mut connection = connect(RULES, "enforce", to);
            assert_eq!(connection.on_new_connection(), FilterAction::Pause, "{case}");
            let mut action = FilterAction::Pause;
            for part in bytes.chunks(step) {
                connection.host.buffer.borrow_mut().extend_from_slice(part);
                let length = connection.host.buffer.borrow().len();
                action = connection.on_data(length, false);
            }
            if action == FilterAction::Pause && !connection.host.closed.get() {
                action = connection.on_data(bytes.len(), true);
            }
            assert_eq!(outcome(&connection, action), expected, "{case}, {step} bytes at a time");
        }
    }
}

#[test]
fn a_connection_that_cannot_be_steered_is_closed() {
    for (to, bytes) in
        [("1.2.3.4:22", vec![]), ("1.2.3.4:443", hello_for("a.org")), ("1.2.3.4:80", b"GET".to_vec())]
    {
        let mut connection = connect(RULES, "enforce", to);
        connection.host.rejects_filter_state = true;
        if connection.on_new_connection() == FilterAction::Pause && !connection.host.closed.get() {
            connection.host.buffer.borrow_mut().extend_from_slice(&bytes);
            assert_eq!(connection.on_data(bytes.len(), false), FilterAction::Pause, "{to}");
        }
        assert!(connection.host.closed.get(), "{to}");
    }
}

#[test]
fn a_connection_without_first_bytes_times_out() {
    for (mode, to, expected) in [
        ("enforce", "1.2.3.4:443", "Pause closed=true deny first-bytes-timeout - - cluster= :"),
        ("enforce", "1.2.3.4:80", "Pause closed=true deny first-bytes-timeout - - cluster= :"),
        (
            "audit",
            "1.2.3.4:443",
            "Continue closed=false allow audit - - first-bytes-timeout cluster=egress-original-dst :",
        ),
    ] {
        let mut connection = connect(RULES, mode, to);
        connection.host.now.set(100);
        assert_eq!(connection.on_new_connection(), FilterAction::Pause);
        assert_eq!(connection.host.tick_period.get(), Some(std::time::Duration::from_millis(250)), "{to}");
        // Half a hello helps nobody.
        connection.host.buffer.borrow_mut().extend_from_slice(&hello_for("a.org")[..20]);
        if to.ends_with("443") {
            assert_eq!(connection.on_data(20, false), FilterAction::Pause);
        }
        assert_eq!(tick(&connection, 5099), []);
        assert!(scope_of(&connection).plan_tick(5099).next.is_some());
        assert_eq!(tick(&connection, 5100).len(), 1);
        assert_eq!(connection.host.resumed.get(), mode == "audit");
        let action = connection.on_data(40, false);
        assert_eq!(outcome(&connection, action), expected, "{mode} {to}");
        assert_eq!(tick(&connection, u64::MAX), [], "once is enough");
    }
}

#[test]
fn the_newest_policy_decides_a_pending_connection() {
    let name = |host: &str| {
        format!(r#"[{{"policy":"a/new","name":"n","port":443,"protocol":"https","hosts":["{host}"]}}]"#)
    };
    let tcp = r#"[{"policy":"a/tcp","name":"n","port":443,"protocol":"tcp"}]"#.to_owned();
    for (mode, rules, at_the_tick, then) in [
        // Nothing to say yet, and then the new rules count.
        ("enforce", name("a.org"), "", "allow rule a/new n cluster=egress-dns a.org:443"),
        ("enforce", name("b.org"), "", "deny sni-not-allowed - - cluster= :"),
        ("audit", "[]".to_owned(), "allow audit - - no-policy cluster=egress-original-dst :", ""),
        // Decided without first bytes.
        ("enforce", "[]".to_owned(), "deny no-policy - - cluster= :", ""),
        ("enforce", tcp.clone(), "allow rule a/tcp n cluster=egress-original-dst :", ""),
        ("passthrough", "[]".to_owned(), "allow passthrough - - cluster= :", ""),
    ] {
        for ticks in [true, false] {
            let mut connection = connect(RULES, "enforce", "1.2.3.4:443");
            assert_eq!(connection.on_new_connection(), FilterAction::Pause);
            let hello = hello_for("a.org");
            connection.host.buffer.borrow_mut().extend_from_slice(&hello);
            assert_eq!(connection.on_data(20, false), FilterAction::Pause);
            scope_of(&connection).renew(&config("network", mode, &rules), 0);
            if ticks {
                let _ = tick(&connection, 1);
                assert!(outcome(&connection, FilterAction::Pause).contains(at_the_tick), "{mode} {rules}");
                assert_eq!(connection.host.resumed.get(), at_the_tick.starts_with("allow"));
            }
            let action = connection.on_data(hello.len(), false);
            let expected = if then.is_empty() { at_the_tick } else { then };
            let found = outcome(&connection, action);
            assert!(found.contains(expected), "{mode} {rules}: {found}");
        }
    }
}

#[test]
fn the_newest_policy_decides_a_time_out() {
    for (before, after, expected) in [
        ("enforce", "audit", "allow audit - - first-bytes-timeout cluster=egress-original-dst"),
        ("audit", "enforce", "Pause closed=true deny first-bytes-timeout"),
    ] {
        let mut connection = connect(RULES, before, "1.2.3.4:443");
        assert_eq!(connection.on_new_connection(), FilterAction::Pause);
        scope_of(&connection).renew(&config("network", after, RULES), 0);
        assert_eq!(tick(&connection, 1), []);
        assert_eq!(tick(&connection, 5000).len(), 1);
        let action = connection.on_data(0, false);
        let found = outcome(&connection, action);
        assert!(found.contains(expected), "{before} to {after}: {found}");
    }
}

#[test]
fn the_oldest_of_too_many_pending_connections_is_evicted() {
    use crate::pending_connections::{MAX_PENDING, MAX_PENDING_BYTES};
    let plugin = plugin("enforce", RULES);
    let connect = |id: u32, now: u64| {
        let host = FakeHost { original_destination: "1.2.3.4:443".parse().ok(), ..FakeHost::default() };
        host.now.set(now);
        let mut connection = NetworkFilter::new(host, id, Some(plugin.clone()));
        assert_eq!(connection.on_new_connection(), FilterAction::Pause);
        connection
    };
    let excess = || plugin.scope.pending.excess();
    let most = u32::try_from(MAX_PENDING).expect("few");
    let mut connections: Vec<_> = (0..most).map(|id| connect(id, 100)).collect();
    assert_eq!(excess(), []);
    connections.remove(5);
    connections.extend([connect(most, 100), connect(most + 1, 100), connect(most + 2, 100)]);
    let newest = connections.last().expect("many");
    assert_eq!(*newest.host.selected.borrow(), [0, 1, most + 2], "the oldest, and itself again");
    let evicted = excess();
    assert_eq!(evicted.iter().map(|action| action.id).collect::<Vec<_>>(), [0, 1]);
    for action in &evicted {
        let connection = &connections[usize::try_from(action.id).expect("few")];
        end_wait(&connection.host, &plugin.scope, action.key, action.kind);
        assert!(outcome(connection, FilterAction::Pause).contains("closed=true deny too-many-pending"));
    }
    assert_eq!(excess(), [], "they wait no more, and are about to end");
    drop(connections.drain(..2));

    // Fewer that hold much.
    let mut hello = hello_for("a.org");
    hello[3..9].copy_from_slice(&[0x40, 0, 1, 0, 0x3f, 0xfc]);
    hello.resize(16000, 0);
    let big = MAX_PENDING_BYTES / hello.len() + 1;
    for connection in &mut connections[10..10 + big] {
        connection.host.buffer.borrow_mut().extend_from_slice(&hello);
        assert_eq!(connection.on_data(hello.len(), false), FilterAction::Pause);
    }
    let evicted = excess();
    assert_eq!(evicted.iter().map(|action| action.id).collect::<Vec<_>>(), [13], "not who holds nothing");
    connections.clear();
    assert!(excess().is_empty() && plugin.scope.plan_tick(u64::MAX).next.is_none());
}

#[test]
fn a_name_without_address_is_logged_as_unresolved() {
    for (no_upstream, expected) in [(false, "allow rule a/tls n"), (true, "deny name-unresolved a/tls n")] {
        let mut connection = connect(RULES, "enforce", "1.2.3.4:443");
        connection.host.no_upstream = no_upstream;
        let _ = connection.on_new_connection();
        connection.host.buffer.borrow_mut().extend_from_slice(&hello_for("a.org"));
        let length = connection.host.buffer.borrow().len();
        assert_eq!(connection.on_data(length, false), FilterAction::Continue);
        connection.on_close();
        assert_eq!(connection.host.log_field("decision"), expected);
    }
}

/// Makes a minimal ClientHello.
fn hello_for(name: &str) -> Vec<u8> {
    let vector16 = |data: &[u8]| [&u16::try_from(data.len()).expect("short").to_be_bytes(), data].concat();
    let name = vector16(&[vec![0], vector16(name.as_bytes())].concat());
    let extensions = vector16(&[vec![0, 0], vector16(&name)].concat());
    let body = [vec![3, 3], vec![0; 33], vec![0, 2, 0x13, 1, 1, 0], extensions].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [vec![22, 3, 1], vector16(&message)].concat()
}
