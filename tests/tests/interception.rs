//! `osm-egress iptables` in real namespaces: the rules, and their effect on connections.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::control_plane::{self, ControlPlane};
use egress_tests::envoy::Envoy;
use egress_tests::netns::{Netns, Pod, PodForm, can_switch_uid, ensure_capable, find_tool};
use egress_tests::network::{
    ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, NAME_SERVER, TestNetwork,
};
use egress_tests::repository_root;
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload;

/// Open Service Mesh's table, as iptables-save prints it for one family.
const TABLE: [&str; 9] = [
    "-A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND",
    "-A OSM_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003",
    "-A OSM_PROXY_OUTBOUND ! -d LOOPBACK -o lo -m owner --uid-owner 1500 -j OSM_PROXY_IN_REDIRECT",
    "-A OSM_PROXY_OUTBOUND -o lo -m owner ! --uid-owner 1500 -j RETURN",
    "-A OSM_PROXY_OUTBOUND -m owner --uid-owner 1500 -j RETURN",
    "-A OSM_PROXY_OUTBOUND -d LOOPBACK -j RETURN",
    "-A OSM_PROXY_OUTBOUND -j OSM_PROXY_OUT_REDIRECT",
    "-A OSM_PROXY_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    "-A OSM_PROXY_OUT_REDIRECT -p tcp -m tcp --dport 15000 -j ACCEPT",
];

/// The two iptables backends.
const BACKENDS: [&str; 2] = ["nft", "legacy"];
/// The ports of the origins' echo servers.
const ECHO_PORTS: [u16; 11] = [9000, 9100, 9101, 9102, 9103, 9104, 9105, 9106, 9107, 9108, 9109];

fn prepare() -> Result<()> {
    ensure_capable()?;
    ensure!(can_switch_uid(), "rules that know Envoy by its uid need root");
    Ok(())
}

fn run(netns: &Netns, arguments: &[&str]) -> Result<Output> {
    Ok(netns.command(&control_plane::binary()?.to_string_lossy()).arg("iptables").args(arguments).output()?)
}

