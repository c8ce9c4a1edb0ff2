//! Client certificate names that may call the webhooks (`--webhook-client-name`).

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract, middleware};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use egress_transport::connections::ConnectionInfo;

/// Accepted common names and alternative names. An empty list accepts every certificate of the authority.
#[derive(Clone, Debug, Default)]
pub struct ClientNames(Arc<[String]>);

impl From<Vec<String>> for ClientNames {
    fn from(names: Vec<String>) -> Self {
        Self(names.into())
    }
}

impl ClientNames {
    /// Checks the client's certificate.
    ///
    /// # Errors
    /// Returns the reason if no name of the certificate is accepted.
    pub fn check(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<(), String> {
        let Self(names) = self;
        if names.is_empty() {
            return Ok(());
        }
        let certificate = chain.and_then(<[_]>::first).ok_or("the client presents no certificate")?;
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("the client's certificate cannot be read: {error}"))?;
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative = alternative.iter().flat_map(|extension| &extension.value.general_names);
        let alternative = alternative.filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) => Some(*name),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        });
        let shown: Vec<&str> = common.chain(alternative).collect();
        if shown.iter().any(|name| names.iter().any(|known| known == name)) {
            return Ok(());
        }
        Err(format!(
            "the client's certificate names are {shown:?}, and `--webhook-client-name` lists none of them"
        ))
    }
}

/// Refuses requests from clients whose certificate has none of the accepted names.
pub(super) async fn authorize(
    extract::State(names): extract::State<ClientNames>,
    connection: Option<Extension<ConnectionInfo>>,
    request: extract::Request,
    next: middleware::Next,
) -> Response {
    let chain = connection.and_then(|Extension(info)| info.certificates);
    match names.check(chain.as_deref().map(Vec::as_slice)) {
        Ok(()) => next.run(request).await,
        Err(why) => {
            tracing::warn!(why, "a client of the webhook was refused");
            (StatusCode::FORBIDDEN, format!("{why}\n")).into_response()
        }
    }
}
