//! A proxy is who the API server says of its token, whatever its node says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Names, Pair, Volume};
use egress_tests::client::PATIENCE;
use egress_tests::cluster::{Cluster, identified_by_tokens};
use egress_tests::envoy::Envoy;
use egress_tests::kube::User;
use egress_tests::kube::tokens::sign;
use egress_tests::mesh::{self, CONTROL_PLANE, SECOND_CONTROL_PLANE, World, echo_policy, echoes};
use egress_tests::netns::ensure_capable;
use egress_tests::wait::wait_for;
use egress_tests::xds::Proxy;
use rcgen::KeyPair;
use tonic::Code;

const XDS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
const AUDIENCE: &str = "osm-egress";

/// A pod of `curl/a` that nobody runs: tokens are bound to it.
fn run(cluster: &Cluster<'_>, name: &str) -> Result<()> {
    cluster.api.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: curl}}\n\
         spec: {{serviceAccountName: a, containers: [{{name: c, image: none}}]}}\n"
    ))?;
    Ok(())
}

fn remove(cluster: &Cluster<'_>, kind: &str, name: &str) -> Result<()> {
    let words = ["delete", kind, name, "-n", "curl", "--grace-period=0", "--force"];
    cluster.api.kubectl(User::Admin, &words)?;
    Ok(())
}

/// A cluster with the service accounts `curl/a` and `curl/b`, a policy each, and what is needed to ask.
struct Stage<'w> {
    cluster: Cluster<'w>,
    authority: Authority,
    own: Volume,
    /// The uid of `curl/a`.
    uid: String,
}

impl<'w> Stage<'w> {
    fn new(world: &'w World) -> Result<Self> {
        let cluster = Cluster::new(world)?;
        let uid = cluster.api.service_account("curl", "a")?;
        cluster.api.service_account("curl", "b")?;
        cluster.api.apply(&echo_policy("a", 9000))?;
        cluster.api.apply(&echo_policy("b", 9100))?;
        let (authority, own) = identified_by_tokens()?;
        Ok(Self { cluster, authority, own, uid })
    }

    fn flags<'a>(&self, own: &'a (String, String), more: &[&'a str]) -> Vec<&'a str> {
        [&["--service-account-tokens", "--tls-cert", &own.0, "--tls-key", &own.1], more].concat()
    }

    fn own(&self) -> (String, String) {
        (self.own.text("tls.crt"), self.own.text("tls.key"))
    }

    fn ask(&self, node: &str, tokens: &[&str]) -> Result<Result<String, tonic::Status>> {
        self.ask_at(XDS, node, tokens)
    }

    fn ask_at(
        &self,
        address: SocketAddr,
        node: &str,
        tokens: &[&str],
    ) -> Result<Result<String, tonic::Status>> {
        let values: Vec<String> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
        let authorization: Vec<&str> = values.iter().map(String::as_str).collect();
        let host = CONTROL_PLANE.to_string();
        let proxy = Proxy {
            authority: Some(&self.authority.pem),
            host: &host,
            authorization: &authorization,
            node,
            ..Proxy::default()
        };
        proxy.ask(&self.cluster.world.outside.netns, address)
    }

    fn bootstrap(&self, ca: &Volume, token: &Volume) -> Result<String> {
        let (ca, token) = (ca.text("ca.crt"), token.text("token"));
        mesh::bootstrap_with("curl/a", false, &["--xds-ca", &ca, "--token-file", &token])
    }
}

/// A real Envoy shows the token in its file, and the one that replaced it; a token that is not good any more ends
/// the stream, and what is in force stays.
#[test]
fn an_envoy_with_a_token() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let stage = Stage::new(&world)?;
    let cluster = &stage.cluster;
    let own = stage.own();
    let shim = cluster.shim(&stage.flags(&own, &["--credential-review-interval", "1s"]))?;
    let ca = Volume::new(&[("ca.crt", &stage.authority.pem)])?;
    run(cluster, "one")?;
    let token = cluster.api.token("curl", "a", AUDIENCE, Some("one"))?;
    let volume = Volume::new(&[("token", &token)])?;
    let envoy = Envoy::start(&pod, &stage.bootstrap(&ca, &volume)?, 1)?;
    wait_for("the policy", PATIENCE, || echoes(&pod, 9000)).with_context(|| shim.log())?;
    ensure!(!echoes(&pod, 9100), "the policy of another is in force");
    ensure!(shim.log().contains("by=\"token\""), "{}", shim.log());
    // It is asked about again, and stays.
    let confirmed = r#"osm_egress_token_reviews_total{result="confirmed"}"#;
    wait_for("a second review", PATIENCE, || shim.metric(confirmed).is_ok_and(|n| n >= 2))?;
    ensure!(shim.metric("osm_egress_xds_streams_total")? == 1, "{}", shim.log());

