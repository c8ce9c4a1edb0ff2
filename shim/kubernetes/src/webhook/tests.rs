use std::sync::{Condvar, Mutex};

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
use egress_transport::connections::{EVICTION_AGE, GuardedConnection, Pool, serve_http};

fn webhooks() -> Webhooks {
    Webhooks {
        options: CompileOptions::default(),
        request_log: Arc::default(),
        sidecars: None,
        source: watch::channel(SourceState::default()).1,
        compiled: watch::channel(Arc::default()).1,
        reviews: ReviewCounters::default(),
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
async fn bodies_that_are_no_review_are_refused() {
    let webhooks = webhooks();
    let mut old = serde_json::from_str::<Value>(&good()).expect("JSON");
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut empty = serde_json::from_str::<Value>(&good()).expect("JSON");
    empty["request"].take();
    for (case, kind, body, status, expected) in [
        ("a type", "text/plain", good(), 415, "Invalid content type text/plain; Expected application/json\n"),
        ("no JSON", JSON, "{".to_owned(), 400, "the body is not an AdmissionReview: "),
        ("other JSON", JSON, "{}".to_owned(), 400, "the body is not an AdmissionReview: "),
        ("a version", JSON, old.to_string(), 400, "AdmissionReview of `admission.k8s.io/v1beta1`"),
        ("no request", JSON, empty.to_string(), 400, "the AdmissionReview has no request\n"),
        ("too much", JSON, " ".repeat(bodies::MAX_BODY_SIZE + 1), 413, "the body is longer than 8 MiB\n"),
    ] {
        let (message, text) = post_to(&webhooks, "/validate", kind, body).await;
        assert_eq!(message, status, "{case}: {text}");
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

/// Blocks work until it is opened, at most as long as a test.
struct Gate {
    entered: Mutex<usize>,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    const fn new() -> Self {
        Self { entered: Mutex::new(0), is_open: Mutex::new(false), opened: Condvar::new() }
    }

    fn pass(&self) {
        *self.entered.lock().expect("no panic") += 1;
        let is_open = self.is_open.lock().expect("no panic");
        let passed = self.opened.wait_timeout_while(is_open, Duration::from_secs(20), |is_open| !*is_open);
        drop(passed.expect("no panic"));
    }

    fn open(&self) {
        *self.is_open.lock().expect("no panic") = true;
        self.opened.notify_all();
    }

    fn entered(&self) -> usize {
        *self.entered.lock().expect("no panic")
    }
}

async fn until(condition: impl Fn() -> bool) {
    let come = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), come).await.expect("it does not come");
}

fn connection(pool: &Arc<Pool>, last: u8) -> Option<Extension<ConnectionInfo>> {
    let peer = std::net::SocketAddr::from(([10, 0, 0, last], 1));
    let slot = Arc::new(pool.acquire(peer.ip()).expect("a slot"));
    Some(Extension(ConnectionInfo { peer, local: None, certificates: None, slot }))
}

/// A review followed by this many spaces.
fn padded(padding: usize) -> (HeaderMap, Body) {
    let body = good() + &" ".repeat(padding);
    let kind = header::HeaderValue::from_static(JSON);
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_LENGTH, body.len().into())];
    (HeaderMap::from_iter(headers), Body::from(body))
}

/// A client that disconnects releases no permits that its work still needs.
#[tokio::test]
async fn limits_end_with_the_work() {
    static GATE: Gate = Gate::new();
    fn slow(_: &Webhooks, request: &AdmissionRequest<DynamicObject>, _: bool) -> AdmissionResponse {
        GATE.pass();
        AdmissionResponse::from(request)
    }
    let served: WebhookState = Arc::new((webhooks(), BodyReader::default()));
    let pool = Pool::new(8, EVICTION_AGE);
    let free = served.1.free();
    let (headers, body) = padded(1 << 20);
    let client = tokio::spawn(answer_review(
        "validate",
        Arc::clone(&served),
        connection(&pool, 1),
        headers,
        body,
        slow,
    ));
    until(|| GATE.entered() == 1).await;
    client.abort();
    assert!(client.await.expect_err("aborted").is_cancelled());
    let [memory, large, small] = served.1.free();
    assert!(memory + 1024 <= free[0] && large == 0, "{memory} {large}");
    assert_eq!((small, pool.len()), (free[2], 0), "the connection does not wait");
    GATE.open();
    until(|| served.1.free() == free).await;
}