/// Runs `osm-egress iptables` and returns its output.
fn iptables(netns: &Netns, arguments: &[&str]) -> Result<String> {
    let output = run(netns, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The rules in force, without the lines of time and counters.
fn saved(netns: &Netns, tool: &str) -> Result<Vec<String>> {
    let path = find_tool(tool).with_context(|| format!("`{tool}` is missing"))?;
    let output = netns.command(&path.to_string_lossy()).output()?;
    ensure!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.map(|line| line.split(" [").next().unwrap_or_default().to_owned()).collect())
}

fn rules(netns: &Netns, tool: &str) -> Result<Vec<String>> {
    Ok(saved(netns, tool)?.into_iter().filter(|line| line.starts_with("-A")).collect())
}

fn table(loopback: &str) -> Vec<String> {
    TABLE.iter().map(|rule| rule.replace("LOOPBACK", loopback)).collect()
}

#[test]
fn the_rules_match_the_table_and_are_idempotent() -> Result<()> {
    prepare()?;
    for backend in BACKENDS {
        let netns = Netns::new()?;
        let flags = ["--backend", backend];
        let message = iptables(&netns, &flags)?;
        ensure!(
            message.contains("IPv4: intercepted (") && message.contains("IPv6: intercepted ("),
            "{message}"
        );
        for (tool, loopback) in [("iptables", "127.0.0.1/32"), ("ip6tables", "::1/128")] {
            let found = rules(&netns, &format!("{tool}-{backend}-save"))?;
            ensure!(found == table(loopback), "{tool} {backend}: {found:#?}");
        }
        let message = iptables(&netns, &flags)?;
        ensure!(message.matches("intercepted already").count() == 2, "{message}");
        for (tool, loopback) in [("iptables", "127.0.0.1/32"), ("ip6tables", "::1/128")] {
            ensure!(rules(&netns, &format!("{tool}-{backend}-save"))? == table(loopback));
        }
    }
    Ok(())
}

#[test]
fn the_printed_rules_are_the_installed_ones() -> Result<()> {
    prepare()?;
    let lists = [
        "--exclude-ports",
        "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
        "--exclude-cidrs",
        "10.1.2.3/8,fd00::/8,192.0.2.1",
        "--include-cidrs",
        "0.0.0.0/0,2000::/3",
        "--exclude-interfaces",
        "tun+,net1",
        "--inbound-port",
        "15003",
        "--exclude-inbound-ports",
        "5,6",
    ];
    let netns = Netns::new()?;
    // As an ordinary user may ask too.
    let printed = iptables(&netns, &[&lists[..], &["--dry-run"]].concat())?;
    ensure!(saved(&netns, "iptables-save")?.is_empty(), "it installed something");
    let (four, six) = printed.split_once("# IPv6\n").context("no rules for IPv6")?;
    iptables(&netns, &lists)?;
    for (printed, tool) in [(four, "iptables-save"), (six, "ip6tables-save")] {
        let mut printed: Vec<_> =
            printed.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect();
        let mut found = rules(&netns, tool)?;
        ensure!(found.iter().filter(|rule| rule.contains("multiport")).count() == 3, "{found:#?}");
        printed.sort();
        found.sort();
        ensure!(found == printed, "{tool}: {found:#?}\nnot\n{printed:#?}");
    }
    // Other lists replace the default, and so does an empty one.
    iptables(&netns, &["--exclude-ports", "1"])?;
    ensure!(rules(&netns, "iptables-save")?.len() == TABLE.len() + 1);
    iptables(&netns, &[])?;
    ensure!(rules(&netns, "iptables-save")? == table("127.0.0.1/32"));
    Ok(())
}

#[test]
fn removal_restores_the_previous_rules() -> Result<()> {
    prepare()?;
    for backend in BACKENDS {
        let netns = Netns::new()?;
        for tool in ["iptables", "ip6tables"] {
            for rule in [
                "-t nat -N FOREIGN",
                "-t nat -A OUTPUT -p tcp --dport 53 -j FOREIGN",
                "-t nat -A FOREIGN -m comment --comment OSM_PROXY_OUTBOUND -j RETURN",
                "-t filter -A OUTPUT -p udp --dport 443 -j DROP",
            ] {
                netns.tool(&format!("{tool}-{backend}"), rule)?;
            }
        }
        let tools = [format!("iptables-{backend}-save"), format!("ip6tables-{backend}-save")];
        let before = [saved(&netns, &tools[0])?, saved(&netns, &tools[1])?];
        iptables(&netns, &["--backend", backend, "--inbound-port", "15003"])?;
        for (tool, before) in tools.iter().zip(&before) {
            let now = saved(&netns, tool)?;
            ensure!(before.iter().all(|line| now.contains(line)), "{tool}: {now:#?}");
            ensure!(now.len() > before.len(), "{tool}: nothing was installed");
        }
        // Rules added by hand, twice: both are removed.
        netns.tool(&format!("iptables-{backend}"), "-t nat -A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND")?;
        iptables(&netns, &["--backend", backend, "--remove"])?;
        for (tool, before) in tools.iter().zip(&before) {
            let now = saved(&netns, tool)?;
            ensure!(now == *before, "{tool}: {now:#?}\nnot\n{before:#?}");
        }
        let message = iptables(&netns, &["--backend", backend, "--remove"])?;
        ensure!(message.matches("not intercepted").count() == 2, "{message}");
    }
    Ok(())
}

/// A pod without a sidecar: intercepted connections fail, all others get through.
struct BarePod<'n> {
    pod: &'n Pod,
}

impl BarePod<'_> {
    fn is_reachable(&self, ip: IpAddr, port: u16) -> Result<bool> {
        match self.pod.workload().run(|| client::exchange(SocketAddr::new(ip, port), b"hello"))? {
            Outcome::Bytes(bytes) if bytes == b"hello" => Ok(true),
            Outcome::Refused(_) => Ok(false),
            other => bail!("{ip}:{port}: {other:?}"),
        }
    }

    /// Requires that connections to exactly these of the six addresses get through, at a port.
    fn expect_reachable(&self, port: u16, through: &[IpAddr]) -> Result<()> {
        for ip in [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6] {
            let found = self.is_reachable(ip, port)?;
            ensure!(found == through.contains(&ip), "{ip}:{port} gets through: {found}");
        }
        Ok(())
    }

    fn install(&self, arguments: &[&str]) -> Result<&Self> {
        iptables(&self.pod.sidecar, arguments)?;
        Ok(self)
    }
}