    remove(cluster, "pod", "one")?;
    let revoked = || shim.refused("revoked").is_ok_and(|n| n == 1);
    // The API server itself remembers for ten seconds what it found.
    wait_for("the stream to be cut", Duration::from_secs(30), revoked).with_context(|| shim.log())?;
    ensure!(
        shim.log().contains("the credentials are not good any more: token: the API server"),
        "{}",
        shim.log()
    );
    let refused = || shim.refused("token").is_ok_and(|n| n >= 1);
    wait_for("the old token to be refused", PATIENCE, refused).with_context(|| shim.log())?;
    ensure!(echoes(&pod, 9000), "what was allowed ended with the token");
    // The kubelet would have renewed the file.
    run(cluster, "two")?;
    let renewed = cluster.api.token("curl", "a", AUDIENCE, Some("two"))?;
    volume.put(&[("token", &renewed)])?;
    cluster.api.apply(&echo_policy("a", 9100))?;
    wait_for("a change, by the new token", Duration::from_secs(40), || echoes(&pod, 9100))
        .with_context(|| format!("{}\n{}", shim.log(), envoy.log_tail(20)))?;
    // A part of it would be enough; the module is in there too, as letters in which anything short may occur.
    let dump = envoy.admin("/config_dump")?;
    for part in [&token, &renewed].into_iter().flat_map(|token| token.split('.')) {
        ensure!(!dump.contains(part), "the token stands in Envoy's configuration");
    }
    Ok(())
}

/// A stream ends with its token, and the next one has the new one.
#[test]
fn a_token_that_expires() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let pod = world.pod()?;
    let stage = Stage::new(&world)?;
    let cluster = &stage.cluster;
    let own = stage.own();
    let shim = cluster.shim(&stage.flags(&own, &[]))?;
    let ca = Volume::new(&[("ca.crt", &stage.authority.pem)])?;
    let account = ("curl", "a", stage.uid.as_str());
    let volume = Volume::new(&[("token", &cluster.api.sign(account, AUDIENCE, 6)?)])?;
    let envoy = Envoy::start(&pod, &stage.bootstrap(&ca, &volume)?, 1)?;
    wait_for("the policy", PATIENCE, || echoes(&pod, 9000)).with_context(|| shim.log())?;
    volume.put(&[("token", &cluster.api.token("curl", "a", AUDIENCE, None)?)])?;
    let expired = || shim.refused("expired").is_ok_and(|n| n == 1);
    wait_for("the stream to end", Duration::from_secs(20), expired).with_context(|| shim.log())?;
    ensure!(shim.log().contains("the token expired"), "{}", shim.log());
    cluster.api.apply(&echo_policy("a", 9100))?;
    wait_for("a change, by the new token", Duration::from_secs(40), || echoes(&pod, 9100))
        .with_context(|| format!("{}\n{}", shim.log(), envoy.log_tail(20)))?;
    ensure!(shim.refused("token")? == 0, "{}", shim.log());
    Ok(())
}

