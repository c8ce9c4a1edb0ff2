//! Failures of every part of the local mesh, under traffic that is allowed and traffic that is not.

use std::time::{Duration, Instant};

use crate::prober::{Attempts, Prober};
use anyhow::{Context, Result, ensure};
use egress_tests::compose::{Compose, docker};
use egress_tests::wait::wait_for;

/// The greeting of a server that speaks first.
macro_rules! greeting {
    ($address:literal) => {
        concat!(
            "timeout 2 bash -c 'read line < /dev/tcp/",
            $address,
            "/9001 && [[ $line == 220* ]]' 2>/dev/null"
        )
    };
}

const CLIENT: Attempts = Attempts {
    allowed: &[
        "curl -sf -m 2 -o /dev/null http://httpbin.org/get",
        "curl -sfk -m 2 -o /dev/null https://www.example.com/",
    ],
    forbidden: &[
        "curl -sf -m 2 -o /dev/null http://openservicemesh.io/",
        "curl -sfk -m 2 -o /dev/null https://openservicemesh.io/",
        // An allowed name at a forbidden address: the name's own address must answer.
        "curl -sf -m 2 http://httpbin.org/ --resolve httpbin.org:80:203.0.113.66 -o /dev/null -w '%header{x-origin-address}' | grep -q 203.0.113.66",
        greeting!("203.0.113.66"),
        greeting!("203.0.113.40"),
    ],
};
const BACKEND: Attempts = Attempts {
    allowed: &[greeting!("203.0.113.40")],
    forbidden: &["curl -sf -m 2 -o /dev/null http://httpbin.org/get", greeting!("203.0.113.66")],
};

/// The duration of the control plane's network cut: `EGRESS_CUT_SECONDS`, else 3 s.
fn cut_duration() -> Duration {
    let seconds = std::env::var("EGRESS_CUT_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

struct FaultTest<'c> {
    compose: &'c Compose,
    client: Prober,
    backend: Prober,
}

impl FaultTest<'_> {
    /// Causes a fault and mends it; allowed traffic must then recover without help.
    fn fault(&self, what: &str, fault: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.client.counts();
        let start = Instant::now();
        fault().with_context(|| what.to_owned())?;
        let mended = Instant::now();
        self.client.wait_for_service().with_context(|| what.to_owned())?;
        self.backend.wait_for_service().with_context(|| what.to_owned())?;
        let client = self.client.counts().since(before);
        let back = |prober: &Prober| {
            let back = prober.counts().back.filter(|back| *back > mended);
            back.map_or(0.0, |back| (back - mended).as_secs_f64())
        };
        println!(
            "{what:<44} {:>4.1} s; served again {:>4.1} s and {:>4.1} s later; client: {client}",
            (mended - start).as_secs_f64(),
            back(&self.client),
            back(&self.backend),
        );
        self.client.expect_nothing_passed().with_context(|| what.to_owned())?;
        self.backend.expect_nothing_passed().with_context(|| what.to_owned())
    }

    fn kill(&self, service: &str) -> Result<String> {
        let container = self.compose.container(service)?;
        docker(&["kill", &container])?;
        Ok(container)
    }

    /// Waits until the probers have tried the current state.
    fn wait_for_attempts(&self) -> Result<()> {
        let before = (self.client.counts(), self.backend.counts());
        wait_for("attempts", Duration::from_secs(30), || {
            let tried = |prober: &Prober, before| prober.counts().since(before).stopped >= 5;
            tried(&self.client, before.0) && tried(&self.backend, before.1)
        })?;
        Ok(())
    }
}

#[test]
fn no_failure_lets_forbidden_traffic_pass() -> Result<()> {
    let compose = Compose::new()?;
    compose.run(&["up", "-d"])?;
    compose.healthy()?;
    let trial = FaultTest {
        compose: &compose,
        client: Prober::start(&compose, "client", &CLIENT)?,
        backend: Prober::start(&compose, "backend", &BACKEND)?,
    };
    trial.fault("nothing", || trial.wait_for_attempts())?;
    for service in compose.run(&["config", "--services"])?.lines() {
        trial.fault(&format!("{service} is killed and started"), || {
            let container = trial.kill(service)?;
            if service.ends_with("-init") {
                // All containers in the namespace end with its holder, and restart in order.
                compose.run(&["up", "-d"])?;
                return compose.healthy().map(|_| ());
            }
            if !matches!(service, "client" | "backend") {
                trial.wait_for_attempts()?;
            }
            docker(&["start", &container]).map(|_| ())
        })?;
    }
    let shim = compose.container("shim")?;
    trial.fault("the sidecar starts before the control plane", || {
        let sidecar = trial.kill("client-sidecar")?;
        trial.kill("shim")?;
        docker(&["start", &sidecar])?;
        trial.wait_for_attempts()?;
        docker(&["start", &shim]).map(|_| ())
    })?;
    let before = trial.client.counts();
    trial.fault("the control plane's network is cut", || {
        let network = compose.network("control");
        docker(&["network", "disconnect", &network, &shim])?;
        // The duration of the cut is under test.
        std::thread::sleep(cut_duration());
        trial.wait_for_attempts()?;
        docker(&["network", "connect", "--alias", "shim", &network, &shim]).map(|_| ())
    })?;
    let during = trial.client.counts().since(before);
    ensure!(during.failed == 0, "without the control plane, what is allowed is not served: {during}");
    trial.fault("a policy changes after the cut", || expect_policy_changes(&compose))?;
    // No identity may reach it, so it must have no visitors.
    let log = compose.log("elsewhere")?;
    ensure!(log.is_empty(), "somebody came to the forbidden host: {log}");
    println!("client: {}\nbackend: {}", trial.client.counts(), trial.backend.counts());
    drop(trial);
    compose.run(&["down", "--volumes", "--timeout", "1"])?;
    ensure!(compose.traces()?.is_empty(), "something is left: {:?}", compose.traces()?);
    Ok(())
}

/// Requires that sidecars follow policy changes after the control plane was away.
fn expect_policy_changes(compose: &Compose) -> Result<()> {
    let path = compose.folder().join("envoy/mesh/curl.yaml");
    let text = std::fs::read_to_string(&path)?;
    let script = "docker compose exec client curl -sf -m 2 -o /dev/null http://grpc.example/";
    let reaches = || compose.shell(script).output().is_ok_and(|output| output.status.success());
    ensure!(!reaches(), "what no policy allows is reached");
    std::fs::write(&path, text.replace("- httpbin.org\n", "- httpbin.org\n  - grpc.example\n"))?;
    wait_for("a new policy", Duration::from_secs(60), reaches)?;
    std::fs::write(&path, text)?;
    wait_for("the old policy", Duration::from_secs(60), || !reaches())?;
    Ok(())
}
