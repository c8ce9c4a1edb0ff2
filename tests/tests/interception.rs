//! `osm-egress iptables`, in real namespaces: the rules, and what they do to connections.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use egress_tests::client::{self, Outcome};
use egress_tests::envoy::Envoy;
use egress_tests::mesh::{
    self, ELSEWHERE, ELSEWHERE6, EXAMPLE, EXAMPLE6, HTTPBIN, HTTPBIN6, NAME_SERVER, World,
};
use egress_tests::netns::{Form, Netns, Pod, ensure_capable, has_uids, which};
use egress_tests::shim::{self, Shim};
use egress_tests::wait::wait_for;

/// Open Service Mesh's table, as iptables-save prints it, with the addresses of a family.
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

/// The two that there are.
const BACKENDS: [&str; 2] = ["nft", "legacy"];
/// Echo servers of the origins.
const ECHO: [u16; 11] = [9000, 9100, 9101, 9102, 9103, 9104, 9105, 9106, 9107, 9108, 9109];

fn prepare() -> Result<()> {
    ensure_capable()?;
    ensure!(has_uids(), "rules that know Envoy by its uid need root");
    Ok(())
}

fn run(netns: &Netns, arguments: &[&str]) -> Result<Output> {
    Ok(netns.command(&shim::binary()?.to_string_lossy()).arg("iptables").args(arguments).output()?)
}

/// Runs it, and gives what it printed.
fn iptables(netns: &Netns, arguments: &[&str]) -> Result<String> {
    let output = run(netns, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Everything that is in force, without the lines that say when it was asked for and how much was counted.
fn saved(netns: &Netns, tool: &str) -> Result<Vec<String>> {
    let path = which(tool).with_context(|| format!("`{tool}` is missing"))?;
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
fn the_rules_are_the_table_and_twice_is_once() -> Result<()> {
    prepare()?;
    for backend in BACKENDS {
        let netns = Netns::new()?;
        let flags = ["--backend", backend];
        let said = iptables(&netns, &flags)?;
        ensure!(said.contains("IPv4: intercepted (") && said.contains("IPv6: intercepted ("), "{said}");
        for (tool, loopback) in [("iptables", "127.0.0.1/32"), ("ip6tables", "::1/128")] {
            let found = rules(&netns, &format!("{tool}-{backend}-save"))?;
            ensure!(found == table(loopback), "{tool} {backend}: {found:#?}");
        }
        let said = iptables(&netns, &flags)?;
        ensure!(said.matches("intercepted already").count() == 2, "{said}");
        for (tool, loopback) in [("iptables", "127.0.0.1/32"), ("ip6tables", "::1/128")] {
            ensure!(rules(&netns, &format!("{tool}-{backend}-save"))? == table(loopback));
        }
    }
    Ok(())
}

#[test]
fn what_is_printed_is_what_is_installed() -> Result<()> {
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
    // Other lists take their place, and so does none.
    iptables(&netns, &["--exclude-ports", "1"])?;
    ensure!(rules(&netns, "iptables-save")?.len() == TABLE.len() + 1);
    iptables(&netns, &[])?;
    ensure!(rules(&netns, "iptables-save")? == table("127.0.0.1/32"));
    Ok(())
}

#[test]
fn removal_leaves_what_was_before() -> Result<()> {
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
        // By hand, twice: both go.
        netns.tool(&format!("iptables-{backend}"), "-t nat -A OUTPUT -p tcp -j OSM_PROXY_OUTBOUND")?;
        iptables(&netns, &["--backend", backend, "--remove"])?;
        for (tool, before) in tools.iter().zip(&before) {
            let now = saved(&netns, tool)?;
            ensure!(now == *before, "{tool}: {now:#?}\nnot\n{before:#?}");
        }
        let said = iptables(&netns, &["--backend", backend, "--remove"])?;
        ensure!(said.matches("not intercepted").count() == 2, "{said}");
    }
    Ok(())
}

/// A pod without a sidecar: what is intercepted ends, what is not gets through.
struct Place<'w> {
    pod: &'w Pod,
}

impl Place<'_> {
    fn gets_through(&self, ip: IpAddr, port: u16) -> Result<bool> {
        match self.pod.workload().run(|| client::exchange(SocketAddr::new(ip, port), b"hello"))? {
            Outcome::Bytes(bytes) if bytes == b"hello" => Ok(true),
            Outcome::Refused(_) => Ok(false),
            other => bail!("{ip}:{port}: {other:?}"),
        }
    }

    /// Exactly these of the six addresses, at a port.
    fn only(&self, port: u16, through: &[IpAddr]) -> Result<()> {
        for ip in [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6] {
            let found = self.gets_through(ip, port)?;
            ensure!(found == through.contains(&ip), "{ip}:{port} gets through: {found}");
        }
        Ok(())
    }

    fn with(&self, arguments: &[&str]) -> Result<&Self> {
        iptables(&self.pod.sidecar, arguments)?;
        Ok(self)
    }
}