fn with_bare_pod(test: impl FnOnce(&BarePod<'_>) -> Result<()>) -> Result<()> {
    prepare()?;
    let network = TestNetwork::new()?;
    let pod = network.outside.pod(PodForm::Shared)?;
    test(&BarePod { pod: &pod })
}

const ALL_ADDRESSES: [IpAddr; 6] = [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6];

#[test]
fn exclusions_alone_bypass_the_sidecar() -> Result<()> {
    with_bare_pod(|bare_pod| {
        bare_pod.install(&[])?.expect_reachable(9000, &[])?;
        // Blocks, of either family.
        bare_pod.install(&["--exclude-cidrs", "203.0.113.10/32,2001:db8:66::/48"])?;
        bare_pod.expect_reachable(9000, &[HTTPBIN, ELSEWHERE6])?;
        // More ports than one rule holds.
        let some: Vec<String> =
            (1..=20).chain(ECHO_PORTS[1..8].iter().copied()).map(|port| port.to_string()).collect();
        bare_pod.install(&["--exclude-ports", &some.join(",")])?;
        for port in ECHO_PORTS {
            for ip in [HTTPBIN, HTTPBIN6] {
                let found = bare_pod.is_reachable(ip, port)?;
                ensure!(found == some.contains(&port.to_string()), "{ip}:{port} gets through: {found}");
            }
        }
        // Interfaces.
        bare_pod.install(&["--exclude-interfaces", "eth1"])?.expect_reachable(9000, &[])?;
        bare_pod.install(&["--exclude-interfaces", "eth1,eth+"])?.expect_reachable(9000, &ALL_ADDRESSES)?;
        bare_pod.install(&[])?.expect_reachable(9000, &[])?;
        bare_pod.install(&["--remove"])?.expect_reachable(9000, &ALL_ADDRESSES)
    })
}

#[test]
fn inclusions_alone_are_intercepted() -> Result<()> {
    with_bare_pod(|bare_pod| {
        bare_pod.install(&["--include-cidrs", "203.0.113.0/24,2001:db8:0:1::20/128"])?;
        bare_pod.expect_reachable(9000, &[ELSEWHERE, HTTPBIN6, ELSEWHERE6])?;
        // An exclusion comes first.
        bare_pod.install(&[
            "--include-cidrs",
            "203.0.113.0/24,2000::/3",
            "--exclude-cidrs",
            "203.0.113.20/32",
        ])?;
        bare_pod.expect_reachable(9000, &[ELSEWHERE, EXAMPLE])?;
        // A list of one family leaves the other out.
        bare_pod
            .install(&["--include-cidrs", "0.0.0.0/0"])?
            .expect_reachable(9000, &[HTTPBIN6, EXAMPLE6, ELSEWHERE6])
    })
}

#[test]
fn one_family_can_be_intercepted_alone() -> Result<()> {
    with_bare_pod(|bare_pod| {
        bare_pod.install(&["--remove"])?;
        bare_pod
            .install(&["--ip-families", "ipv4"])?
            .expect_reachable(9000, &[HTTPBIN6, EXAMPLE6, ELSEWHERE6])
    })
}

/// The sidecar's own connections go out, but not to its own pod; connections within the pod are not
/// intercepted.
#[test]
fn the_sidecars_own_connections_are_not_intercepted() -> Result<()> {
    with_bare_pod(|bare_pod| {
        let pod = bare_pod.pod;
        let own = SocketAddr::new(pod.address.into(), 7000);
        let listener = pod.sidecar.run(|| std::net::TcpListener::bind("[::]:7000"))??;
        let by = |sidecar: bool, to: SocketAddr| -> Result<bool> {
            let mut command = if sidecar { pod.sidecar_command("curl") } else { pod.sidecar.command("curl") };
            let output =
                command.args(["-s", "-m", "2", "-o", "/dev/null"]).arg(format!("telnet://{to}")).output()?;
            // 28: connected without an answer; 7: refused.
            match output.status.code() {
                Some(0 | 28) => Ok(true),
                Some(7) => Ok(false),
                code => bail!("curl: {code:?}"),
            }
        };
        for outside in [SocketAddr::new(HTTPBIN, 9000), SocketAddr::new(HTTPBIN6, 9000)] {
            ensure!(by(true, outside)? && !by(false, outside)?, "{outside}");
        }
        ensure!(!by(true, own)?, "the sidecar got to its own pod");
        for inside in [own, SocketAddr::from(([127, 0, 0, 1], 7000)), "[::1]:7000".parse()?] {
            ensure!(by(false, inside)?, "{inside}");
        }
        drop(listener);
        Ok(())
    })
}

/// The warning of docs/compose.md and docs/plain-envoy.md: root, as container runtimes create it, may become
/// uid 1500, and is then not intercepted. Without `CAP_SETUID` it may not. The project's containers have no
/// capability at all.
#[test]
fn only_cap_setuid_can_take_the_sidecars_uid() -> Result<()> {
    with_bare_pod(|bare_pod| {
        bare_pod.install(&[])?;
        let to = format!("telnet://{}", SocketAddr::new(HTTPBIN, 9000));
        let by = |bounds: &str| -> Result<Output> {
            let mut command = bare_pod.pod.workload().command("setpriv");
            command.args(["--bounding-set", bounds, "--inh-caps", bounds, "--"]);
            command.args(["setpriv", "--reuid", "1500", "--clear-groups", "curl", "-sv", "-m", "1"]);
            Ok(command.arg(&to).output()?)
        };
        let output = by("-net_admin")?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(message.contains("Connected to 203.0.113.10"), "{message}");
        let output = by("-setuid,-setgid")?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && message.contains("Operation not permitted"), "{message}");
        ensure!(!message.contains("Connected to"), "{message}");
        for name in ["docs/compose.md", "docs/plain-envoy.md"] {
            let text = fs::read_to_string(repository_root().join(name))?;
            ensure!(text.contains("`CAP_SETUID`") && text.contains("1500"), "{name} does not say so");
        }
        let compose = fs::read_to_string(repository_root().join("docker-compose.yml"))?;
        ensure!(compose.contains("cap_drop: [ALL]") && !compose.contains("SETUID"), "docker-compose.yml");
        let services = compose.matches("\n  <<: *locked").count();
        // `x-init`, `x-sidecar`, `x-workload`, `x-origin`; and the control plane, which is written out.
        ensure!(services == 4 && compose.contains("\n  shim:\n    <<: *locked"), "docker-compose.yml");
        Ok(())
    })
}