/// Everybody who has no good token of his own.
#[test]
fn who_is_refused() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let stage = Stage::new(&world)?;
    let api = &stage.cluster.api;
    let own = stage.own();
    let clients = Authority::new()?;
    let ca = Volume::new(&[("ca.crt", &clients.pem)])?;
    let shim = stage.cluster.shim(&stage.flags(&own, &["--client-ca", &ca.text("ca.crt")]))?;
    let good = api.token("curl", "a", AUDIENCE, None)?;
    let text = stage.ask("p.a.curl", &[&good])?.with_context(|| shim.log())?;
    ensure!(text.contains("curl/a") && !text.contains("curl/b"), "not the policy of curl/a alone");
    stage.ask("0b1e2d3c-4f5a-6789-abcd-ef0123456789", &[&good])?.context("a node id that says nothing")?;
    let results = shim.get("/metrics")?;
    ensure!(results.contains(r#"osm_egress_token_reviews_total{result="known"} 1"#), "{results}");

    let account = ("curl", "a", stage.uid.as_str());
    run(&stage.cluster, "gone")?;
    let of_pod = api.token("curl", "a", AUDIENCE, Some("gone"))?;
    remove(&stage.cluster, "pod", "gone")?;
    api.service_account("curl", "gone")?;
    let of_account = api.token("curl", "gone", AUDIENCE, None)?;
    remove(&stage.cluster, "serviceaccount", "gone")?;
    let (unauthenticated, forbidden) = (Code::Unauthenticated, Code::PermissionDenied);
    let unconfirmed = "the API server does not confirm it: ";
    // What is shown by whom, and how that is answered, counted and told.
    type Case<'t> = (&'t str, &'t str, Vec<String>, Code, &'t str, &'t str);
    let cases: [Case<'_>; 12] = [
        ("none", "p.a.curl", vec![], unauthenticated, "no-credentials", "the stream shows no credentials"),
        ("two", "p.a.curl", vec![good.clone(), good.clone()], unauthenticated, "token", "several values"),
        ("empty", "p.a.curl", vec![String::new()], unauthenticated, "token", "is not of the form `Bearer"),
        (
            "garbage",
            "p.a.curl",
            vec!["garbage".to_owned()],
            unauthenticated,
            "token",
            "not a token of a projected",
        ),
        // Of a user, whom the API server would know.
        (
            "another kind",
            "p.a.curl",
            vec!["token-of-admin".to_owned()],
            unauthenticated,
            "token",
            "not a token of",
        ),
        (
            "another audience",
            "p.a.curl",
            vec![api.token("curl", "a", "https://kubernetes.default.svc", None)?],
            unauthenticated,
            "token",
            r#"its audience is ["https://kubernetes.default.svc"], not `osm-egress`"#,
        ),
        (
            "expired",
            "p.a.curl",
            vec![api.sign(account, AUDIENCE, -5)?],
            unauthenticated,
            "token",
            "it expired",
        ),
        (
            "signed by another",
            "p.a.curl",
            vec![sign(&KeyPair::generate()?, account, AUDIENCE, 600)?],
            unauthenticated,
            "token",
            unconfirmed,
        ),
        (
            "of an account before this one",
            "p.a.curl",
            vec![api.sign(("curl", "a", "00000000-0000-0000-0000-000000000000"), AUDIENCE, 600)?],
            unauthenticated,
            "token",
            unconfirmed,
        ),
        ("of a pod that is gone", "p.a.curl", vec![of_pod], unauthenticated, "token", unconfirmed),
        (
            "of an account that is gone",
            "p.gone.curl",
            vec![of_account],
            unauthenticated,
            "token",
            unconfirmed,
        ),
        (
            "another's node id",
            "p.b.curl",
            vec![good.clone()],
            forbidden,
            "other-identity",
            "curl/a (by token) asks for what is of curl/b, says its node id `p.b.curl`",
        ),
    ];
    for (case, node, tokens, code, reason, said) in cases {
        let (count, log) = (shim.refused(reason)?, shim.log().len());
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let status =
            stage.ask(node, &tokens)?.err().with_context(|| format!("{case}: it was told something"))?;
        ensure!(status.code() == code && status.message().contains(said), "{case}: {status:?}");
        ensure!(shim.refused(reason)? == count + 1, "{case}: {}", shim.get("/metrics")?);
        let log = shim.log().split_off(log);
        ensure!(log.contains("proxy refused") && log.contains(said), "{case}: {log}");
        println!("{case}: {}", status.message());
    }
    ensure!(!shim.log().contains(&good), "a token stands in the log");

    // A certificate is enough; and beside a token it must be of the same identity.
    let named = |name: &str| -> Result<Pair> {
        let uri = format!("spiffe://cluster.local/ns/curl/sa/{name}");
        clients.issue(&Names { uris: &[&uri], ..Names::default() })
    };
    let (a, b, host) = (named("a")?, named("b")?, CONTROL_PLANE.to_string());
    let bearer = format!("Bearer {good}");
    let one = Proxy { authority: Some(&stage.authority.pem), host: &host, ..Proxy::default() };
    let both = Proxy { authorization: &[&bearer], ..one.clone() };
    let ask = |proxy: &Proxy<'_>| proxy.ask(&world.outside.netns, XDS);
    let text = ask(&Proxy { certificate: Some(&b), ..one })?.context("a certificate")?;
    ensure!(text.contains("curl/b") && !text.contains("curl/a"), "not the policy of curl/b alone");
    ask(&Proxy { certificate: Some(&a), ..both.clone() })?.context("a certificate and a token")?;
    ensure!(shim.log().contains("by=\"certificate and token\""), "{}", shim.log());
    let status = ask(&Proxy { certificate: Some(&b), ..both })?.err().context("of two identities")?;
    ensure!(status.code() == forbidden, "{status:?}");
    ensure!(
        shim.log().contains("the client certificate is of curl/b, the token of curl/a"),
        "{}",
        shim.log()
    );
    Ok(())
}

/// While the API server is away a token that it confirmed is good, and nobody can say whether another one is.
#[test]
fn the_api_server_is_away() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let mut stage = Stage::new(&world)?;
    let own = stage.own();
    // Nothing is fresh for longer than an open stream is left alone.
    let shim = stage.cluster.shim(&stage.flags(&own, &[]))?;
    let known = stage.cluster.api.token("curl", "a", AUDIENCE, None)?;
    let unknown = stage.cluster.api.token("curl", "b", AUDIENCE, None)?;
    stage.ask("p.a.curl", &[&known])?.with_context(|| shim.log())?;
    stage.cluster.api.kill();
    stage.ask("p.a.curl", &[&known])?.with_context(|| shim.log())?;
    let status = stage.ask("p.b.curl", &[&unknown])?.err().context("an unknown token was told something")?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    ensure!(status.message().contains("tokens cannot be reviewed now: the API server"), "{status:?}");
    ensure!(shim.refused("unavailable")? == 1, "{}", shim.get("/metrics")?);
    // What needs no API server is said all the same.
    let status = stage.ask("p.a.curl", &["garbage"])?.err().context("garbage was told something")?;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    stage.cluster.api.resume()?;
    let comes_back = || stage.ask("p.b.curl", &[&unknown]).is_ok_and(|answer| answer.is_ok());
    wait_for("the other token to be good again", Duration::from_secs(20), comes_back)
        .with_context(|| shim.log())?;
    Ok(())
}

