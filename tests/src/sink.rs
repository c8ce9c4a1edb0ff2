//! A server that reads everything, answers nothing, and records the arrival time of each byte.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::netns::Netns;

/// A running sink. It runs until its namespace is removed.
#[derive(Debug)]
pub struct Sink(Arc<Mutex<Vec<Arrival>>>);

/// The arrival of bytes, or of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The local address.
    pub to: SocketAddr,
    /// The time.
    pub at: Instant,
    /// The number of bytes; 0 for the beginning of a connection.
    pub bytes: usize,
}

impl Sink {
    /// Starts a sink at these ports of an address of the namespace.
    ///
    /// # Errors
    /// Fails if a port is taken.
    pub fn start(netns: &Netns, address: IpAddr, ports: impl IntoIterator<Item = u16>) -> Result<Self> {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let sink = Self(Arc::clone(&arrivals));
        let ports: Vec<u16> = ports.into_iter().collect();
        let (sender, started) = std::sync::mpsc::channel();
        netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    for port in ports {
                        let to = SocketAddr::new(address, port);
                        let listener =
                            TcpListener::bind(to).await.with_context(|| format!("cannot listen at {to}"))?;
                        tokio::spawn(accept(listener, to, Arc::clone(&arrivals)));
                    }
                    let _ = sender.send(Ok(()));
                    std::future::pending::<Result<()>>().await
                })
            });
            let _ = sender.send(result);
        })?;
        started.recv().map_err(|_| anyhow!("the thread of the sink died"))??;
        Ok(sink)
    }

    /// The arrivals so far, in order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of connections at a port.
    #[must_use]
    pub fn connections(&self, port: u16) -> usize {
        self.arrivals().iter().filter(|arrival| arrival.to.port() == port && arrival.bytes == 0).count()
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, arrivals: Arc<Mutex<Vec<Arrival>>>) {
    let arrived = move |bytes| {
        let arrival = Arrival { to, at: Instant::now(), bytes };
        arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
    };
    while let Ok((stream, _)) = listener.accept().await {
        arrived(0);
        tokio::spawn(read(stream, arrived.clone()));
    }
}

async fn read(mut stream: TcpStream, arrived: impl Fn(usize)) {
    let mut buffer = [0; 16 << 10];
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
        arrived(bytes);
    }
}
