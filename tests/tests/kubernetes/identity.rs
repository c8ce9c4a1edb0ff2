//! XdsClient identity by service account token, whatever the node says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::authority::{Authority, Names, Pair, Volume};
use egress_tests::client::IO_TIMEOUT;
use egress_tests::cluster::{Cluster, issue_control_plane_certificate};
use egress_tests::envoy::Envoy;
use egress_tests::kube::User;
use egress_tests::kube::tokens::sign;
use egress_tests::manifests::echo_policy;
use egress_tests::netns::ensure_capable;
use egress_tests::network::{CONTROL_PLANE, SECOND_CONTROL_PLANE, TestNetwork};
use egress_tests::sidecar;
use egress_tests::wait::wait_for;
use egress_tests::workload::gets_echo;
use egress_tests::xds::XdsClient;
use rcgen::KeyPair;
use tonic::Code;

const XDS_ADDRESS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15128);
const AUDIENCE: &str = "osm-egress";

/// Creates a pod of `curl/a` that no kubelet runs: tokens are bound to it.
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

/// A cluster with the service accounts `curl/a` and `curl/b`, a policy each, and a client's credentials.
struct TwoAccounts<'n> {
    cluster: Cluster<'n>,
    authority: Authority,
    own: Volume,
    /// The uid of `curl/a`.
    uid: String,
}

impl<'n> TwoAccounts<'n> {
    fn new(network: &'n TestNetwork) -> Result<Self> {
        let cluster = Cluster::new(network)?;
        let uid = cluster.api.service_account("curl", "a")?;
        cluster.api.service_account("curl", "b")?;
        cluster.api.apply(&echo_policy("a", 9000))?;
        cluster.api.apply(&echo_policy("b", 9100))?;
        let (authority, own) = issue_control_plane_certificate()?;
        Ok(Self { cluster, authority, own, uid })
    }

    fn flags<'a>(&self, own: &'a (String, String), more: &[&'a str]) -> Vec<&'a str> {
        [&["--service-account-tokens", "--tls-cert", &own.0, "--tls-key", &own.1], more].concat()
    }

    fn own(&self) -> (String, String) {
        (self.own.text("tls.crt"), self.own.text("tls.key"))
    }

    fn connect(&self, node: &str, tokens: &[&str]) -> Result<Result<String, tonic::Status>> {
        self.connect_at(XDS_ADDRESS, node, tokens)
    }

    fn connect_at(
        &self,
        address: SocketAddr,
        node: &str,
        tokens: &[&str],
    ) -> Result<Result<String, tonic::Status>> {
        let values: Vec<String> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
        let authorization: Vec<&str> = values.iter().map(String::as_str).collect();
        let host = CONTROL_PLANE.to_string();
        let proxy = XdsClient {
            authority: Some(&self.authority.pem),
            host: &host,
            authorization: &authorization,
            node,
            ..XdsClient::default()
        };
        proxy.fetch_policy(&self.cluster.network.outside.netns, address)
    }

    fn bootstrap(&self, ca: &Volume, token: &Volume) -> Result<String> {
        let (ca, token) = (ca.text("ca.crt"), token.text("token"));
        sidecar::bootstrap_with("curl/a", false, &["--xds-ca", &ca, "--token-file", &token])
    }
}

/// A real Envoy presents the token in its file, and the next one when it is replaced; a revoked token ends
/// the stream, and the policy in force stays.
#[test]
fn an_envoy_gets_the_policy_of_its_token() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let accounts = TwoAccounts::new(&network)?;
    let cluster = &accounts.cluster;
    let own = accounts.own();
    let control_plane =
        cluster.control_plane(&accounts.flags(&own, &["--credential-review-interval", "1s"]))?;
    let ca = Volume::new(&[("ca.crt", &accounts.authority.pem)])?;
    run(cluster, "one")?;
    let token = cluster.api.token("curl", "a", AUDIENCE, Some("one"))?;
    let volume = Volume::new(&[("token", &token)])?;
    let envoy = Envoy::start(&pod, &accounts.bootstrap(&ca, &volume)?, 1)?;
    wait_for("the policy", IO_TIMEOUT, || gets_echo(&pod, 9000)).with_context(|| control_plane.log())?;
    ensure!(!gets_echo(&pod, 9100), "the policy of another is in force");
    ensure!(control_plane.log().contains("by=\"token\""), "{}", control_plane.log());
    // The token is reviewed again, and the stream stays.
    let confirmed = r#"osm_egress_token_reviews_total{result="confirmed"}"#;
    wait_for("a second review", IO_TIMEOUT, || control_plane.metric(confirmed).is_ok_and(|n| n >= 2))?;
    ensure!(control_plane.metric("osm_egress_xds_streams_total")? == 1, "{}", control_plane.log());

