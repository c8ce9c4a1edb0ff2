//! A mutating webhook of somebody else, which adds containers to every pod.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::authority::Volume;
use crate::netns::Netns;

/// The time that a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the webhook at this address, with the certificate of the volume, for as long as this process runs. It puts a
/// container of this name before the others, and an init container `NAME-init` before the other init containers, unless
/// the pod has them.
///
/// # Errors
/// Fails if the address is taken.
pub fn start(netns: &Netns, address: SocketAddr, volume: &Volume, name: &'static str) -> Result<()> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(volume.path("tls.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(volume.path("tls.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = netns.run(|| TcpListener::bind(address))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                // An API server that ends a connection is no failure.
                let _ = serve(stream, config, name);
            });
        }
    });
    Ok(())
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config)?, stream));
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let answer = answer(&serde_json::from_slice(&body)?, name)?.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let stream = stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(answer.as_bytes())?;
        stream.flush()?;
    }
}

fn answer(review: &Value, name: &str) -> Result<Value> {
    let request = review.get("request").context("no request")?;
    let spec = request.pointer("/object/spec").ok_or_else(|| anyhow!("no pod"))?;
    let init = format!("{name}-init");
    let has = |list: &str, name: &str| {
        let containers = spec.get(list).and_then(Value::as_array).into_iter().flatten();
        containers.into_iter().any(|container| container["name"] == name)
    };
    let mut patch = Vec::new();
    for (list, name) in [("containers", name), ("initContainers", &init)] {
        if has(list, name) {
            continue;
        }
        let container = json!({"name": name, "image": "other", "securityContext": {"runAsUser": 7}});
        patch.push(match spec.get(list) {
            Some(_) => json!({"op": "add", "path": format!("/spec/{list}/0"), "value": container}),
            None => json!({"op": "add", "path": format!("/spec/{list}"), "value": [container]}),
        });
    }
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if !patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::from(patch).to_string()));
    }
    Ok(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}
