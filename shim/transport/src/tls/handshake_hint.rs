//! What to look at when a handshake fails.

use std::io;

/// What to look at.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the client's certificate must be of an authority in --client-ca (of the webhook: in --webhook-client-ca), and be valid now"
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            "the client shows no certificate, which --webhook-client-ca asks for: does the API server have one for webhooks?"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the client refuses this certificate: is it of the authority that the client has, and of the name that it asks for?"
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            "the client does not speak TLS: give it a bootstrap with --xds-ca"
        }
        _ => "",
    }
}
