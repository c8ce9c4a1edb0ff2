use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() }
}

fn domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}

/// Compares an identity with the expected one, or an error with a part of its expected text.
fn same<E: std::fmt::Display>(case: &str, found: Result<Identity, E>, expected: Result<&str, &str>) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found.to_string(), expected, "{case}"),
        (Err(error), Err(expected)) => {
            assert!(error.to_string().contains(expected), "{case}: {error}\ninstead of: {expected}");
        }
        (found, expected) => {
            panic!("{case}: {:?} instead of {expected:?}", found.map_err(|e| e.to_string()))
        }
    }
}

#[test]
fn a_node_that_is_believed() {
    let meta: &[_] = &[("NAMESPACE", "ns"), ("SERVICE_ACCOUNT", "sa")];
    let form = "is not of the form `<anything>.<service account>.<namespace>`";
    for (id, metadata, expected) in [
        ("pod-1.sa.ns", &[][..], Ok("ns/sa")),
        ("a.b.c.sa.ns", &[], Ok("ns/sa")),
        ("whatever", meta, Ok("ns/sa")),
        ("pod.sa.ns", meta, Ok("ns/sa")),
        ("pod.other.ns", meta, Err("node id `pod.other.ns` says ns/other, its metadata say ns/sa")),
        ("sa.ns", &[], Err(form)),
        (".sa.ns", &[], Err(form)),
        ("", &[], Err(form)),
        ("pod.SA.ns", &[], Err("`SA` is not a Kubernetes name")),
    ] {
        same(id, Identification::NodeId.resolve_identity(None, &node(id, metadata)), expected);
    }
}

/// With credentials a node may say who they are of, or nothing.
#[test]
fn a_node_cannot_claim_another_identity() {
    let accepted = Accepted { certificates: None, tokens: None, review_interval: Duration::from_secs(300) };
    let ways = Identification::Credentials(Box::new(accepted));
    let identity = Identity::new("ns", "sa").expect("valid");
    let verified = Verified { identity, by: "token", expires: UNIX_EPOCH };
    let uuid = "0b1e2d3c-4f5a-6789-abcd-ef0123456789";
    for (id, metadata, expected) in [
        ("pod.sa.ns", &[][..], Ok("ns/sa")),
        (uuid, &[], Ok("ns/sa")),
        ("", &[], Ok("ns/sa")),
        ("anything", &[("NAMESPACE", "ns"), ("SERVICE_ACCOUNT", "sa")], Ok("ns/sa")),
        (&format!("{uuid}.sidecar.sa.ns.cluster.local"), &[], Ok("ns/sa")),
        // Of another control plane; it only looks as if it ended in an identity.
        ("sidecar~10.0.0.1~pod.b~b.svc.cluster.local", &[], Ok("ns/sa")),
        ("pod.b.ns", &[], Err("ns/sa (by token) asks for what is of ns/b, says its node id `pod.b.ns`")),
        ("pod.sa.other", &[], Err("asks for what is of other/sa")),
        (&format!("{uuid}.sidecar.b.ns.cluster.local"), &[], Err("asks for what is of ns/b")),
        ("x", &[("NAMESPACE", "other")], Err("NAMESPACE `other`, say the metadata of its node `x`")),
        ("pod.sa.ns", &[("SERVICE_ACCOUNT", "b")], Err("SERVICE_ACCOUNT `b`")),
        ("pod.sa.ns", &[("SERVICE_ACCOUNT", "")], Err("SERVICE_ACCOUNT ``")),
    ] {
        same(id, ways.resolve_identity(Some(&verified), &node(id, metadata)), expected);
    }
    same("none", ways.resolve_identity(None, &node("pod.sa.ns", &[])), Err("no credentials"));
}