fn with_place(test: impl FnOnce(&Place<'_>) -> Result<()>) -> Result<()> {
    prepare()?;
    let world = World::new()?;
    let pod = world.outside.pod(Form::Shared)?;
    test(&Place { pod: &pod })
}

const ALL: [IpAddr; 6] = [HTTPBIN, EXAMPLE, ELSEWHERE, HTTPBIN6, EXAMPLE6, ELSEWHERE6];

#[test]
fn exclusions_go_round_and_nothing_else() -> Result<()> {
    with_place(|place| {
        place.with(&[])?.only(9000, &[])?;
        // Blocks, of either family.
        place.with(&["--exclude-cidrs", "203.0.113.10/32,2001:db8:66::/48"])?;
        place.only(9000, &[HTTPBIN, ELSEWHERE6])?;
        // More ports than a rule takes: each of them, and no other.
        let some: Vec<String> =
            (1..=20).chain(ECHO[1..8].iter().copied()).map(|port| port.to_string()).collect();
        place.with(&["--exclude-ports", &some.join(",")])?;
        for port in ECHO {
            for ip in [HTTPBIN, HTTPBIN6] {
                let found = place.gets_through(ip, port)?;
                ensure!(found == some.contains(&port.to_string()), "{ip}:{port} gets through: {found}");
            }
        }
        // Interfaces.
        place.with(&["--exclude-interfaces", "eth1"])?.only(9000, &[])?;
        place.with(&["--exclude-interfaces", "eth1,eth+"])?.only(9000, &ALL)?;
        place.with(&[])?.only(9000, &[])?;
        place.with(&["--remove"])?.only(9000, &ALL)
    })
}

#[test]
fn inclusions_are_all_that_is_intercepted() -> Result<()> {
    with_place(|place| {
        place.with(&["--include-cidrs", "203.0.113.0/24,2001:db8:0:1::20/128"])?;
        place.only(9000, &[ELSEWHERE, HTTPBIN6, ELSEWHERE6])?;
        // An exclusion comes first.
        place.with(&["--include-cidrs", "203.0.113.0/24,2000::/3", "--exclude-cidrs", "203.0.113.20/32"])?;
        place.only(9000, &[ELSEWHERE, EXAMPLE])?;
        // A list of the one family says nothing of the other but that it is not on the list.
        place.with(&["--include-cidrs", "0.0.0.0/0"])?.only(9000, &[HTTPBIN6, EXAMPLE6, ELSEWHERE6])
    })
}

#[test]
fn one_family_alone() -> Result<()> {
    with_place(|place| {
        place.with(&["--remove"])?;
        place.with(&["--ip-families", "ipv4"])?.only(9000, &[HTTPBIN6, EXAMPLE6, ELSEWHERE6])
    })
}

/// What the sidecar itself sends goes out, but not to its own pod; what stays in the pod is nobody's business.
#[test]
fn the_sidecar_and_the_pod_itself() -> Result<()> {
    with_place(|place| {
        let pod = place.pod;
        let own = SocketAddr::new(pod.address.into(), 7000);
        let listener = pod.sidecar.run(|| std::net::TcpListener::bind("[::]:7000"))??;
        let by = |sidecar: bool, to: SocketAddr| -> Result<bool> {
            let mut command = if sidecar { pod.sidecar_command("curl") } else { pod.sidecar.command("curl") };
            let output =
                command.args(["-s", "-m", "2", "-o", "/dev/null"]).arg(format!("telnet://{to}")).output()?;
            // 28: connected, and nothing was said; 7: refused.
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

/// What docs/compose.md and docs/plain-envoy.md warn of: root, as runtimes make it, may become uid 1500 and is not
/// intercepted then. Without `CAP_SETUID` it may not. The containers that we write have no capability at all.
#[test]
fn who_may_pass_for_the_sidecar() -> Result<()> {
    with_place(|place| {
        place.with(&[])?;
        let to = format!("telnet://{}", SocketAddr::new(HTTPBIN, 9000));
        let by = |bounds: &str| -> Result<Output> {
            let mut command = place.pod.workload().command("setpriv");
            command.args(["--bounding-set", bounds, "--inh-caps", bounds, "--"]);
            command.args(["setpriv", "--reuid", "1500", "--clear-groups", "curl", "-sv", "-m", "1"]);
            Ok(command.arg(&to).output()?)
        };
        let output = by("-net_admin")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("Connected to 203.0.113.10"), "{said}");
        let output = by("-setuid,-setgid")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains("Operation not permitted"), "{said}");
        ensure!(!said.contains("Connected to"), "{said}");
        for name in ["docs/compose.md", "docs/plain-envoy.md"] {
            let text = fs::read_to_string(mesh::root().join(name))?;
            ensure!(text.contains("`CAP_SETUID`") && text.contains("1500"), "{name} does not say so");
        }
        let compose = fs::read_to_string(mesh::root().join("docker-compose.yml"))?;
        ensure!(compose.contains("cap_drop: [ALL]") && !compose.contains("SETUID"), "docker-compose.yml");
        let services = compose.matches("\n  <<: *locked").count();
        // `x-init`, `x-sidecar`, `x-workload`, `x-origin`; and the control plane, which is written out.
        ensure!(services == 4 && compose.contains("\n  shim:\n    <<: *locked"), "docker-compose.yml");
        Ok(())
    })
}

#[test]
fn failures_say_what_to_do() -> Result<()> {
    prepare()?;
    let netns = Netns::new()?;
    let failure = |output: Output| -> Result<String> {
        ensure!(output.status.code() == Some(1), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    };
    // Without the capability.
    let binary = shim::binary()?;
    let without = ["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let said = failure(netns.command("setpriv").args(without).arg(&binary).arg("iptables").output()?)?;
    ensure!(said.starts_with("error: the capability NET_ADMIN is missing: run this as root"), "{said}");

    // Tools for IPv6 that fail as they do where there is no IPv6: nothing changes, for neither family.
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
    let said = failure(with_path(&[])?)?;
    let expected = "error: IPv6 cannot be intercepted: if nothing can leave over IPv6, pass `--ip-families ipv4`: \
                    ip6tables-save: can't initialize table 'nat' (exit status: 3)";
    ensure!(said.trim() == expected, "{said}");
    ensure!(rules(&netns, "iptables-save")?.is_empty(), "half of it was installed");
    ensure!(with_path(&["--ip-families", "ipv4"])?.status.success());

    // What makes no sense is wrong usage.
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

/// An Envoy that runs already, as another user: the rules are not installed, and the error says what to do.
#[test]
fn a_listener_of_another_user() -> Result<()> {
    prepare()?;
    let netns = Netns::new()?;
    let as_root = netns.run(|| std::net::TcpListener::bind("127.0.0.1:15001"))??;
    for arguments in [&[][..], &["--ip-families", "ipv4"]] {
        let output = run(&netns, arguments)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1), "{said}");
        for part in ["error: uid 0 listens on port 15001", "connections of uid 1500 alone", "not as root"] {
            ensure!(said.contains(part), "{said}");
        }
    }
    ensure!(rules(&netns, "iptables-save")?.is_empty(), "rules were installed");
    // What is no mistake is no matter of it: another port, what is printed, and a removal.
    iptables(&netns, &["--outbound-port", "15002"])?;
    iptables(&netns, &["--dry-run"])?;
    iptables(&netns, &["--remove"])?;
    drop(as_root);
    iptables(&netns, &[])?;
    ensure!(rules(&netns, "iptables-save")? == table("127.0.0.1/32"));
    Ok(())
}

/// An Envoy that runs as another uid than the one that is left alone gets its own connections back. Each would open
/// another one, until Envoy ends: it refuses them after some turns, says why, and lives.
#[test]
fn an_envoy_that_intercepts_itself() -> Result<()> {
    prepare()?;
    for (workers, global) in [(1, false), (4, false), (1, true)] {
        itself(workers, global).with_context(|| format!("{workers} workers, global egress: {global}"))?;
    }
    Ok(())
}

fn itself(workers: u32, global: bool) -> Result<()> {
    let world = World::new()?;
    world.global_egress(global)?;
    world.write("web.yaml", WEB)?;
    let pod = world.outside.pod(Form::Shared)?;
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let name_server = SocketAddr::new(NAME_SERVER, 53).to_string();
    let flags = ["--dns-resolver", &name_server];
    let _shim = Shim::start(&pod.sidecar, loopback, world.manifests.path(), &flags)?;
    let xds = SocketAddr::new(loopback, 15128).to_string();
    let config = mesh::bootstrap_with("curl/curl", false, &["--xds", &xds])?;
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

/// What a workload of an Envoy that intercepts itself tries.
enum Attempt {
    Tcp(SocketAddr),
    Tls(SocketAddr),
    Http(SocketAddr),
}

impl Attempt {
    fn make(&self, pod: &Pod) -> Result<Outcome> {
        match self {
            Self::Tcp(to) => pod.workload().run(|| client::exchange(*to, b"hello")),
            Self::Tls(to) => mesh::get_tls(pod, *to, Some("httpbin.org")),
            Self::Http(to) => mesh::get(pod, *to, "httpbin.org", "/get"),
        }
    }
}

const WEB: &str = "apiVersion: policy.openservicemesh.io/v1alpha1
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
