//! Rows 31, 34 and 35: the meaning of policies, and the effect of mistakes in them.

use std::net::IpAddr;

use super::by;
use crate::bypass::Row;
use crate::bypass::check::Expect::{Closed, Reaches, Refused};
use crate::bypass::check::{Check, Expect};
use crate::bypass::observed_mesh::ObservedMesh;
use crate::bypass::send::{bytes, host};
use crate::hello::Hello;
use crate::network::{ELSEWHERE, EXAMPLE, HTTPBIN};

pub(crate) fn rows() -> Vec<Row> {
    vec![wildcards(), shadows(), mistakes()]
}

fn sni(name: &str, to: IpAddr, port: u16, expect: Expect) -> Check {
    bytes(format!("a ClientHello for `{name}`"), to, port, Hello::named(name).bytes(), expect)
}

fn wildcards() -> Row {
    Row::new(
        31,
        "The meaning of a wildcard: one label or many, the name itself, half a label",
        "`*.a.com` matches one or more whole labels before `a.com`, and not `a.com` itself. Any other \
         wildcard is invalid and grants nothing",
        "control plane, then the filter",
    )
    .checks([
        sni("www.example.com", ELSEWHERE, 443, Reaches(EXAMPLE)),
        sni("a.b.example.com", ELSEWHERE, 443, Reaches(EXAMPLE)),
        sni("example.com", ELSEWHERE, 443, Closed("sni-not-allowed")),
        sni("evilexample.com", ELSEWHERE, 443, Closed("sni-not-allowed")),
        sni("www.example.com.evil.example", ELSEWHERE, 443, Closed("sni-not-allowed")),
    ])
    .checks([
        host(ELSEWHERE, 80, "a.b.example.com", Reaches(EXAMPLE)),
        host(ELSEWHERE, 80, "example.com", Refused("host-not-allowed")),
        host(ELSEWHERE, 80, "evilexample.com", Refused("host-not-allowed")),
        host(ELSEWHERE, 80, "*.example.com", Refused("authority-malformed")),
    ])
    .checks(["any-host", "part-of-a-label", "inner-wildcard", "address-as-host"].map(not_accepted))
}

fn shadows() -> Row {
    Row::new(
        34,
        "A broad rule for TCP on a port, which makes the rules for names on that port meaningless",
        "All rules of a port are evaluated together: a rule for an address opens that address and no \
         other, and the rules for names decide the rest",
        by::FIRST_BYTES,
    )
    .checks([
        sni("anything.example", EXAMPLE, 8443, Reaches(EXAMPLE)),
        sni("anything.example", ELSEWHERE, 8443, Closed("sni-not-allowed")),
        sni("httpbin.org", ELSEWHERE, 8443, Reaches(HTTPBIN)),
        bytes("`hello`", ELSEWHERE, 8443, b"hello".to_vec(), Closed("tls-required")),
        bytes("`hello`", EXAMPLE, 9000, b"hello".to_vec(), Reaches(EXAMPLE)),
        bytes("`hello`", ELSEWHERE, 9000, b"hello".to_vec(), Closed("no-rule")),
    ])
}

fn mistakes() -> Row {
    let closed = |what: &str, port: u16| {
        bytes(
            format!("`hello`, which {what} would let through,"),
            ELSEWHERE,
            port,
            b"hello".to_vec(),
            Closed("no-rule"),
        )
    };
    Row::new(
        35,
        "A mistake in a policy that would make it wider",
        "A rule with a mistake grants nothing, the status of its object names the reason, and other rules \
         stay in force",
        by::CONTROL_PLANE,
    )
    .checks([
        closed("a bad block that is skipped", 9101),
        closed("a bad block beside a good one", 9102),
        closed("an unknown protocol", 9103),
        closed("an unknown kind of match", 9104),
        closed("an unknown value of `egress-ech`", 9105),
        closed("an unknown value of `egress-upgrades`", 9106),
        closed("a misspelt `ipAddresses`", 9107),
        host(ELSEWHERE, 80, "evil.example", Refused("host-not-allowed")),
    ])
    .checks(
        [
            "bad-block",
            "bad-block-beside-a-good-one",
            "bad-protocol",
            "bad-kind",
            "no-such-group",
            "bad-path",
            "bad-annotation-ech",
            "bad-annotation-upgrades",
        ]
        .map(not_accepted),
    )
    .check(host(ELSEWHERE, 80, "httpbin.org", Reaches(HTTPBIN)))
}

/// Creates a check that the control plane reports an object as not accepted.
fn not_accepted(name: &'static str) -> Check {
    Check::question(
        format!("the status of the policy `{name}`"),
        "not accepted",
        move |observed: &ObservedMesh<'_>| {
            let status = observed.mesh.control_plane.status()?;
            let object = status["objects"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|o| o["object"]["name"] == name && o["object"]["kind"] == "Egress");
            Ok(match object {
                Some(object) if object["accepted"] == false => "not accepted".to_owned(),
                other => format!("{other:?}"),
            })
        },
    )
}
