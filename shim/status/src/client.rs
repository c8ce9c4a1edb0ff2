//! The client of the admin port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::Status;

/// The time within which a control plane must answer. A status of ten thousand proxies is written within a second.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the admin port of a running control plane.
#[derive(Clone, Copy, Debug)]
pub struct AdminClient {
    address: SocketAddr,
    timeout: Duration,
}

impl AdminClient {
    /// A client of the control plane at this address.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address, timeout: REQUEST_TIMEOUT }
    }

    /// The same with another timeout.
    #[must_use]
    pub const fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Reads the status.
    ///
    /// # Errors
    /// Fails when there is no answer in time, or the answer is not a status.
    pub async fn status(&self) -> Result<Status> {
        let text = self.get("/status").await?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} did not answer with a status: is it the admin address of `osm-egress serve`?",
                self.address
            )
        })
    }

    /// Checks that the control plane serves the current objects.
    ///
    /// # Errors
    /// Fails when it does not, or there is no answer in time.
    pub async fn ready(&self) -> Result<String> {
        self.get("/readyz").await
    }

    /// Reads a path as text.
    ///
    /// # Errors
    /// Fails when there is no answer in time, or the answer is an error.
    pub async fn get(&self, path: &str) -> Result<String> {
        tokio::time::timeout(self.timeout, self.request(path)).await.map_err(|_| {
            anyhow!(
                "the control plane at {} did not answer `{path}` within {:?}: is it the admin address of `osm-egress serve`?",
                self.address,
                self.timeout
            )
        })?
    }

    async fn request(&self, path: &str) -> Result<String> {
        let address = self.address;
        let stream = tokio::net::TcpStream::connect(address).await.with_context(|| {
            format!("cannot reach a control plane at {address}: is `osm-egress serve` running?")
        })?;
        let (mut client, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header("host", address.to_string())
            .body(http_body_util::Empty::<bytes::Bytes>::new())?;
        let response = client.send_request(request).await?;
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
        ensure!(status.is_success(), "{address}{path}: {status}, {}", String::from_utf8_lossy(&body).trim());
        Ok(String::from_utf8(body.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Another program may listen there, or the control plane may be suspended.
    #[tokio::test]
    async fn a_server_that_does_not_answer_ends_the_request() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = AdminClient::new(address).with_timeout(Duration::from_millis(50));
        let error = client.status().await.expect_err("no answer").to_string();
        assert!(error.contains("did not answer `/status` within 50ms"), "{error}");
    }
}
