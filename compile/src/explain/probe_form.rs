//! A probe as the web forms of the playground and of the console submit it.

use std::net::IpAddr;

use serde::Deserialize;

use super::ExplainRequest;
use super::probe::ProbeArgs;
use crate::blocked_ranges::BlockedRanges;

/// The fields of the form; an empty field is absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProbeForm {
    /// The identity: `namespace/service-account`.
    #[serde(alias = "source")]
    pub identity: String,
    /// `SCHEME://HOST:PORT/PATH`, or `HOST:PORT`.
    pub to: String,
    /// The path, instead of the one in `to`.
    pub path: String,
    /// The original destination address, if `to` holds a name.
    pub address: String,
    /// The method of a request.
    pub method: String,
    /// The headers, as `NAME: VALUE`, one a line.
    pub headers: String,
    /// The server name.
    pub sni: String,
    /// True if the ClientHello has no server name.
    pub no_sni: bool,
    /// True if the ClientHello carries an encrypted one.
    pub ech: bool,
    /// The first bytes, in hexadecimal.
    pub client_hello: String,
}

impl ProbeForm {
    /// Builds the request.
    ///
    /// # Errors
    /// Returns a message about the first invalid field.
    pub fn to_request(&self, listener_port: u16, blocked: BlockedRanges) -> Result<ExplainRequest, String> {
        let probe = self.probe_args().parse().map_err(|error| error.to_string())?;
        let identity = self.identity.trim();
        if identity.is_empty() {
            return Err("enter the identity: NAMESPACE/SERVICE-ACCOUNT".to_owned());
        }
        Ok(ExplainRequest {
            identity: identity.parse().map_err(|error| format!("`{identity}`: {error}"))?,
            addresses: self.parse_address()?.or(probe.address).into_iter().collect(),
            probe,
            resolved: false,
            listener_port,
            blocked,
        })
    }

    /// Parses the original destination address.
    ///
    /// # Errors
    /// Fails if it is not an IP address.
    pub fn parse_address(&self) -> Result<Option<IpAddr>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("`{text}` is not an IP address"));
        non_empty(&self.address).map(read).transpose()
    }

    /// Builds the arguments of `osm-egress explain`.
    #[must_use]
    pub fn probe_args(&self) -> ProbeArgs {
        ProbeArgs {
            to: self.to(),
            method: non_empty(&self.method),
            headers: self.headers.lines().filter_map(non_empty).collect(),
            sni: if self.no_sni { Some(String::new()) } else { non_empty(&self.sni) },
            ech: self.ech,
            client_hello: non_empty(&self.client_hello),
        }
    }

    /// Joins the target and the path of the form.
    fn to(&self) -> String {
        let (to, path) = (self.to.trim(), self.path.trim());
        if path.is_empty() {
            return to.to_owned();
        }
        let authority = to.find("://").map_or(0, |at| at.saturating_add(3));
        let (scheme, rest) = to.split_at(authority);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}{host}{slash}{path}")
    }
}

fn non_empty(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}
