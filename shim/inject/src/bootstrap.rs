//! Bootstrap of an injected sidecar: the same text for all pods of a mesh.
//!
//! Envoy's command line identifies the sidecar, because Kubernetes sets the names of a pod only when it starts. The
//! kubelet probes readiness on a port of its own; the admin interface listens on loopback.

use egress_standalone::{CURRENT, EnvoyVersion, EnvoyVersionError};

use super::{InjectionError, Settings};
use egress_envoy::IpFamilies;
use egress_envoy::bootstrap::{Bootstrap, Ready};
use egress_envoy::credentials::{Credentials, EnvoyPath, Security};

/// Mount path of the token's volume.
pub(super) const TOKEN_FOLDER: &str = "/var/run/secrets/osm-egress";
/// File name of the token.
pub(super) const TOKEN_FILE: &str = "token";
/// Port of the readiness probe: Open Service Mesh's port for health checks.
pub(super) const READY_PORT: u16 = 15904;
const ADMIN_PORT: u16 = 15000;

pub(super) fn render(settings: &Settings, version: EnvoyVersion) -> String {
    let security = match &settings.xds_ca {
        Some(authority) => {
            let token = EnvoyPath::ours(TOKEN_FOLDER, TOKEN_FILE);
            Security::Tls { authority: authority.clone(), credentials: Credentials::Token(token) }
        }
        None => Security::Plaintext,
    };
    Bootstrap {
        security,
        identity: None,
        proxy: String::new(),
        version,
        xds_host: settings.xds_host.clone(),
        xds_port: settings.xds_port,
        admin_port: ADMIN_PORT,
        delta: false,
        ready: Some(Ready { port: READY_PORT, ipv6: settings.ip_families == IpFamilies::Dual }),
    }
    .to_string()
}

/// Version of the Envoy in an image, by its tag; the current version if the tag names none.
pub(super) fn envoy_version(image: &str) -> Result<EnvoyVersion, InjectionError> {
    let name = image.split('@').next().unwrap_or_default();
    let tag = name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
    let tag = tag.unwrap_or_default();
    match tag.strip_prefix("distroless-").unwrap_or(tag).parse() {
        Ok(version) => Ok(version),
        Err(EnvoyVersionError::Form(_)) => Ok(CURRENT),
        Err(error @ EnvoyVersionError::TooOld(_)) => {
            Err(InjectionError::UnsupportedImage { image: image.to_owned(), problem: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_tags_give_the_envoy_version() {
        for (image, expected) in [
            ("envoyproxy/envoy:v1.39.2", Ok("1.39")),
            ("envoyproxy/envoy:distroless-v1.40.0", Ok("1.40")),
            ("localhost:5000/envoy:v1.39.0@sha256:00", Ok("1.39")),
            ("localhost:5000/envoy", Ok("1.40")),
            ("envoy@sha256:00", Ok("1.40")),
            ("envoy:mine", Ok("1.40")),
            (
                "envoyproxy/envoy-distroless:v1.22.2",
                Err(
                    "image `envoyproxy/envoy-distroless:v1.22.2`: Envoy 1.22 is too old: the listener needs 1.39 or newer",
                ),
            ),
        ] {
            let found = envoy_version(image);
            assert_eq!(
                found.map(|v| v.to_string()).map_err(|e| e.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned)
            );
        }
    }
}
