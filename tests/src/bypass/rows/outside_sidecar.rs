//! Rows 29 and 30: traffic that does not pass the sidecar.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Check;
use crate::bypass::check::Expect::Closed;
use crate::bypass::observed_mesh::{ObservedMesh, at};
use crate::bypass::send::bytes;
use crate::client::{self, Outcome};
use crate::hello::Hello;
use crate::network::{ELSEWHERE, HTTPBIN, NAME_SERVER};

pub(crate) fn rows() -> Vec<Row> {
    vec![dns(), other_protocols()]
}

fn dns() -> Row {
    // A query for the address of `a.example`.
    let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1][..], b"a\x07example\x00\x00\x01\x00\x01"].concat();
    let framed = [&u16::try_from(query.len()).unwrap_or(0).to_be_bytes()[..], &query].concat();
    Row::new(
        29,
        "DNS tunnels: data in queries for names of the workload's own zone",
        "Queries over TCP, TLS and HTTPS are connections like any other. The sidecar does not see queries \
         over UDP",
        by::NOBODY,
    )
    .check(bytes("a DNS query", NAME_SERVER, 53, framed, Closed("no-rule")))
    .check(bytes(
        "a ClientHello for DNS over TLS",
        NAME_SERVER,
        853,
        Hello::named("dns.example").bytes(),
        Closed("no-rule"),
    ))
    .check(bytes(
        "a ClientHello for DNS over HTTPS at `dns.example`",
        NAME_SERVER,
        443,
        Hello::named("dns.example").bytes(),
        Closed("sni-not-allowed"),
    ))
    .check(Check::question(
        format!("a DNS query over UDP to {NAME_SERVER}:53"),
        "goes round the sidecar",
        move |observed| udp(observed, at(NAME_SERVER, 53), &query),
    ))
    .out_of_reach(
        "queries over UDP, and names in queries that the cluster's resolver forwards",
        "only TCP is redirected, and a workload that may resolve may ask for any name",
        "allow UDP and TCP port 53 to the cluster's resolver only, by a NetworkPolicy; let that resolver \
         answer only needed names (a plugin with an allow list), and log its queries",
    )
}

fn other_protocols() -> Row {
    let not_intercepted = || Closed("not-intercepted");
    Row::new(
        30,
        "UDP, UDP-Lite, QUIC, SCTP, DCCP, ICMP; excluded ports and uids; removing the redirection; the \
         sidecar's own ports",
        "The listener's own port leads nowhere, and no name leads to the sidecar's ports (row 28). The \
         sidecar does not see the rest",
        by::NOBODY,
    )
    .check(Check::one("`hello` to the pod's own address, port 15001", not_intercepted(), |observed| {
        let to = at(IpAddr::V4(observed.mesh.pod.address), 15001);
        observed.workload().run(|| client::exchange(to, b"hello"))
    }))
    .check(bytes("`hello`", ELSEWHERE, 15001, b"hello".to_vec(), not_intercepted()))
    // The other ports that Open Service Mesh's redirection names.
    .checks(
        [15000, 15003, 15010]
            .map(|port| bytes("`hello`", ELSEWHERE, port, b"hello".to_vec(), Closed("no-rule"))),
    )
    .check(bytes(
        "a ClientHello for `httpbin.org`",
        HTTPBIN,
        15001,
        Hello::named("httpbin.org").bytes(),
        not_intercepted(),
    ))
    .check(Check::question(
        "`POST /runtime_modify` to the admin port, as anybody inside the pod can send it,",
        "changes nothing",
        change_runtime,
    ))
    .check(Check::question(
        format!("a datagram to {ELSEWHERE}:443, as QUIC sends them,"),
        "goes round the sidecar",
        datagram,
    ))
    .out_of_reach(
        "all traffic except redirected TCP",
        "it does not pass Envoy: UDP, UDP-Lite, QUIC, SCTP, DCCP and ICMP are not redirected, a process \
         with the sidecar's uid is exempt, ports and addresses can be excluded, and NET_ADMIN can remove \
         the redirection. An init container that runs before it, and a pod with hostNetwork, have none",
        "a NetworkPolicy, which the node enforces out of the pod's reach (see the recipe in the threat \
         model)",
    )
}

/// Tries to change Envoy's runtime settings from inside the pod.
fn change_runtime(observed: &ObservedMesh<'_>) -> Result<String> {
    let guard = "envoy.reloadable_features.enable_send_rst_on_user_space_socket";
    let path = format!("/runtime_modify?{guard}=true");
    let request = client::request("POST", &path, &[("host", "admin"), ("connection", "close")]);
    let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
    Ok(match observed.mesh.pod.sidecar.run(|| client::http(admin, &request))? {
        Outcome::Http(answer) if answer.status != 200 => "changes nothing".to_owned(),
        other => format!("{other:?}"),
    })
}

/// Sends a datagram to an outside host, and returns true if an answer comes back.
fn datagram(observed: &ObservedMesh<'_>) -> Result<String> {
    let somebody = at(ELSEWHERE, 443);
    let receiver = observed.mesh.network.outside.netns.run(|| UdpSocket::bind(somebody))?.context("UDP")?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 64];
        let (length, from) = receiver.recv_from(&mut buffer)?;
        receiver.send_to(&buffer[..length], from).map(|_| ())
    });
    let found = udp(observed, somebody, b"hello");
    let _ = echo.join();
    found
}

/// Sends a datagram and describes the answer, which shows that nothing blocked it.
fn udp(observed: &ObservedMesh<'_>, to: SocketAddr, bytes: &[u8]) -> Result<String> {
    let answered = observed.workload().run(|| -> std::io::Result<usize> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(bytes, to)?;
        socket.recv(&mut [0; 512])
    })?;
    Ok(match answered {
        Ok(_) => "goes round the sidecar".to_owned(),
        Err(error) => format!("no answer: {error}"),
    })
}
