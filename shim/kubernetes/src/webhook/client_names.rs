//! Whose certificate an API server must show, where that is asked for.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, extract, middleware};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use egress_transport::connections::ConnectionInfo;

/// The names that count, as common name or alternative name. With none, every certificate of the authority does.
#[derive(Clone, Debug, Default)]
pub struct ClientNames(Arc<[String]>);

impl From<Vec<String>> for ClientNames {
    fn from(names: Vec<String>) -> Self {
        Self(names.into())
    }
}

impl ClientNames {
    /// Says why a client is not one of these.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<(), String> {
        let Self(names) = self;
        if names.is_empty() {
            return Ok(());
        }
        let certificate = chain.and_then(<[_]>::first).ok_or("the client shows no certificate")?;
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
        Err(format!("the client's certificate is of {shown:?}, and of no name of --webhook-client-name"))
    }
}

/// Lets nobody ask but those of these names.
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
