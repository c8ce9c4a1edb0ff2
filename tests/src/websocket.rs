//! A websocket server that echoes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, accept_hdr_with_config};

use crate::netns::Netns;

/// The port.
pub const PORT: u16 = 8090;

/// A running server.
#[derive(Debug, Clone, Default)]
pub struct WebsocketServer {
    ended: Arc<Mutex<Vec<Session>>>,
}

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The local address.
    pub at: SocketAddr,
    /// The path of the request.
    pub path: String,
    /// The number of messages received.
    pub messages: u64,
    /// True if the connection ended with the close handshake.
    pub closed: bool,
}

impl WebsocketServer {
    /// Starts the server on every address of the namespace.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub fn start(netns: &Netns) -> Result<Self> {
        let listener =
            netns.run(|| TcpListener::bind(("::", PORT)))?.context("the port of the websocket server")?;
        let server = Self::default();
        let starting = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = starting.clone();
                std::thread::spawn(move || {
                    if let Ok(session) = serve(stream) {
                        server.ended.lock().unwrap_or_else(PoisonError::into_inner).push(session);
                    }
                });
            }
        });
        Ok(server)
    }

    /// The connections that have ended.
    #[must_use]
    pub fn ended(&self) -> Vec<Session> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Limits that let large frames through.
#[must_use]
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_frame_size(Some(32 << 20)).max_message_size(Some(64 << 20))
}

fn serve(stream: TcpStream) -> Result<Session> {
    let local = stream.local_addr()?;
    let at = SocketAddr::new(local.ip().to_canonical(), local.port());
    stream.set_nodelay(true)?;
    let (sender, path) = std::sync::mpsc::channel();
    #[expect(clippy::result_large_err, reason = "the type is tungstenite's")]
    let note = move |request: &Request, response: Response| {
        let _ = sender.send(request.uri().path().to_owned());
        Ok(response)
    };
    let mut socket = accept_hdr_with_config(stream, note, Some(config()))?;
    let mut session = Session { at, path: path.recv()?, messages: 0, closed: false };
    loop {
        match socket.read() {
            Ok(message) if message.is_text() || message.is_binary() => {
                session.messages += 1;
                socket.send(message)?;
            }
            // Pings and the close are answered by the library.
            Ok(_) => {}
            Err(Error::ConnectionClosed) => {
                session.closed = true;
                return Ok(session);
            }
            Err(_) => return Ok(session),
        }
    }
}
