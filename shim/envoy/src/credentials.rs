//! Authentication of Envoy and the control plane: the parts of a bootstrap for it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use egress_standalone::value::Object;
use egress_standalone::{Value, config, object, yaml};
use rustls::pki_types::pem::{PemObject, SectionKind};

/// The way in which Envoy and the control plane authenticate each other.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all: for a control plane on the same machine, with `--insecure-node-identity`.
    Plaintext,
    /// Envoy verifies the control plane, and shows who it is itself.
    Tls {
        /// The authority of the control plane's certificate.
        authority: Authority,
        /// The credentials of Envoy.
        credentials: Credentials,
    },
}

/// The credentials of Envoy.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing but its node id: for a control plane with `--insecure-node-identity`.
    NodeId,
    /// The token of a service account, read for each stream from this file.
    Token(EnvoyPath),
    /// A client certificate.
    Certificate(ClientFiles),
}

/// Certificates of authorities, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(String);

/// The reason why a text is no authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no certificate in it.
    #[error("there is no certificate: expected PEM, with a line `-----BEGIN CERTIFICATE-----`")]
    None,
    /// There is something else in it, such as a key.
    #[error("there is more than certificates, and all of it would stand in the bootstrap")]
    More,
    /// It is broken.
    #[error("{0}")]
    Broken(String),
}

impl Authority {
    /// Takes the text of a file of certificates.
    ///
    /// # Errors
    /// When there is anything else in it, or nothing.
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let mut any = false;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, _) = section.map_err(|error| AuthorityError::Broken(error.to_string()))?;
            if kind != SectionKind::Certificate {
                return Err(AuthorityError::More);
            }
            any = true;
        }
        if any { Ok(Self(text.to_owned())) } else { Err(AuthorityError::None) }
    }

    /// The text, without spaces around its lines.
    fn lines(&self) -> String {
        self.0.lines().flat_map(|line| [line.trim(), "\n"]).collect()
    }
}

/// An absolute path on Envoy's machine, without anything that means something in YAML or Lua.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyPath(String);

impl FromStr for EnvoyPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_alphanumeric() || "/-._+@= ".contains(c);
        if text.starts_with('/') && !text.ends_with('/') && text.chars().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("use an absolute path of letters, digits, spaces and `-._+@=`".to_owned())
        }
    }
}

impl fmt::Display for EnvoyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EnvoyPath {
    /// A file that we put there ourselves.
    #[must_use]
    pub fn ours(folder: &'static str, file: &'static str) -> Self {
        Self(format!("{folder}/{file}"))
    }

    fn folder(&self) -> &str {
        let folder = self.0.rsplit_once('/').map_or("", |(folder, _)| folder);
        if folder.is_empty() { "/" } else { folder }
    }
}

/// The files of a client certificate. Written out, it is the file by which Envoy follows the others: a static
/// certificate it reads only once.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    certificate: EnvoyPath,
    key: EnvoyPath,
    sds: EnvoyPath,
}

/// Certificate and key lie in two folders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{certificate} and {key} must lie in one folder, so that Envoy takes both when it changes")]
pub struct TwoFolders {
    certificate: EnvoyPath,
    key: EnvoyPath,
}

impl ClientFiles {
    /// Certificate, key, and the file that is made of this.
    ///
    /// # Errors
    /// When certificate and key lie in two folders.
    pub fn new(certificate: EnvoyPath, key: EnvoyPath, sds: EnvoyPath) -> Result<Self, TwoFolders> {
        if certificate.folder() == key.folder() {
            Ok(Self { certificate, key, sds })
        } else {
            Err(TwoFolders { certificate, key })
        }
    }

    /// The path at which Envoy finds the SDS file.
    #[must_use]
    pub fn sds(&self) -> &EnvoyPath {
        &self.sds
    }
}

impl ClientFiles {
    /// The answer of SDS that the file holds.
    pub(super) fn value(&self) -> Value {
        let Self { certificate, key, sds: _ } = self;
        config!({
            "resources": [{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": "client",
                "tls_certificate": {
                    "certificate_chain": {"filename": certificate.to_string()},
                    "private_key": {"filename": key.to_string()},
                    /// Of a volume, or of a folder in which new files replace old ones by renaming.
                    "watched_directory": {"path": certificate.folder()},
                },
            }],
        })
    }
}

impl fmt::Display for ClientFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# The client certificate of a sidecar. Made by `osm-egress bootstrap`.\n")?;
        f.write_str(&yaml::text(&self.value()))
    }
}

impl Security {
    /// The options of HTTP of the control plane's cluster.
    pub(super) fn http_options(&self) -> Object {
        match self {
            Self::Tls { credentials: Credentials::Token(file), .. } => object!({
                "http_filters": [
                    /// Read for each stream, so that a renewed token is used from the next one on.
                    {
                        "name": "token",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                            "default_source_code": {"inline_string": send_token(file)},
                        },
                    },
                    {
                        "name": "codec",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
                        },
                    },
                ],
            }),
            Self::Tls { credentials: Credentials::Certificate(_), .. } => object!({
                /// A connection keeps the certificate with which it began.
                "common_http_protocol_options": {"max_requests_per_connection": 1_u32},
            }),
            Self::Tls { credentials: Credentials::NodeId, .. } | Self::Plaintext => Object::default(),
        }
    }

    /// The transport to the control plane.
    pub(super) fn transport_socket(&self, xds_host: &str) -> Option<Value> {
        let Self::Tls { authority, credentials } = self else { return None };
        let is_name = xds_host.parse::<IpAddr>().is_err();
        let certificate = match credentials {
            Credentials::Certificate(files) => Some(config!([{
                "name": "client",
                "sds_config": {"path_config_source": {"path": files.sds.to_string()}},
            }])),
            Credentials::NodeId | Credentials::Token(_) => None,
        };
        Some(config!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": is_name.then_some(xds_host),
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificate_sds_secret_configs": certificate,
                    "validation_context": {
                        "match_typed_subject_alt_names": [{
                            "san_type": if is_name { "DNS" } else { "IP_ADDRESS" },
                            "matcher": {"exact": xds_host},
                        }],
                        "trusted_ca": {"inline_string": authority.lines()},
                    },
                },
            },
        }))
    }
}

/// The program that sends a token.
fn send_token(file: &EnvoyPath) -> String {
    format!(
        r#"function envoy_on_request(handle)
  local file = io.open("{file}")
  if file then
    handle:headers():replace("authorization", "Bearer " .. (file:read("*l") or ""))
    file:close()
  end
end
"#
    )
}