#[test]
fn names_in_certificates() {
    let uuid = "0b1e2d3c-4f5a-6789-abcd-ef0123456789";
    let cn = |rest: &str| format!("{uuid}.{rest}");
    let spiffe = |rest: &str| format!("spiffe://{rest}");
    let good = cn("sidecar.sa.ns.cluster.local");
    let good_uri = spiffe("cluster.local/ns/ns/sa/sa");
    let nobody = "it names no service account";
    let form = "is not of the form";
    for (names, uris, expected) in [
        (&[good.as_str()][..], &[][..], Ok("ns/sa")),
        (&[], &[good_uri.as_str()], Ok("ns/sa")),
        (&[&good], &[&good_uri], Ok("ns/sa")),
        // Whoever has a SPIFFE URI may call the certificate as he likes.
        (&["curl"], &[&good_uri], Ok("ns/sa")),
        (&[uuid], &[&good_uri], Ok("ns/sa")),
        (&[], &[&spiffe("cluster.local/ns/ns/sa/a.b")], Ok("ns/a.b")),
        (&[&good], &["https://a.org"], Ok("ns/sa")),
        // Nobody.
        (&[], &[], Err(nobody)),
        (&["curl"], &[], Err(nobody)),
        (&["osm-egress.osm-system.svc"], &["https://a.org"], Err(nobody)),
        // Two.
        (&[&good, &good], &[], Err("it has several common names")),
        (&[], &[&good_uri, &good_uri], Err("it has several URIs beside a SPIFFE URI")),
        (&[&good], &[&good_uri, "https://a.org"], Err("it has several URIs")),
        (
            &[&good],
            &[&spiffe("cluster.local/ns/ns/sa/b")],
            Err("its common name says ns/sa, its SPIFFE URI ns/b"),
        ),
        // Not quite.
        (&[&cn("sidecar.sa.ns.other.local")], &[], Err("is of trust domain `other.local`")),
        (&[&cn("sidecar.sa.ns.other.local")], &[&good_uri], Err("is of trust domain `other.local`")),
        (&[&cn("sidecar.sa.ns.CLUSTER.local")], &[], Err("is of trust domain `CLUSTER.local`")),
        // A service account with a dot cannot be written so, and must not be taken for another.
        (&[&cn("sidecar.a.b.ns.cluster.local")], &[], Err("is of trust domain `ns.cluster.local`")),
        (&[&cn("gateway.sa.ns.cluster.local")], &[], Err(form)),
        (&[&cn("sidecar.sa.ns")], &[], Err(form)),
        (&[&cn("sidecar..ns.cluster.local")], &[], Err(form)),
        (&[&cn("sidecar.sa.ns.")], &[], Err(form)),
        (&[&cn("sidecar.SA.ns.cluster.local")], &[], Err("`SA` is not a Kubernetes name")),
        (&["no-uuid.sidecar.sa.ns.cluster.local"], &[], Err(nobody)),
        (&[], &[&spiffe("other.local/ns/ns/sa/sa")], Err("is of trust domain `other.local`")),
        (&[], &[&spiffe("cluster.local/ns/ns/sa/sa/")], Err(form)),
        (&[], &[&spiffe("cluster.local/ns/ns/sa/sa?x")], Err("is not a Kubernetes name")),
        (&[], &[&spiffe("cluster.local/ns/ns/sa/s%61")], Err("is not a Kubernetes name")),
        (&[], &[&spiffe("cluster.local/ns//sa/sa")], Err("is not a Kubernetes name")),
        (&[], &[&spiffe("cluster.local/sa/sa/ns/ns")], Err(form)),
        (&[], &[&spiffe("u@cluster.local/ns/ns/sa/sa")], Err("is of trust domain `u@cluster.local`")),
        (&[], &["SPIFFE://cluster.local/ns/ns/sa/sa"], Err(form)),
        (&[&good], &["SPIFFE://cluster.local/ns/ns/sa/sa"], Err(form)),
    ] {
        let case = format!("{names:?} {uris:?}");
        same(&case, certificate::identity(names, uris, &domain()), expected);
    }
}

/// The same from a certificate, in which names have encodings.
#[test]
fn certificates() {
    let mut params = CertificateParams::new(vec!["a.org".to_owned()]).expect("a name");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "curl");
    let uri = "spiffe://cluster.local/ns/ns/sa/sa".try_into().expect("ASCII");
    params.subject_alt_names.push(SanType::URI(uri));
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let made = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
    let (identity, expires) = certificate::read(made.der(), &domain()).expect("an identity");
    assert_eq!(identity.to_string(), "ns/sa");
    assert_eq!(expires, UNIX_EPOCH + Duration::from_secs(2_208_988_800));
    let error = certificate::read(b"none", &domain()).expect_err("no certificate");
    assert!(error.to_string().starts_with("it cannot be read"), "{error}");
}

