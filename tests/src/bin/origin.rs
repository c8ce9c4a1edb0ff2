//! The outside hosts of the local mesh (`docker-compose.yml`): every server of the harness in one process,
//! which says who came, a JSON object per line.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use egress_tests::grpc;
use egress_tests::origin::{Origins, Seen};
use tokio::signal::unix::{SignalKind, signal};

/// HTTP, HTTPS, TCP echo, a server that speaks first, gRPC.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Exit with 0 if it serves: for health checks of an image that has no other program.
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
        Origins::telling(say).listen().await?;
        tokio::select! {
            ended = grpc::serve_here() => ended,
            _ = terminate.recv() => Ok(()),
        }
    })
}

fn say(seen: &Seen) {
    let line = match seen {
        Seen::Connection(to) if to.ip().is_loopback() => return,
        Seen::Connection(to) => serde_json::json!({"connection": to}),
        Seen::Request(to, authority, path) => {
            serde_json::json!({"request": to, "authority": authority, "path": path})
        }
    };
    // Nobody to tell is no reason to stop serving.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// gRPC is bound last.
fn check() -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, grpc::TLS));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).context("it does not serve")?;
    Ok(())
}