/// An address that sends many costly small reviews gets half of the turns, and its queue is bounded: a review from
/// another address is answered at once.
#[tokio::test]
async fn a_flood_of_small_reviews_delays_no_other_review() {
    static GATE: Gate = Gate::new();
    fn costly(_: &Webhooks, request: &AdmissionRequest<DynamicObject>, _: bool) -> AdmissionResponse {
        GATE.pass();
        AdmissionResponse::from(request)
    }
    let served: WebhookState = Arc::new((webhooks(), BodyReader::default()));
    let pool = Pool::new(1000, EVICTION_AGE);
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (headers, body) = padded(60 << 10);
        flood.spawn(answer_review(
            "validate",
            Arc::clone(&served),
            connection(&pool, 1),
            headers,
            body,
            costly,
        ));
    }
    // Of 300, some have a turn, 256 wait for one, and the rest were refused.
    until(|| GATE.entered() == bodies::MAX_SMALL_REVIEWS_OF_ADDRESS && served.1.waiting() == 256).await;
    for _ in 0..3 {
        let (headers, body) = padded(0);
        let requested = answer_review(
            "validate",
            Arc::clone(&served),
            connection(&pool, 2),
            headers,
            body,
            Webhooks::validate,
        );
        let answer = tokio::time::timeout(Duration::from_secs(5), requested).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(GATE.entered(), bodies::MAX_SMALL_REVIEWS_OF_ADDRESS);
    GATE.open();
    let statuses: Vec<u16> = flood.join_all().await.iter().map(|answer| answer.status().as_u16()).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
}

/// A user counts as verified if the client has presented a certificate.
#[tokio::test]
async fn users_are_verified_by_the_client_certificate() {
    let webhooks = webhooks();
    let request_log = Arc::clone(&webhooks.request_log);
    let served: WebhookState = Arc::new((webhooks, BodyReader::default()));
    let pool = Pool::new(8, EVICTION_AGE);
    let review_of_it: Value = serde_json::from_str(&good()).expect("JSON");
    let mut object = review_of_it["request"]["object"].clone();
    // The API server's objects are read like this.
    object["metadata"]["annotations"] = json!({});
    let parsed = egress_compile::manifest::parse_value(&"a".into(), object);
    let object = parsed.expect("readable").objects[0].clone();
    for (certificates, name, expected) in [
        (None, "mallory", "mallory (not verified)"),
        (Some(Arc::new(vec![vec![1].into()])), "alice", "alice"),
        (None, "mallory", "alice"),
    ] {
        let mut body = review_of_it.clone();
        body["request"]["userInfo"]["username"] = json!(name);
        let mut connection = connection(&pool, 1);
        connection.as_mut().expect("one").certificates = certificates;
        let kind = header::HeaderValue::from_static(JSON);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
        let body = Body::from(body.to_string());
        let answer =
            answer_review("validate", Arc::clone(&served), connection, headers, body, Webhooks::validate)
                .await;
        assert_eq!(answer.status(), StatusCode::OK);
        let users = request_log.users_of(&object.reference, Some(&object));
        assert_eq!(users.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}

/// A request in flight is answered when the server stops; an idle connection is closed.
#[tokio::test]
async fn stopping_finishes_requests_in_flight() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (mut silent, other) = tokio::io::duplex(1 << 16);
    let (stop, stopped) = oneshot::channel::<()>();
    let pool = Pool::new(2, EVICTION_AGE);
    let guarded = |stream| {
        let peer = "10.0.0.1:1".parse().expect("an address");
        let slot = pool.acquire(std::net::SocketAddr::ip(&peer)).expect("a slot");
        Ok(GuardedConnection::new(stream, peer, slot, IDLE_TIMEOUT))
    };
    let connections =
        futures::stream::iter([guarded(server), guarded(other)]).chain(futures::stream::pending());
    let routes = webhooks().routes();
    let task = tokio::spawn(serve_http(connections, move |_| routes.clone(), HTTP_LIMITS, async {
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
    // A request on the other connection shows that the server serves both by now.
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