#[test]
fn users_of_tokens() {
    for (user, expected) in [
        ("system:serviceaccount:ns:sa", Ok("ns/sa")),
        ("system:serviceaccount:ns:a.b", Ok("ns/a.b")),
        ("system:node:n", Err("which is no service account")),
        ("admin", Err("which is no service account")),
        ("", Err("which is no service account")),
        ("system:serviceaccount:ns", Err("which is no service account")),
        ("system:serviceaccount:ns:", Err("is not a Kubernetes name")),
        ("system:serviceaccount::sa", Err("is not a Kubernetes name")),
        ("system:serviceaccount:ns:sa:x", Err("is not a Kubernetes name")),
        ("SYSTEM:serviceaccount:ns:sa", Err("which is no service account")),
    ] {
        same(user, token::of_user(user), expected);
    }
}

fn jwt(payload: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// Tokens are refused by their claims without asking the API server.
#[test]
fn tokens_at_first_sight() {
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    for (payload, expected) in [
        (r#"{"exp":1010,"aud":["osm-egress"]}"#, Ok(1010)),
        (r#"{"exp":1010,"aud":"osm-egress"}"#, Ok(1010)),
        (r#"{"exp":1010,"aud":["a","osm-egress"],"sub":"x"}"#, Ok(1010)),
        (r#"{"exp":1000,"aud":["osm-egress"]}"#, Err("it expired 0 s ago")),
        (r#"{"exp":10,"aud":["osm-egress"]}"#, Err("it expired 990 s ago")),
        (r#"{"exp":1010,"aud":["a"]}"#, Err(r#"its audience is ["a"], not `osm-egress`"#)),
        (r#"{"exp":1010,"aud":[]}"#, Err("its audience is []")),
        (r#"{"exp":1010}"#, Err("its audience is []")),
        (r#"{"aud":["osm-egress"]}"#, Err("it says neither when it expires")),
        (r#"{"exp":-1,"aud":["osm-egress"]}"#, Err("it says neither when it expires")),
        (r#"{"exp":18446744073709551615,"aud":["osm-egress"]}"#, Err("its expiry is no time")),
        ("[]", Err("it says neither when it expires")),
        ("", Err("it says neither when it expires")),
    ] {
        let found = token::check_claims(&jwt(payload), "osm-egress", now);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, UNIX_EPOCH + Duration::from_secs(expected)),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{payload}: {error}");
            }
            (found, expected) => panic!("{payload}: {found:?} instead of {expected:?}"),
        }
    }
    for (text, expected) in
        [("a.b", "three parts"), ("a.b.c.d", "three parts"), ("opaque", "three parts"), ("a.%.c", "base64")]
    {
        let error = token::check_claims(text, "osm-egress", now).expect_err(text);
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    for (text, expected) in [
        ("Bearer a.b.c", Some("a.b.c")),
        ("bearer  a.b.c ", Some("a.b.c")),
        ("Bearer ", None),
        ("Bearer", None),
        ("Basic YTpi", None),
        ("", None),
    ] {
        assert_eq!(token::bearer(text).ok(), expected, "{text}");
    }
}

proptest! {
    /// Nothing that somebody sends ends the program; and what is taken for an identity is one, of our domain.
    #[test]
    fn nothing_panics(
        text in "\\PC{0,80}",
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        name in "([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.)?[a-z.]{0,12}(sidecar)?[a-z.:/]{0,40}",
    ) {
        for text in [text.as_str(), &name] {
            if let Ok(identity) = certificate::identity(&[text], &[], &domain()) {
                let tail = format!(".sidecar.{}.{}.cluster.local", identity.service_account(), identity.namespace());
                prop_assert!(text.ends_with(&tail), "{}", text);
            }
            let uri = format!("spiffe://{text}");
            if let Ok(identity) = certificate::identity(&[], &[&uri], &domain()) {
                let (namespace, service_account) = (identity.namespace(), identity.service_account());
                prop_assert_eq!(uri, format!("spiffe://cluster.local/ns/{namespace}/sa/{service_account}"));
            }
            let user = format!("system:serviceaccount:{text}");
            if let Ok(identity) = token::of_user(&user) {
                let (namespace, service_account) = (identity.namespace(), identity.service_account());
                prop_assert_eq!(user, format!("system:serviceaccount:{namespace}:{service_account}"));
            }
            let _ = token::bearer(text).map(|token| token::check_claims(token, "a", UNIX_EPOCH).is_ok());
            let _ = token::check_claims(&jwt(text), "a", UNIX_EPOCH);
            let _ = node::other(&node(text, &[("NAMESPACE", text)]), &Identity::new("ns", "sa").expect("valid"));
        }
        let _ = certificate::read(&bytes, &domain());
    }
}
