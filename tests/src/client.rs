//! Clients of a workload: plain sockets, HTTP and TLS, with control over every byte. All functions block. Run
//! them inside the workload's namespace.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::authority::Pair;

/// The time limit of every operation here.
pub const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was refused.
    Refused(String),
    /// The connection was closed or reset before an answer.
    Closed,
    /// Nothing came before [`IO_TIMEOUT`].
    Silence,
    /// An HTTP response.
    Http(HttpResponse),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Connects, and sets time limits for every later operation.
///
/// # Errors
/// Returns the outcome of the failed attempt.
pub fn connect(to: SocketAddr) -> Result<TcpStream, Outcome> {
    let stream =
        TcpStream::connect_timeout(&to, IO_TIMEOUT).map_err(|e| Outcome::Refused(e.kind().to_string()))?;
    let set =
        stream.set_read_timeout(Some(IO_TIMEOUT)).and_then(|()| stream.set_write_timeout(Some(IO_TIMEOUT)));
    set.and_then(|()| stream.set_nodelay(true)).map_err(|e| Outcome::Refused(e.to_string()))?;
    Ok(stream)
}

/// Sends bytes and reads the first answer.
#[must_use]
pub fn exchange(to: SocketAddr, bytes: &[u8]) -> Outcome {
    let mut stream = match connect(to) {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    if stream.write_all(bytes).is_err() {
        return Outcome::Closed;
    }
    first_bytes(&mut stream)
}

/// Sends bytes in parts, each in a segment of its own, then closes the sending half if `close` is set.
#[must_use]
pub fn exchange_in_parts(to: SocketAddr, parts: &[&[u8]], close: bool) -> Outcome {
    let mut stream = match connect(to) {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    for part in parts {
        if stream.write_all(part).is_err() {
            return Outcome::Closed;
        }
        // There is no condition to wait for, because the proxy is silent. 2 ms make it likely that
        // the parts do not arrive as one segment.
        std::thread::sleep(Duration::from_millis(2));
    }
    if close && stream.shutdown(Shutdown::Write).is_err() {
        return Outcome::Closed;
    }
    first_bytes(&mut stream)
}

fn first_bytes(stream: &mut impl Read) -> Outcome {
    let mut buffer = vec![0; 64 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => Outcome::Closed,
        Ok(length) => {
            buffer.truncate(length);
            Outcome::Bytes(buffer)
        }
        Err(error) => ended(&error),
    }
}

fn ended(error: &std::io::Error) -> Outcome {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Outcome::Silence,
        _ => Outcome::Closed,
    }
}

/// Formats an HTTP/1.1 request.
#[must_use]
pub fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

/// Sends one plaintext request.
#[must_use]
pub fn http(to: SocketAddr, bytes: &[u8]) -> Outcome {
    match connect(to) {
        Ok(mut stream) => http_on(&mut stream, bytes),
        Err(outcome) => outcome,
    }
}

/// Sends one request over TLS, with or without a server name.
#[must_use]
pub fn https(to: SocketAddr, server_name: Option<&str>, bytes: &[u8]) -> Outcome {
    let stream = match connect(to) {
        Ok(stream) => stream,
        Err(outcome) => return outcome,
    };
    match tls(stream, server_name) {
        Ok(mut stream) => http_on(&mut stream, bytes),
        Err(outcome) => outcome,
    }
}

/// Sends one request over TLS with a client certificate.
///
/// # Errors
/// Fails if the certificate cannot be read.
pub fn https_as(to: SocketAddr, pair: &Pair, bytes: &[u8]) -> Result<Outcome> {
    let mut stream = match connect(to) {
        Ok(stream) => stream,
        Err(outcome) => return Ok(outcome),
    };
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let certified = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?;
    let mut config = accept_any_certificate()?;
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::IpAddress(to.ip().into()))?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            return Ok(ended(&error));
        }
    }
    Ok(http_on(&mut StreamOwned::new(connection, stream), bytes))
}

/// A TLS configuration that accepts any certificate. Tests identify the origin by its headers.
///
/// # Errors
/// Never, with this provider.
pub fn accept_any_certificate() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate))
        .with_no_client_auth())
}

/// Opens a TLS session on a connection and completes the handshake.
///
/// # Errors
/// Returns the outcome of the failed attempt.
pub fn tls(
    mut stream: TcpStream,
    server_name: Option<&str>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Outcome> {
    let mut config = accept_any_certificate().map_err(|e| Outcome::Refused(e.to_string()))?;
    config.enable_sni = server_name.is_some();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = server_name.unwrap_or("none.invalid").to_owned();
    let name = ServerName::try_from(name).map_err(|e| Outcome::Refused(e.to_string()))?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(|e| Outcome::Refused(e.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|e| ended(&e))?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Sends a request and reads its response, on a connection that may be used again.
pub fn http_on(stream: &mut (impl Read + Write), bytes: &[u8]) -> Outcome {
    if stream.write_all(bytes).and_then(|()| stream.flush()).is_err() {
        return Outcome::Closed;
    }
    let head_only = bytes.starts_with(b"HEAD ");
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Some(answer) = parse(&received, head_only, false) {
            return Outcome::Http(answer);
        }
        match stream.read(&mut buffer) {
            Ok(0) => return parse(&received, head_only, true).map_or(Outcome::Closed, Outcome::Http),
            Ok(length) => received.extend_from_slice(&buffer[..length]),
            Err(error) => return ended(&error),
        }
    }
}

/// Parses a complete response, whose length is known or whose connection has ended.
fn parse(bytes: &[u8], head_only: bool, ended: bool) -> Option<HttpResponse> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
    let body = bytes.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let body = if head_only || status == 204 || status == 304 {
        vec![]
    } else if let Some(length) = find("content-length").and_then(|length| length.parse().ok()) {
        body.get(..length)?.to_vec()
    } else if find("transfer-encoding").is_some() {
        if !ended && !body.ends_with(b"0\r\n\r\n") {
            return None;
        }
        body.to_vec()
    } else if ended {
        body.to_vec()
    } else {
        return None;
    };
    Some(HttpResponse { status, headers, body })
}

/// Accepts every certificate. Tests identify the origin by its headers.
#[derive(Debug)]
struct AcceptAnyCertificate;

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
