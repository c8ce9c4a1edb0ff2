//! Thousands of proxies with tokens: while the API server answers, is away or hangs, and when a replica is killed.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use egress_tests::cluster::{Cluster, issue_control_plane_certificate};
use egress_tests::control_plane::ControlPlane;
use egress_tests::fleet::{Fleet, FleetConfig};
use egress_tests::kube::User;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::wait::wait_for;

/// The most proxies of a test.
const PROXIES: usize = 3000;
/// Those that share tokens: a token has at most 16 streams, because each pod has its own.
const SHARING_PROXIES: usize = 1500;
const ACCOUNTS: usize = 100;
const ADDRESSES: [SocketAddr; 2] =
    [SocketAddr::new(CONTROL_PLANE, 15128), SocketAddr::new(SECOND_CONTROL_PLANE, 15128)];
/// The time that a busy machine needs at most.
const PATIENCE: Duration = Duration::from_secs(300);

/// Tokens of the accounts `curl/a0` to `curl/a99`, in turn, as many as wanted. They differ in their expiry.
fn tokens(cluster: &Cluster<'_>, count: usize) -> Result<Vec<String>> {
    let mut uids = Vec::new();
    for account in 0..ACCOUNTS {
        let name = format!("a{account}");
        let path = "jsonpath={.metadata.uid}";
        let get = ["get", "serviceaccount", &name, "-n", "curl", "-o", path];
        uids.push((
            name.clone(),
            match cluster.api.kubectl(User::Admin, &get) {
                Ok(uid) => uid,
                Err(_) => cluster.api.service_account("curl", &name)?,
            },
        ));
    }
    let end = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())? + 3600;
    let sign = |n: usize| {
        let (name, uid) = &uids[n % ACCOUNTS];
        cluster.api.sign(("curl", name, uid), "osm-egress", end + i64::try_from(n)?)
    };
    (0..count).map(sign).collect()
}

fn reviews(control_plane: &ControlPlane<'_>, result: &str) -> Result<u64> {
    control_plane.metric(&format!("osm_egress_token_reviews_total{{result=\"{result}\"}}"))
}

fn wait_until_served(fleet: &Fleet, proxies: usize) -> Result<Duration> {
    wait_for("all proxies to be served", PATIENCE, || fleet.served() == proxies)
        .with_context(|| format!("{} are served; ended: {:?}", fleet.served(), fleet.ended()))
}

/// Each token is reviewed once by each control plane, however many proxies share it.
#[test]
fn thousands_of_proxies_with_tokens() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let mut cluster = Cluster::new(&network)?;
    let (_authority, volume) = issue_control_plane_certificate()?;
    let (certificate, key) = (volume.text("tls.crt"), volume.text("tls.key"));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--service-account-tokens"];
    for (proxies, count) in [(SHARING_PROXIES, ACCOUNTS), (PROXIES, PROXIES)] {
        let tokens = tokens(&cluster, count)?;
        let first = cluster.launch(User::ControlPlane, CONTROL_PLANE, &flags)?.ready()?;
        // The second one answers at the same admin port of its own address.
        let second = cluster.launch(User::ControlPlane, SECOND_CONTROL_PLANE, &flags)?.ready()?;
        let config = FleetConfig {
            proxies,
            addresses: ADDRESSES.to_vec(),
            tls: true,
            accounts: ACCOUNTS,
            tokens,
            ..FleetConfig::default()
        };
        let fleet = Fleet::start(&network.outside.netns, config)?;
        let took = wait_until_served(&fleet, proxies)
            .with_context(|| first.log().lines().rev().take(3).collect::<String>())?;
        let (confirmed, delays) =
            (reviews(&first, "confirmed")? + reviews(&second, "confirmed")?, fleet.delays());
        println!(
            "{proxies} proxies with {count} tokens at two replicas: served in {took:.1?}, {delays:.1?}; {confirmed} reviews; \
             {} and {} kB",
            first.memory()?,
            second.memory()?
        );
        ensure!(fleet.ended().0 == 0, "{:?}", fleet.ended());
        // Streams share a review only while it runs, and a busy machine spreads them. Six reviews of each token without
        // sharing.
        ensure!(confirmed < 5 * u64::try_from(count)?, "{confirmed} reviews of {count} tokens");
        // One is killed: its proxies go to the other, which lives.
        drop(second);
        wait_for("the proxies to notice", PATIENCE, || fleet.ended().0 >= proxies / 2)?;
        let took = wait_until_served(&fleet, proxies)?;
        println!(
            "one replica killed: all served by the other after {took:.1?}, with {} kB, at most {} kB",
            first.memory()?,
            first.peak_memory()?
        );
        ensure!(first.peak_memory()? < 1 << 20, "over the limit of `install`");
    }
    cluster.api.kill();
    Ok(())
}

/// Open streams stay, and the log says once why their tokens are not reviewed.
#[test]
fn an_outage_of_the_api_server_is_logged_once() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let mut cluster = Cluster::new(&network)?;
    let (_authority, volume) = issue_control_plane_certificate()?;
    let (certificate, key) = (volume.text("tls.crt"), volume.text("tls.key"));
    let tokens = tokens(&cluster, ACCOUNTS)?;
    let control_plane = cluster.control_plane(&[
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--service-account-tokens",
        "--credential-review-interval",
        "5s",
    ])?;
    let config = FleetConfig {
        proxies: SHARING_PROXIES,
        addresses: vec![ADDRESSES[0]],
        tls: true,
        accounts: ACCOUNTS,
        tokens,
        ..FleetConfig::default()
    };
    let fleet = Fleet::start(&network.outside.netns, config.clone())?;
    wait_until_served(&fleet, SHARING_PROXIES)?;
    let count = |text: &str| control_plane.log().lines().filter(|line| line.contains(text)).count();
    for (n, hangs) in [false, true].into_iter().enumerate() {
        let failed = reviews(&control_plane, "unavailable")?;
        if hangs {
            cluster.api.hang(true)?;
        } else {
            cluster.api.kill();
        }
        wait_for("thousands of failed reviews", PATIENCE, || {
            reviews(&control_plane, "unavailable").is_ok_and(|now| now >= failed + SHARING_PROXIES as u64)
        })?;
        // Whoever comes with a known token is served.
        let others = Fleet::start(&network.outside.netns, FleetConfig { proxies: 50, ..config.clone() })?;
        wait_for("others to be served", PATIENCE, || others.served() == 50)
            .with_context(|| format!("{:?}", others.ended()))?;
        ensure!(fleet.ended().0 == 0 && fleet.served() == SHARING_PROXIES, "{:?}", fleet.ended());
        let lines = (count("tokens cannot be reviewed"), count("cannot be reviewed now"));
        ensure!(lines == (n + 1, 0), "{lines:?}");
        if hangs {
            cluster.api.hang(false)?;
        } else {
            cluster.api.resume()?;
        }
        wait_for("reviews again", PATIENCE, || count("tokens are reviewed again") == n + 1)?;
        println!(
            "API server {}: {} reviews failed, {SHARING_PROXIES} proxies stayed, {} kB",
            if hangs { "hanging" } else { "away" },
            reviews(&control_plane, "unavailable")? - failed,
            control_plane.memory()?
        );
    }
    Ok(())
}
