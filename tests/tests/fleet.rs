//! Thousands of proxies at one control plane: its memory, and that it lives when they connect all at once.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::issue_control_plane_certificate;
use egress_tests::control_plane::ControlPlane;
use egress_tests::fleet::{Fleet, FleetConfig};
use egress_tests::manifests;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, TestNetwork};
use egress_tests::wait::wait_for;

const XDS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
/// The memory limit that `install` gives a control plane.
const LIMIT_KB: u64 = 1 << 20;
/// The memory that a proxy may cost once it is served: TLS, HTTP/2 and its stream, in a debug build.
const PROXY_KB: u64 = 100;
/// The proxies that connect at once.
const PROXIES: usize = 2000;

fn with_control_plane(test: impl Fn(&TestNetwork, &ControlPlane<'_>) -> Result<()>) -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    network.write("policy.yaml", &manifests::echo_policy("a0", 9000))?;
    let (_authority, own) = issue_control_plane_certificate()?;
    let (certificate, key) = (own.text("tls.crt"), own.text("tls.key"));
    let control_plane = network.control_plane(&["--tls-cert", &certificate, "--tls-key", &key])?;
    test(&network, &control_plane)
}

/// The memory of all sockets of this machine, in kB. A container's limit includes those of its own.
fn socket_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let pages = text.lines().find_map(|line| line.strip_prefix("TCP: ")?.rsplit(' ').next());
    Ok(pages.context("no TCP in sockstat")?.parse::<u64>()? * 4)
}

fn proxies() -> usize {
    std::env::var("EGRESS_FLEET").ok().and_then(|text| text.parse().ok()).unwrap_or(PROXIES)
}

fn wait_until_served(fleet: &Fleet, proxies: usize, control_plane: &ControlPlane<'_>) -> Result<Duration> {
    wait_for("all proxies to be served", Duration::from_secs(300), || fleet.served() == proxies)
        .with_context(|| format!("{} are served; ended: {:?}", fleet.served(), fleet.ended()))
        .with_context(|| control_plane.log().lines().rev().take(5).collect::<Vec<_>>().join("\n"))
}

/// Nothing of what a proxy was sent stays, however its protocol is called and however many service accounts there are.
#[test]
fn what_was_sent_is_not_kept() -> Result<()> {
    with_control_plane(|network, control_plane| {
        let proxies = proxies() / 2;
        for (delta, accounts) in [(false, 1), (true, 1), (false, proxies)] {
            let before = control_plane.memory()?;
            let config = FleetConfig {
                proxies,
                addresses: vec![XDS],
                delta,
                accounts,
                tls: true,
                ..FleetConfig::default()
            };
            let fleet = Fleet::start(&network.outside.netns, config)?;
            let took = wait_until_served(&fleet, proxies, control_plane)?;
            let (after, (median, longest)) = (control_plane.memory()?, fleet.delays());
            let each = after.saturating_sub(before) / proxies as u64;
            println!(
                "delta {delta}, {accounts} accounts: {proxies} served in {took:.1?} with {} MB, each after {median:.1?} and \
                 at most {longest:.1?}; {before} to {after} kB, {each} kB each",
                fleet.received() >> 20
            );
            ensure!(fleet.ended().0 == 0, "{:?}", fleet.ended());
            ensure!(each < PROXY_KB, "{each} kB each");
        }
        Ok(())
    })
}

/// The sockets count as well: what proxies do not read fast enough waits in them.
#[test]
fn two_thousand_proxies_that_connect_at_once_stay_within_the_limit() -> Result<()> {
    with_control_plane(|network, control_plane| {
        let proxies = proxies();
        let config =
            FleetConfig { proxies, addresses: vec![XDS], accounts: 1, tls: true, ..FleetConfig::default() };
        // Those that read nothing after the first kilobytes: their machines are busy.
        let stalled = FleetConfig { read_limit: Some(2000), ..config.clone() };
        let before = socket_memory()?;
        let stalled = Fleet::start(&network.outside.netns, stalled)?;
        let mut sockets = 0;
        let all_connected = |sockets: &mut u64| -> Result<bool> {
            *sockets = (*sockets).max(socket_memory()?.saturating_sub(before));
            Ok(control_plane.status()?["proxies"].as_array().is_some_and(|list| list.len() == proxies))
        };
        let mut failed = None;
        wait_for("all to be connected", Duration::from_secs(120), || match all_connected(&mut sockets) {
            Ok(connected) => connected,
            Err(error) => {
                failed = Some(error);
                true
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        // They keep the others waiting for a while only.
        let fleet = Fleet::start(&network.outside.netns, config)?;
        let served = wait_for("the others to be served", Duration::from_secs(300), || {
            sockets = sockets.max(socket_memory().unwrap_or_default().saturating_sub(before));
            fleet.served() == proxies
        });
        let took = served.with_context(|| format!("{} are served; {:?}", fleet.served(), fleet.ended()))?;
        let (peak, (median, longest)) = (control_plane.peak_memory()?, fleet.delays());
        println!(
            "{proxies} that read nothing, and {proxies} that do, served in {took:.1?} ({median:.1?}, at most {longest:.1?}): \
             at most {peak} kB, and {sockets} kB in sockets"
        );
        drop(stalled);
        ensure!(peak + sockets < LIMIT_KB, "{peak} kB and {sockets} kB in sockets");
        Ok(())
    })
}
