//! Servers of files for the clients, over HTTP and HTTPS. They count their connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use egress_tests::authority::Pair;
use egress_tests::client::IO_TIMEOUT;
use egress_tests::netns::Netns;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Files over TLS.
pub(crate) const HTTPS_PORT: u16 = 4443;
/// Files in plaintext.
pub(crate) const HTTP_PORT: u16 = 8081;

/// Running servers, on every address of their namespace.
pub(crate) struct Servers {
    accepted: Arc<AtomicUsize>,
}

impl Servers {
    /// Starts the servers.
    pub(crate) fn start(netns: &Netns, files: &Path, pair: &Pair) -> Result<Self> {
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let (config, files) = (Arc::new(config), files.to_owned());
        let servers = Self { accepted: Arc::default() };
        let plain = files.clone();
        servers.serve(netns, HTTPS_PORT, move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config))?, stream);
            answer(&mut stream, &files)?;
            stream.conn.send_close_notify();
            Ok(stream.flush()?)
        })?;
        servers.serve(netns, HTTP_PORT, move |mut stream| answer(&mut stream, &plain))?;
        Ok(servers)
    }

    /// The number of connections accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn serve(
        &self,
        netns: &Netns,
        port: u16,
        serve: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let listener =
            netns.run(|| TcpListener::bind(("::", port)))?.with_context(|| format!("port {port}"))?;
        let (accepted, serve) = (Arc::clone(&self.accepted), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || {
                    let set = stream.set_read_timeout(Some(IO_TIMEOUT));
                    // A client may close early.
                    let _ = set.map_err(Into::into).and_then(|()| serve(stream));
                });
            }
        });
        Ok(())
    }
}

/// Answers one request with the file that it asks for.
fn answer(stream: &mut (impl Read + Write), files: &Path) -> Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let path: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let file = files.join(path);
    let file = if file.is_dir() { file.join("index.html") } else { file };
    let (status, body) = match std::fs::read(&file) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let kind = match file.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)?;
    Ok(stream.flush()?)
}
