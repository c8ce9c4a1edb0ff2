//! The outside hosts of the local mesh (`docker-compose.yml`): every server of the harness in one process. It
//! prints a JSON object for each connection and request.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use egress_tests::grpc;
use egress_tests::origin::{OriginEvent, Origins};
use tokio::signal::unix::{SignalKind, signal};

/// Serves HTTP, HTTPS, TCP echo, a server that speaks first, and gRPC.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Exit with 0 if the servers run: a health check for images without other programs.
    Check,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        None => serve(),
        Some(Task::Check) => check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        Origins::with_observer(print_event).listen().await?;
        tokio::select! {
            ended = grpc::serve_here() => ended,
            _ = terminate.recv() => Ok(()),
        }
    })
}

fn print_event(seen: &OriginEvent) {
    let line = match seen {
        OriginEvent::Connection(to) if to.ip().is_loopback() => return,
        OriginEvent::Connection(to) => serde_json::json!({"connection": to}),
        OriginEvent::Request(to, authority, path) => {
            serde_json::json!({"request": to, "authority": authority, "path": path})
        }
    };
    // A closed output does not stop the servers.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Connects to the gRPC port, which is bound last.
fn check() -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, grpc::TLS_PORT));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).context("it does not serve")?;
    Ok(())
}
