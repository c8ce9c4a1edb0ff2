//! Hints for failed TLS handshakes.

use std::io;

/// Suggests a check for a failed handshake.
pub(crate) fn handshake_hint(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the client's certificate must be valid now and issued by an authority in --client-ca (for the webhooks: in --webhook-client-ca)"
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            "the client presents no certificate, which --webhook-client-ca requires: configure one for webhooks in the API server"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the client rejects this certificate: check that it is issued by the authority in the client's configuration, for the name that the client uses"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the client does not speak TLS: generate its bootstrap with --xds-ca"
        }
        _ => "",
    }
}