    remove(cluster, "pod", "one")?;
    let revoked = || control_plane.refusal_count("revoked").is_ok_and(|n| n == 1);
    // The API server itself caches a review for ten seconds.
    wait_for("the stream to be cut", Duration::from_secs(30), revoked)
        .with_context(|| control_plane.log())?;
    ensure!(
        control_plane.log().contains("the credentials are not good any more: token: the API server"),
        "{}",
        control_plane.log()
    );
    let refused = || control_plane.refusal_count("token").is_ok_and(|n| n >= 1);
    wait_for("the old token to be refused", IO_TIMEOUT, refused).with_context(|| control_plane.log())?;
    ensure!(gets_echo(&pod, 9000), "what was allowed ended with the token");
    // The kubelet would have renewed the file.
    run(cluster, "two")?;
    let renewed = cluster.api.token("curl", "a", AUDIENCE, Some("two"))?;
    volume.put(&[("token", &renewed)])?;
    cluster.api.apply(&echo_policy("a", 9100))?;
    wait_for("a change, by the new token", Duration::from_secs(40), || gets_echo(&pod, 9100))
        .with_context(|| format!("{}\n{}", control_plane.log(), envoy.log_tail(20)))?;
    // A part of it would be enough; the module is in there too, as letters in which anything short may occur.
    let dump = envoy.admin("/config_dump")?;
    for part in [&token, &renewed].into_iter().flat_map(|token| token.split('.')) {
        ensure!(!dump.contains(part), "the token stands in Envoy's configuration");
    }
    Ok(())
}

/// A stream ends when its token expires, and the next stream has the new token.
#[test]
fn a_stream_ends_with_its_token() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let pod = network.pod()?;
    let accounts = TwoAccounts::new(&network)?;
    let cluster = &accounts.cluster;
    let own = accounts.own();
    let control_plane = cluster.control_plane(&accounts.flags(&own, &[]))?;
    let ca = Volume::new(&[("ca.crt", &accounts.authority.pem)])?;
    let account = ("curl", "a", accounts.uid.as_str());
    let volume = Volume::new(&[("token", &cluster.api.sign(account, AUDIENCE, 6)?)])?;
    let envoy = Envoy::start(&pod, &accounts.bootstrap(&ca, &volume)?, 1)?;
    wait_for("the policy", IO_TIMEOUT, || gets_echo(&pod, 9000)).with_context(|| control_plane.log())?;
    volume.put(&[("token", &cluster.api.token("curl", "a", AUDIENCE, None)?)])?;
    let expired = || control_plane.refusal_count("expired").is_ok_and(|n| n == 1);
    wait_for("the stream to end", Duration::from_secs(20), expired).with_context(|| control_plane.log())?;
    ensure!(control_plane.log().contains("the token expired"), "{}", control_plane.log());
    cluster.api.apply(&echo_policy("a", 9100))?;
    wait_for("a change, by the new token", Duration::from_secs(40), || gets_echo(&pod, 9100))
        .with_context(|| format!("{}\n{}", control_plane.log(), envoy.log_tail(20)))?;
    ensure!(control_plane.refusal_count("token")? == 0, "{}", control_plane.log());
    Ok(())
}