#[test]
fn failures_name_the_remedy() -> Result<()> {
    prepare()?;
    let netns = Netns::new()?;
    let failure = |output: Output| -> Result<String> {
        ensure!(output.status.code() == Some(1), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    // Without the capability.
    let binary = control_plane::binary()?;
    let without = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let message = failure(netns.command("setpriv").args(without).arg(&binary).arg("iptables").output()?)?;
    ensure!(message.starts_with("error: the capability NET_ADMIN is missing: run this as root"), "{message}");

    // IPv6 tools that fail as on a machine without IPv6: neither family's rules change.
    let folder = tempfile::tempdir()?;
    for tool in ["ip6tables-save", "ip6tables-nft-save", "ip6tables-legacy-save"] {
        let path = folder.path().join(tool);
        fs::write(&path, "#!/bin/sh\necho \"can't initialize table 'nat'\" >&2\nexit 3\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH")?);
    let with_path = |arguments: &[&str]| -> Result<Output> {
        let mut command: Command = netns.command(&binary.to_string_lossy());
        Ok(command.arg("iptables").args(arguments).env("PATH", &path).output()?)
    };
    let message = failure(with_path(&[])?)?;
    let expected = "error: IPv6 cannot be intercepted: if nothing can leave over IPv6, pass `--ip-families ipv4`: \
                    ip6tables-save: can't initialize table 'nat' (exit status: 3)";
    ensure!(message.trim() == expected, "{message}");
    ensure!(rules(&netns, "iptables-save")?.is_empty(), "half of it was installed");
    ensure!(with_path(&["--ip-families", "ipv4"])?.status.success());

    // Senseless values are usage errors.
    for arguments in [
        &["--exclude-ports", "0"][..],
        &["--exclude-cidrs", "10.0.0.0/33"],
        &["--exclude-interfaces", "+"],
        &["--exclude-interfaces", "eth0 -j ACCEPT"],
        &["--exclude-inbound-ports", "1"],
        &["--dry-run", "--remove"],
        &["--proxy-uid", "0"],
    ] {
        ensure!(run(&netns, arguments)?.status.code() == Some(2), "{arguments:?}");
    }
    Ok(())
}

/// If Envoy already runs as another user, the rules are not installed, and the error names the remedy.
#[test]
fn a_listener_of_another_user_prevents_installation() -> Result<()> {
    prepare()?;
    let netns = Netns::new()?;
    let as_root = netns.run(|| std::net::TcpListener::bind("127.0.0.1:15001"))??;
    for arguments in [&[][..], &["--ip-families", "ipv4"]] {
        let output = run(&netns, arguments)?;
        let message = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1), "{message}");
        for part in ["error: uid 0 listens on port 15001", "connections of uid 1500 alone", "not as root"] {
            ensure!(message.contains(part), "{message}");
        }
    }
    ensure!(rules(&netns, "iptables-save")?.is_empty(), "rules were installed");
    // Another port, `print` and removal are not affected.
    iptables(&netns, &["--outbound-port", "15002"])?;
    iptables(&netns, &["--dry-run"])?;
    iptables(&netns, &["--remove"])?;
    drop(as_root);
    iptables(&netns, &[])?;
    ensure!(rules(&netns, "iptables-save")? == table("127.0.0.1/32"));
    Ok(())
}

