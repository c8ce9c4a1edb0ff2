use std::net::{IpAddr, Ipv6Addr};

use crate::Host;

/// An HTTP authority: `host`, `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port` (RFC 3986 §3.2.2). A port may be
/// empty (§3.2.3): `host:` names none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: AuthorityHost,
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AuthorityHost {
    Name(Host),
    /// In canonical form: an IPv4-mapped IPv6 address is an IPv4 address.
    Address(IpAddr),
}

impl Authority {
    /// Reads an authority; `None` for anything else. User information is refused.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (literal, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = literal.parse().ok()?;
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => None,
                None => return None,
            };
            return Some(Self { host: AuthorityHost::Address(IpAddr::V6(address).to_canonical()), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, None),
        };
        let host = match host.parse::<IpAddr>() {
            Ok(address) => AuthorityHost::Address(address),
            Err(_) => AuthorityHost::Name(Host::canonical(host).ok()?),
        };
        Some(Self { host, port })
    }
}

/// Reads a port: `None` where it is none, `Some(None)` where it is empty.
fn parse_port(text: &str) -> Option<Option<u16>> {
    match text {
        "" => Some(None),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_read_strictly() {
        for (text, expected) in [
            ("httpbin.org", Some("httpbin.org -")),
            ("HTTPBIN.org:80", Some("httpbin.org 80")),
            ("httpbin.org.:80", Some("httpbin.org 80")),
            ("10.0.0.1", Some("10.0.0.1 -")),
            ("10.0.0.1:8080", Some("10.0.0.1 8080")),
            ("[2001:db8::1]:80", Some("2001:db8::1 80")),
            ("[2001:DB8:0:0::1]", Some("2001:db8::1 -")),
            ("[::ffff:10.0.0.1]", Some("10.0.0.1 -")),
            ("", None),
            (":80", None),
            ("a:", Some("a -")),
            ("[::1]:", Some("::1 -")),
            ("a::", None),
            ("a:+80", None),
            ("a:65536", None),
            ("a:80:80", None),
            ("user@a", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[[::1]]", None),
            ("[fe80::1%25eth0]", None),
            ("[httpbin.org]", None),
            ("2001:db8::1", None),
            ("127.1", None),
            ("0177.0.0.1", None),
            ("a b", None),
        ] {
            let found = Authority::parse(text).map(|a| {
                let host = match a.host {
                    AuthorityHost::Name(host) => host.to_string(),
                    AuthorityHost::Address(address) => address.to_string(),
                };
                format!("{host} {}", a.port.map_or_else(|| "-".to_owned(), |p| p.to_string()))
            });
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
    }
}