/// Every client without a valid token of its own is refused.
#[test]
fn clients_without_a_valid_token_are_refused() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let accounts = TwoAccounts::new(&network)?;
    let api = &accounts.cluster.api;
    let own = accounts.own();
    let clients = Authority::new()?;
    let ca = Volume::new(&[("ca.crt", &clients.pem)])?;
    let control_plane =
        accounts.cluster.control_plane(&accounts.flags(&own, &["--client-ca", &ca.text("ca.crt")]))?;
    let good = api.token("curl", "a", AUDIENCE, None)?;
    let text = accounts.connect("p.a.curl", &[&good])?.with_context(|| control_plane.log())?;
    ensure!(text.contains("curl/a") && !text.contains("curl/b"), "not the policy of curl/a alone");
    accounts
        .connect("0b1e2d3c-4f5a-6789-abcd-ef0123456789", &[&good])?
        .context("a node id that says nothing")?;
    let results = control_plane.get("/metrics")?;
    ensure!(results.contains(r#"osm_egress_token_reviews_total{result="known"} 1"#), "{results}");

    let account = ("curl", "a", accounts.uid.as_str());
    run(&accounts.cluster, "gone")?;
    let of_pod = api.token("curl", "a", AUDIENCE, Some("gone"))?;
    remove(&accounts.cluster, "pod", "gone")?;
    api.service_account("curl", "gone")?;
    let of_account = api.token("curl", "gone", AUDIENCE, None)?;
    remove(&accounts.cluster, "serviceaccount", "gone")?;
    let (unauthenticated, forbidden) = (Code::Unauthenticated, Code::PermissionDenied);
    let unconfirmed = "the API server does not confirm it: ";
    // Presented credentials, and the answer, counter and text that follow.
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
        // A token of a user, which the API server accepts.
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
    for (case, node, tokens, code, reason, expected) in cases {
        let (count, log) = (control_plane.refusal_count(reason)?, control_plane.log().len());
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let status =
            accounts.connect(node, &tokens)?.err().with_context(|| format!("{case}: it got a policy"))?;
        ensure!(status.code() == code && status.message().contains(expected), "{case}: {status:?}");
        ensure!(
            control_plane.refusal_count(reason)? == count + 1,
            "{case}: {}",
            control_plane.get("/metrics")?
        );
        let log = control_plane.log().split_off(log);
        ensure!(log.contains("proxy refused") && log.contains(expected), "{case}: {log}");
        println!("{case}: {}", status.message());
    }
    ensure!(!control_plane.log().contains(&good), "a token stands in the log");

    // A certificate is enough; and beside a token it must be of the same identity.
    let named = |name: &str| -> Result<Pair> {
        let uri = format!("spiffe://cluster.local/ns/curl/sa/{name}");
        clients.issue(&Names { uris: &[&uri], ..Names::default() })
    };
    let (a, b, host) = (named("a")?, named("b")?, CONTROL_PLANE.to_string());
    let bearer = format!("Bearer {good}");
    let one = XdsClient { authority: Some(&accounts.authority.pem), host: &host, ..XdsClient::default() };
    let both = XdsClient { authorization: &[&bearer], ..one.clone() };
    let connect = |proxy: &XdsClient<'_>| proxy.fetch_policy(&network.outside.netns, XDS_ADDRESS);
    let text = connect(&XdsClient { certificate: Some(&b), ..one })?.context("a certificate")?;
    ensure!(text.contains("curl/b") && !text.contains("curl/a"), "not the policy of curl/b alone");
    connect(&XdsClient { certificate: Some(&a), ..both.clone() })?.context("a certificate and a token")?;
    ensure!(control_plane.log().contains("by=\"certificate and token\""), "{}", control_plane.log());
    let status = connect(&XdsClient { certificate: Some(&b), ..both })?.err().context("of two identities")?;
    ensure!(status.code() == forbidden, "{status:?}");
    ensure!(
        control_plane.log().contains("the client certificate is of curl/b, the token of curl/a"),
        "{}",
        control_plane.log()
    );
    Ok(())
}

/// While the API server is away a token that it has confirmed is accepted, and no other.
#[test]
fn confirmed_tokens_count_while_the_api_server_is_away() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let mut accounts = TwoAccounts::new(&network)?;
    let own = accounts.own();
    // A confirmed token is cached for at most the review interval.
    let control_plane = accounts.cluster.control_plane(&accounts.flags(&own, &[]))?;
    let known = accounts.cluster.api.token("curl", "a", AUDIENCE, None)?;
    let unknown = accounts.cluster.api.token("curl", "b", AUDIENCE, None)?;
    accounts.connect("p.a.curl", &[&known])?.with_context(|| control_plane.log())?;
    accounts.cluster.api.kill();
    accounts.connect("p.a.curl", &[&known])?.with_context(|| control_plane.log())?;
    let status = accounts.connect("p.b.curl", &[&unknown])?.err().context("an unknown token got a policy")?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    ensure!(status.message().contains("tokens cannot be reviewed now: the API server"), "{status:?}");
    ensure!(control_plane.refusal_count("unavailable")? == 1, "{}", control_plane.get("/metrics")?);
    // Errors that need no API server are reported all the same.
    let status = accounts.connect("p.a.curl", &["garbage"])?.err().context("garbage got a policy")?;
    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    accounts.cluster.api.resume()?;
    let comes_back = || accounts.connect("p.b.curl", &[&unknown]).is_ok_and(|answer| answer.is_ok());
    wait_for("the other token to be good again", Duration::from_secs(20), comes_back)
        .with_context(|| control_plane.log())?;
    Ok(())
}

