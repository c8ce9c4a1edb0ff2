//! A question as the forms of the playground and of the console have it.

use std::net::IpAddr;

use serde::Deserialize;

use super::Ask;
use super::probe::Words;
use crate::blocked_ranges::BlockedRanges;

/// What a form says; an empty field says nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Form {
    /// By whom: `namespace/service-account`.
    #[serde(alias = "identity")]
    pub source: String,
    /// `SCHEME://HOST:PORT/PATH`, or `HOST:PORT`.
    pub to: String,
    /// Instead of the path in `to`.
    pub path: String,
    /// The address that is dialled, where a name is asked for.
    pub address: String,
    /// The method of a request.
    pub method: String,
    /// `NAME: VALUE`, one a line.
    pub headers: String,
    /// The server name.
    pub sni: String,
    /// There is no server name at all.
    pub no_sni: bool,
    /// The ClientHello carries an encrypted one.
    pub ech: bool,
    /// The first bytes, in hexadecimal.
    pub client_hello: String,
}

impl Form {
    /// What is asked.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn ask(&self, listener_port: u16, blocked: BlockedRanges) -> Result<Ask, String> {
        let call = self.words().read().map_err(|error| error.to_string())?;
        let identity = self.source.trim();
        if identity.is_empty() {
            return Err("say who connects: NAMESPACE/SERVICE-ACCOUNT".to_owned());
        }
        Ok(Ask {
            identity: identity.parse().map_err(|error| format!("`{identity}`: {error}"))?,
            addresses: self.address()?.or(call.address).into_iter().collect(),
            call,
            resolved: false,
            listener_port,
            blocked,
        })
    }

    /// The address that is dialled.
    ///
    /// # Errors
    /// When it is none.
    pub fn address(&self) -> Result<Option<IpAddr>, String> {
        let read = |text: String| text.parse().map_err(|_| format!("`{text}` is not an IP address"));
        some(&self.address).map(read).transpose()
    }

    /// The same as the flags of `osm-egress explain` have it.
    #[must_use]
    pub fn words(&self) -> Words {
        Words {
            to: self.to(),
            method: some(&self.method),
            headers: self.headers.lines().filter_map(some).collect(),
            sni: if self.no_sni { Some(String::new()) } else { some(&self.sni) },
            ech: self.ech,
            client_hello: some(&self.client_hello),
        }
    }

    /// The target, with the path that the form has a field for.
    fn to(&self) -> String {
        let (to, path) = (self.to.trim(), self.path.trim());
        if path.is_empty() {
            return to.to_owned();
        }
        let authority = to.find("://").map_or(0, |at| at + 3);
        let (scheme, rest) = to.split_at(authority);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}{host}{slash}{path}")
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}
