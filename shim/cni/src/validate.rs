//! The proof of interception, from inside a pod and without permissions.
//!
//! The sidecar is not there yet. So this listens where the rules lead, and connects to addresses at which nobody answers
//! otherwise. Only a redirected connection finds this listener, which proves itself by a random token.

mod destinations;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use egress_inject::interception::{Family, Interception};
use nix::errno::Errno;

use self::destinations::{Routes, find_destinations};

/// Time for a connection within the pod, even on a node under load. Without a redirect it usually runs out.
const TIMEOUT: Duration = Duration::from_secs(5);
const TOKEN_BYTES: usize = 16;

/// Remedy when connections are not redirected.
const ADVICE: &str = "The pod does not start. The CNI plugin of osm-egress did not run for it: usually it was created before \
    the plugin was on its node. Delete the pod, so that it starts anew; if that does not help, check that the pod of DaemonSet \
    `osm-egress-cni` on this node is ready, or take the annotation `openservicemesh.io/egress-cni` off the namespace";

/// Result for one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// A connection to this address was redirected.
    Redirected(SocketAddr),
    /// Nothing can leave: there is no route.
    NoRoute,
    /// The pod excludes every destination that could be tried.
    AllExcluded,
}

/// Proves that connections of this network namespace are redirected. Returns a line for each address family.
///
/// # Errors
/// Returns the reason and the remedy if a family is not redirected, or nothing could be proved.
pub fn run(interception: &Interception, families: &[Family]) -> Result<String> {
    let token = random_token()?;
    let mut lines = String::new();
    let mut proved = false;
    for family in families {
        let listener = listen(*family, interception.outbound_port, token)?;
        let destinations = find_destinations(*family, interception, &Routes::read(*family));
        let line = match prove(*family, &destinations, token)? {
            Proof::Redirected(_) if !listener => bail!("{family}: something else answers. {ADVICE}"),
            Proof::Redirected(destination) => {
                proved = true;
                format!(
                    "redirected (a connection to {destination} came to port {})",
                    interception.outbound_port
                )
            }
            Proof::NoRoute => "nothing can leave: there is no route".to_owned(),
            Proof::AllExcluded => {
                "every destination that could be tried is excluded from interception".to_owned()
            }
        };
        lines.push_str(&format!("{family}: {line}\n"));
    }
    if !proved {
        bail!(
            "interception cannot be proved: {}. A pod without network, or one that excludes everything, needs no sidecar: \
             annotate it with `openservicemesh.io/sidecar-injection: disabled`",
            lines.trim_end().replace('\n', "; ")
        );
    }
    Ok(lines)
}

fn random_token() -> Result<[u8; TOKEN_BYTES]> {
    let mut token = [0; TOKEN_BYTES];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    source.read_exact(&mut token).context("cannot read /dev/urandom")?;
    Ok(token)
}

/// Listens where the rules lead. Returns false if the family has no loopback address.
fn listen(family: Family, port: u16, token: [u8; TOKEN_BYTES]) -> Result<bool> {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let listener = match TcpListener::bind((address, port)) {
        Ok(listener) => listener,
        Err(error) if is_one_of(&error, &[Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT]) => return Ok(false),
        Err(error) => {
            let context =
                format!("cannot listen on {address} port {port}, where connections are redirected to");
            return Err(error).context(context);
        }
    };
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(&token);
        }
    });
    Ok(true)
}

fn is_one_of(error: &std::io::Error, numbers: &[Errno]) -> bool {
    numbers.iter().any(|number| error.raw_os_error() == Some(*number as i32))
}

/// Connects to one destination after another until one has a route.
fn prove(family: Family, destinations: &[SocketAddr], token: [u8; TOKEN_BYTES]) -> Result<Proof> {
    if destinations.is_empty() {
        return Ok(Proof::AllExcluded);
    }
    for destination in destinations {
        match read_token(*destination) {
            Ok(found) if found == token => return Ok(Proof::Redirected(*destination)),
            Ok(_) => bail!(
                "{family} connections are not redirected to the sidecar: something else answers at {destination}. {ADVICE}"
            ),
            Err(error)
                if is_one_of(
                    &error,
                    &[Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL],
                ) => {}
            Err(error) => {
                let why = if [ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()) {
                    format!("was not answered within {} s", TIMEOUT.as_secs())
                } else {
                    format!("failed ({error})")
                };
                bail!(
                    "{family} connections are not redirected to the sidecar: a connection to {destination} {why}. {ADVICE}"
                );
            }
        }
    }
    Ok(Proof::NoRoute)
}

fn read_token(destination: SocketAddr) -> std::io::Result<[u8; TOKEN_BYTES]> {
    let mut stream = TcpStream::connect_timeout(&destination, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut found = [0; TOKEN_BYTES];
    stream.read_exact(&mut found)?;
    Ok(found)
}
