//! Whether the API server answers. A watch on which nothing happens looks the same whether it does or not.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use tokio::sync::mpsc::Sender;

use super::connect::reason;
use super::gather::Event;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often it is asked while it does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, for as long as anybody listens.
pub(super) async fn probe(client: Client, events: Sender<Event>) {
    loop {
        let answer = match tokio::time::timeout(PATIENCE, client.apiserver_version()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(reason(&error)),
            Err(_) => Some(format!("the API server does not answer within {PATIENCE:?}")),
        };
        let pause = if answer.is_none() { INTERVAL } else { AGAIN };
        if events.send(Event::Server(answer)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether the API server says that it is complete. One that is starting does not know all its kinds yet.
pub(super) async fn is_complete(client: &Client) -> kube::Result<()> {
    let request = Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(|_| ())
}
