//! The probe of the API server: a watch without events looks the same whether the server answers or not.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use tokio::sync::mpsc::Sender;

use super::client::reason;
use super::cluster_cache::Event;

/// The interval of probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// The interval while the server does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The time that an answer may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Probes until the receiver of events is gone.
pub(super) async fn probe_api_server(client: Client, events: Sender<Event>) {
    loop {
        let event = match tokio::time::timeout(PROBE_TIMEOUT, client.apiserver_version()).await {
            Ok(Ok(_)) => Event::ServerAvailable,
            Ok(Err(error)) => Event::ServerUnavailable(reason(&error)),
            Err(_) => {
                Event::ServerUnavailable(format!("the API server does not answer within {PROBE_TIMEOUT:?}"))
            }
        };
        let pause = if event == Event::ServerAvailable { PROBE_INTERVAL } else { RETRY_INTERVAL };
        if events.send(event).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Succeeds if the API server is ready. A starting one does not serve all kinds yet.
pub(super) async fn check_ready(client: &Client) -> kube::Result<()> {
    let request = Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(|_| ())
}
