//! A gRPC service without a `.proto`: tonic's server and client, and a message written by hand. Port 50051 is
//! plaintext (h2c with prior knowledge), port 50443 is TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::client::IO_TIMEOUT;
use crate::netns::Netns;

/// The name in the server's certificate.
pub const NAME: &str = "grpc.example";
/// The plaintext port.
pub const PLAIN_PORT: u16 = 50051;
/// The TLS port.
pub const TLS_PORT: u16 = 50443;

/// The service's only message type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Text {
    /// The text.
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Text {
    /// Creates a message.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// A running server.
#[derive(Debug)]
pub struct GrpcServer {
    /// The certificate that verifies the server.
    pub certificate: Certificate,
}

impl GrpcServer {
    /// Starts the server on every address of the namespace.
    ///
    /// # Errors
    /// Fails if a port is taken.
    pub fn start(netns: &Netns) -> Result<Self> {
        let (identity, certificate) = made()?;
        let (sender, started) = std::sync::mpsc::channel();
        netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                let ready = || {
                    let _ = sender.send(Ok(()));
                };
                runtime.block_on(serve(identity, ready))
            });
            let _ = sender.send(result);
        })?;
        started.recv().map_err(|_| anyhow!("the gRPC server's thread died"))??;
        Ok(Self { certificate: Certificate::from_pem(certificate) })
    }
}

fn made() -> Result<(Identity, String)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = made.cert.pem();
    Ok((Identity::from_pem(&certificate, made.signing_key.serialize_pem()), certificate))
}

async fn serve(identity: Identity, ready: impl FnOnce()) -> Result<()> {
    let plain = TcpListener::bind(("::", PLAIN_PORT)).await.context("the port of gRPC")?;
    let tls = TcpListener::bind(("::", TLS_PORT)).await.context("the port of gRPC over TLS")?;
    ready();
    let secure = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?;
    tokio::try_join!(
        Server::builder().add_service(Echo).serve_with_incoming(TcpListenerStream::new(plain)),
        secure.clone().add_service(Echo).serve_with_incoming(TcpListenerStream::new(tls)),
    )?;
    Ok(())
}

/// Serves in this process's own namespace until the process ends.
///
/// # Errors
/// Fails if a port is taken.
pub async fn serve_here() -> Result<()> {
    serve(made()?.0, || {}).await
}

/// Echoes each text, prefixed by the local address of the call.
#[derive(Debug, Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "egress.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default());
            Ok(match request.uri().path() {
                "/egress.Echo/Say" => grpc.unary(Self, request).await,
                "/egress.Echo/Chat" => grpc.streaming(Self, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn answer(at: Option<SocketAddr>, received: &Text) -> Text {
    let at = at.map(|at| at.ip().to_canonical().to_string()).unwrap_or_default();
    Text { text: format!("{at} {}", received.text) }
}

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = BoxFuture<Response<Text>, Status>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(answer(request.local_addr(), request.get_ref()))) })
    }
}

impl StreamingService<Text> for Echo {
    type Response = Text;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        Box::pin(async move {
            let at = request.local_addr();
            let received = request.into_inner();
            let answers = received.map(move |text| text.map(|text| answer(at, &text)));
            Ok(Response::new(Box::pin(answers) as Self::ResponseStream))
        })
    }
}

/// Opens a channel for [`NAME`] to this address: over TLS if there is a certificate to verify the server
/// with.
///
/// # Errors
/// Fails if there is no connection.
pub async fn channel(to: SocketAddr, certificate: Option<&Certificate>) -> Result<Channel> {
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{to}"))?
        .origin(format!("{scheme}://{NAME}:{}", to.port()).parse()?)
        .timeout(IO_TIMEOUT);
    if let Some(certificate) = certificate {
        let tls = ClientTlsConfig::new().ca_certificate(certificate.clone()).domain_name(NAME);
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint.connect().await?)
}

/// Makes a unary call.
///
/// # Errors
/// Returns the status of the server or of a proxy on the way.
pub async fn send_message(channel: &Channel, text: &str) -> Result<String, Status> {
    let mut client = Client::new(channel.clone());
    client.ready().await.map_err(|e| Status::unavailable(format!("{e:?}")))?;
    let path = PathAndQuery::from_static("/egress.Echo/Say");
    let codec = ProstCodec::<Text, Text>::default();
    Ok(client.unary(Request::new(Text::new(text)), path, codec).await?.into_inner().text)
}

/// Makes a bidirectional streaming call.
///
/// # Errors
/// Returns the status of the server or of a proxy on the way.
pub async fn chat(
    channel: &Channel,
    texts: impl Stream<Item = Text> + Send + 'static,
) -> Result<Streaming<Text>, Status> {
    let mut client = Client::new(channel.clone());
    client.ready().await.map_err(|e| Status::unavailable(format!("{e:?}")))?;
    let path = PathAndQuery::from_static("/egress.Echo/Chat");
    let codec = ProstCodec::<Text, Text>::default();
    Ok(client.streaming(Request::new(texts), path, codec).await?.into_inner())
}