/// Without permission for token reviews the control plane logs the reason and accepts nobody.
#[test]
fn without_the_role_no_token_is_accepted() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let accounts = TwoAccounts::new(&network)?;
    let own = accounts.own();
    let without = ROLE.replace(TOKEN_REVIEW_RULE, "");
    ensure!(without.len() < ROLE.len(), "the role has another rule for tokens");
    accounts.cluster.api.apply(&without)?;
    let control_plane = accounts
        .cluster
        .launch(User::ControlPlane, SECOND_CONTROL_PLANE, &accounts.flags(&own, &[]))?
        .ready()?;
    let token = accounts.cluster.api.token("curl", "a", AUDIENCE, None)?;
    let to = SocketAddr::new(SECOND_CONTROL_PLANE, 15128);
    let status = accounts.connect_at(to, "p.a.curl", &[&token])?.err().context("it got a policy")?;
    ensure!(status.code() == Code::Unavailable && status.message().contains("403"), "{status:?}");
    ensure!(
        control_plane.log().contains("cannot create resource \"tokenreviews\""),
        "{}",
        control_plane.log()
    );
    Ok(())
}

const ROLE: &str = include_str!("../../../deploy/rbac.yaml");
const TOKEN_REVIEW_RULE: &str =
    "- apiGroups: [authentication.k8s.io]\n  resources: [tokenreviews]\n  verbs: [create]\n";

/// A pod's token has a limited number of streams: more are refused with the reason, and other pods are not
/// affected.
#[test]
fn a_token_has_a_limited_number_of_streams() -> Result<()> {
    ensure_capable()?;
    let network = TestNetwork::new()?;
    let accounts = TwoAccounts::new(&network)?;
    let cluster = &accounts.cluster;
    let own = accounts.own();
    let control_plane = cluster.control_plane(&accounts.flags(&own, &[]))?;
    let token = |account| cluster.api.token("curl", account, AUDIENCE, None);
    let bearer = format!("Bearer {}", token("a")?);
    let host = CONTROL_PLANE.to_string();
    let proxy = XdsClient {
        authority: Some(&accounts.authority.pem),
        host: &host,
        authorization: &[&bearer],
        node: "x.a.curl",
        ..XdsClient::default()
    };
    let netns = &cluster.network.outside.netns;
    // The streams of others go on meanwhile.
    let ((open, status), other) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| proxy.open_until_refused(netns, XDS_ADDRESS, 20));
        let other = accounts.connect("x.b.curl", &[&token("b")?])?;
        let flood = flood.join().map_err(|_| anyhow::anyhow!("the flood failed"))??;
        anyhow::Ok((flood, other))
    })?;
    ensure!(other.is_ok(), "{other:?}");
    ensure!(open == 16 && status.code() == Code::ResourceExhausted, "{open}: {status:?}");
    ensure!(status.message().contains("the token has 16 streams for discovery already"), "{status:?}");
    ensure!(control_plane.refusal_count("too-many-streams")? == 1, "{}", control_plane.log());
    Ok(())
}
