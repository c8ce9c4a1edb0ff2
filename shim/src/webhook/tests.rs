use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::validate::tests::review_of;
use super::*;
use crate::connections::{EVICTION_AGE, Guarded, Pool, serve};

fn webhooks() -> Webhooks {
    Webhooks {
        options: CompileOptions::default(),
        witness: Arc::default(),
        sidecars: None,
        source: watch::channel(SourceState::default()).1,
        compiled: watch::channel(Arc::default()).1,
        reviews: Reviews::default(),
        clients: ClientNames::default(),
    }
}

fn good() -> String {
    let spec = json!({ "sources": [], "ports": [{ "number": 1, "protocol": "tcp" }] });
    let object = json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec });
    review_of("policy.openservicemesh.io/v1alpha1", "Egress", object, None).to_string()
}

async fn post_to(webhooks: &Webhooks, path: &str, kind: &str, body: String) -> (u16, String) {
    use hyper::service::Service;
    let request = Request::post(path).header("content-type", kind).body(Body::from(body)).expect("a request");
    let service = TowerToHyperService::new(webhooks.clone().routes());
    let response = service.call(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn what_is_no_review() {
    let webhooks = webhooks();
    let mut old = serde_json::from_str::<Value>(&good()).expect("JSON");
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut empty = serde_json::from_str::<Value>(&good()).expect("JSON");
    empty["request"].take();
    for (case, kind, body, status, expected) in [
        ("a type", "text/plain", good(), 415, "Invalid content type text/plain; Expected application/json\n"),
        ("no JSON", JSON, "{".to_owned(), 400, "this is no AdmissionReview: "),
        ("other JSON", JSON, "{}".to_owned(), 400, "this is no AdmissionReview: "),
        ("a version", JSON, old.to_string(), 400, "AdmissionReview of `admission.k8s.io/v1beta1`"),
        ("no request", JSON, empty.to_string(), 400, "the AdmissionReview has no request\n"),
        ("too much", JSON, " ".repeat(bodies::MAX_BODY_SIZE + 1), 413, "the body is longer than 8 MiB\n"),
    ] {
        let (said, text) = post_to(&webhooks, "/validate", kind, body).await;
        assert_eq!(said, status, "{case}: {text}");
        assert!(text.starts_with(expected), "{case}: {text}");
    }
    assert_eq!(post_to(&webhooks, "/", JSON, good()).await.0, 404);
}

#[tokio::test]
async fn answers_are_reviews_and_are_counted() {
    let webhooks = webhooks();
    let (status, text) = post_to(&webhooks, "/validate", "application/json; charset=utf-8", good()).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "the-uid");
    assert_eq!(answer["response"]["allowed"], true);
    let bad = good().replace("\"tcp\"", "\"udp\"");
    let (status, text) = post_to(&webhooks, "/validate", JSON, bad).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(false)));
    let count =
        |allowed| webhooks.reviews.get_or_create(&[("webhook", "validate"), ("allowed", allowed)]).get();
    assert_eq!((count("true"), count("false")), (1, 1));
}

/// A request that is under way when the server is stopped is answered; a silent connection is closed.
#[tokio::test]
async fn stopping_ends_well() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (mut silent, other) = tokio::io::duplex(1 << 16);
    let (stop, stopped) = oneshot::channel::<()>();
    let pool = Pool::new(2, EVICTION_AGE);
    let guarded = |stream| {
        let peer = "10.0.0.1:1".parse().expect("an address");
        let place = pool.enter(std::net::SocketAddr::ip(&peer)).expect("a place");
        Ok(Guarded::new(stream, peer, place, IDLE_TIMEOUT))
    };
    let connections =
        futures::stream::iter([guarded(server), guarded(other)]).chain(futures::stream::pending());
    let routes = webhooks().routes();
    let task = tokio::spawn(serve(connections, move |_| routes.clone(), LIMITS, async {
        let _ = stopped.await;
    }));
    let body = good();
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let (first, rest) = body.split_at(10);
    client.write_all(head.as_bytes()).await.expect("sent");
    client.write_all(first.as_bytes()).await.expect("sent");
    // One request on the other connection shows that both are served by now.
    silent.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = [0; 12];
    silent.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 404");
    stop.send(()).expect("it listens");
    client.write_all(rest.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true"), "{answer}");
    silent.read_to_end(&mut Vec::new()).await.expect("an end");
    task.await.expect("an end");
}