/// An Envoy that runs as another uid than the exempt one gets its own connections back, each of which would
/// open another one. Envoy refuses them after a few rounds, logs the reason, and keeps running.
#[test]
fn an_envoy_that_intercepts_itself_refuses_and_survives() -> Result<()> {
    prepare()?;
    for (workers, global) in [(1, false), (4, false), (1, true)] {
        expect_loop_refused(workers, global)
            .with_context(|| format!("{workers} workers, global egress: {global}"))?;
    }
    Ok(())
}

fn expect_loop_refused(workers: u32, global: bool) -> Result<()> {
    let network = TestNetwork::new()?;
    network.global_egress(global)?;
    network.write("web.yaml", POLICIES)?;
    let pod = network.outside.pod(PodForm::Shared)?;
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
    let flags = ["--dns-resolver", &name_server];
    let _control_plane = ControlPlane::start(&pod.sidecar, loopback, network.manifests.path(), &flags)?;
    let xds = SocketAddr::new(loopback, 15128).to_string();
    let config = sidecar::bootstrap_with("curl/curl", false, &["--xds", &xds])?;
    let mut envoy = Envoy::start_as_workload(&pod, &config, workers)?;
    wait_for("a policy", Duration::from_secs(10), || {
        envoy.admin("/config_dump?resource=ecds_filters").is_ok_and(|dump| dump.contains("curl"))
    })?;
    let mut accepted = 0;
    for (what, attempt) in [
        ("TCP", Attempt::Tcp(SocketAddr::new(HTTPBIN, 9000))),
        ("TLS", Attempt::Tls(SocketAddr::new(HTTPBIN, 443))),
        ("HTTP", Attempt::Http(SocketAddr::new(HTTPBIN, 80))),
    ] {
        let outcome = attempt.make(&pod)?;
        match &outcome {
            Outcome::Closed | Outcome::Refused(_) => {}
            Outcome::Http(answer) if answer.status >= 400 => {}
            Outcome::Bytes(bytes) if bytes.is_empty() => {}
            other => bail!("{what}: {other:?}"),
        }
        let calm = wait_for("all to be closed", Duration::from_secs(10), || {
            // Connections of HTTP are kept for the next request.
            what == "HTTP" && envoy.stat("listener_manager.total_listeners_active").is_ok()
                || envoy.stat("listener.0.0.0.0_15001.downstream_cx_active").is_ok_and(|active| active == 0)
        });
        ensure!(envoy.exited().is_none(), "{what}: Envoy ended: {}", envoy.log());
        calm.with_context(|| format!("{what}: {outcome:?}"))?;
        let all = envoy.stat("listener.0.0.0.0_15001.downstream_cx_total")?;
        println!(
            "{workers} workers, global egress {global}, {what}: {} connections, {outcome:?}",
            all - accepted
        );
        ensure!(all - accepted < 200 * u64::from(workers), "{what}: {} connections", all - accepted);
        accepted = all;
        wait_for("the reason", Duration::from_secs(5), || {
            envoy.access_log().iter().any(|line| line["reason"] == "self-intercepted")
        })
        .with_context(|| format!("{what}: {}", envoy.log_tail(5)))?;
    }
    let log = envoy.log();
    ensure!(log.contains("runs as another user than the one whose connections are left alone"), "{log}");
    Ok(())
}

/// An attempt of a workload whose Envoy intercepts itself.
enum Attempt {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Http(SocketAddr),
}

impl Attempt {
    fn make(&self, pod: &Pod) -> Result<Outcome> {
        match self {
            Self::Tcp(to) => pod.workload().run(|| client::exchange(*to, b"hello")),
            Self::Tls(to) => workload::get_tls(pod, *to, Some("httpbin.org")),
            Self::Http(to) => workload::get(pod, *to, "httpbin.org", "/get"),
        }
    }
}

const POLICIES: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: web, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ports: [{number: 80, protocol: http}, {number: 443, protocol: https}]
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: echo, namespace: curl}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  ipAddresses: [203.0.113.10/32]
  ports: [{number: 9000, protocol: tcp}]
";