/// Who may not ask about tokens says so, and nobody is let in.
#[test]
fn without_the_role() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let stage = Stage::new(&world)?;
    let own = stage.own();
    let without = ROLE.replace(REVIEWS, "");
    ensure!(without.len() < ROLE.len(), "the role has another rule for tokens");
    stage.cluster.api.apply(&without)?;
    let shim = stage.cluster.launch(User::Shim, SECOND_CONTROL_PLANE, &stage.flags(&own, &[]))?.ready()?;
    let token = stage.cluster.api.token("curl", "a", AUDIENCE, None)?;
    let to = SocketAddr::new(SECOND_CONTROL_PLANE, 15128);
    let status = stage.ask_at(to, "p.a.curl", &[&token])?.err().context("it was told something")?;
    ensure!(status.code() == Code::Unavailable && status.message().contains("403"), "{status:?}");
    ensure!(shim.log().contains("cannot create resource \"tokenreviews\""), "{}", shim.log());
    Ok(())
}

const ROLE: &str = include_str!("../../../deploy/rbac.yaml");
const REVIEWS: &str =
    "- apiGroups: [authentication.k8s.io]\n  resources: [tokenreviews]\n  verbs: [create]\n";

/// Each pod has a token of its own: one that opens streams without end is refused, and told why; others are not.
#[test]
fn a_token_has_few_streams() -> Result<()> {
    ensure_capable()?;
    let world = World::new()?;
    let stage = Stage::new(&world)?;
    let cluster = &stage.cluster;
    let own = stage.own();
    let shim = cluster.shim(&stage.flags(&own, &[]))?;
    let token = |account| cluster.api.token("curl", account, AUDIENCE, None);
    let bearer = format!("Bearer {}", token("a")?);
    let host = CONTROL_PLANE.to_string();
    let proxy = Proxy {
        authority: Some(&stage.authority.pem),
        host: &host,
        authorization: &[&bearer],
        node: "x.a.curl",
        ..Proxy::default()
    };
    let netns = &cluster.world.outside.netns;
    // The streams of others go on meanwhile.
    let ((open, status), other) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| proxy.open(netns, XDS, 20));
        let other = stage.ask("x.b.curl", &[&token("b")?])?;
        let flood = flood.join().map_err(|_| anyhow::anyhow!("the flood failed"))??;
        anyhow::Ok((flood, other))
    })?;
    ensure!(other.is_ok(), "{other:?}");
    ensure!(open == 16 && status.code() == Code::ResourceExhausted, "{open}: {status:?}");
    ensure!(status.message().contains("the token has 16 streams for discovery already"), "{status:?}");
    ensure!(shim.refused("too-many-streams")? == 1, "{}", shim.log());
    Ok(())
}
