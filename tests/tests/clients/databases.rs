//! Real databases for the clients: PostgreSQL and Redis. Both log each connection.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result};
use egress_tests::netns::Netns;
use egress_tests::network::HTTPBIN;
use egress_tests::wait::wait_for;

use crate::Server;

/// PostgreSQL.
const POSTGRES_PORT: u16 = 5432;
/// Redis.
const REDIS_PORT: u16 = 6379;
/// The text by which each logs a connection.
const ACCEPTED: [&str; 2] = ["connection received", "Accepted "];

/// Running databases, on every address of their namespace.
pub(crate) struct Databases {
    logs: [PathBuf; 2],
    _servers: [Server; 2],
}

impl Databases {
    /// Starts both with what `prepare.sh` made for them in `tools`, and waits until they accept connections.
    pub(crate) fn start(netns: &Netns, tools: &Path) -> Result<Self> {
        let logs = ["postgres.log", "redis.log"].map(|name| tools.join(name));
        // It refuses to run as root.
        let mut postgres = netns.command("setpriv");
        postgres
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
                "--pdeathsig",
                "KILL",
                "--",
            ])
            .arg(tools.join("postgres-bin/postgres"))
            .arg("-D")
            .arg(tools.join("postgres"))
            .args(["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "log_connections=on"]);
        let mut redis = netns.command("redis-server");
        redis.args(["--port", &REDIS_PORT.to_string(), "--bind", "*", "-::*", "--protected-mode", "no"]);
        redis.args(["--save", "", "--loglevel", "verbose"]);
        let servers = [start(postgres, &logs[0])?, start(redis, &logs[1])?];
        let databases = Self { logs, _servers: servers.map(Server) };
        for (port, log) in [POSTGRES_PORT, REDIS_PORT].into_iter().zip(&databases.logs) {
            let address = SocketAddr::new(HTTPBIN, port);
            wait_for("the database", Duration::from_secs(20), || {
                netns.run(|| TcpStream::connect(address)).is_ok_and(|stream| stream.is_ok())
            })
            .with_context(|| std::fs::read_to_string(log).unwrap_or_default())?;
        }
        Ok(databases)
    }

    /// The number of connections accepted.
    pub(crate) fn accepted(&self) -> usize {
        let logs = self.logs.iter().filter_map(|log| std::fs::read_to_string(log).ok());
        logs.zip(ACCEPTED).map(|(log, text)| log.matches(text).count()).sum()
    }
}

fn start(mut command: Command, log: &Path) -> Result<Child> {
    let file = File::create(log)?;
    let child = command.stdout(file.try_clone()?).stderr(file).spawn();
    child.with_context(|| format!("no server for {}", log.display()))
}
