//! What annotations of an Egress object say beyond Open Service Mesh's API.

use egress_policy::{EncryptedHello, Upgrade};

use super::diagnostic_sink::Issues;
use super::{ENCRYPTED_HELLO_ANNOTATION, Invalid, UPGRADES_ANNOTATION};
use crate::manifest::{Object, annotation_path};

const NOTHING: &str = "until then the object grants nothing";

/// The upgrades that http rules allow.
pub(super) fn upgrades(object: &Object, issues: &mut Issues<'_>) -> Result<Vec<Upgrade>, Invalid> {
    let Some(text) = object.metadata.annotation(UPGRADES_ANNOTATION) else { return Ok(Vec::new()) };
    let mut upgrades = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if !word.eq_ignore_ascii_case("websocket") {
            let message = format!("`{word}` is not an upgrade that can be allowed");
            let advice = format!("write `websocket`: {NOTHING}");
            issues.error(&annotation_path(UPGRADES_ANNOTATION), message, Some(&advice));
            return Err(Invalid);
        }
        if upgrades.is_empty() {
            upgrades.push(Upgrade::Websocket);
        }
    }
    Ok(upgrades)
}

/// What https rules do with a ClientHello that carries an encrypted one; `None` where the object does not say it.
pub(super) fn encrypted_hello(
    object: &Object,
    issues: &mut Issues<'_>,
) -> Result<Option<EncryptedHello>, Invalid> {
    match object.metadata.annotation(ENCRYPTED_HELLO_ANNOTATION) {
        None => Ok(None),
        Some("refuse") => Ok(Some(EncryptedHello::Refuse)),
        Some("allow-outer") => Ok(Some(EncryptedHello::AllowOuter)),
        Some(text) => {
            let message = format!("`{text}` does not say what to do with an encrypted ClientHello");
            let advice = format!("write `refuse` or `allow-outer`: {NOTHING}");
            issues.error(&annotation_path(ENCRYPTED_HELLO_ANNOTATION), message, Some(&advice));
            Err(Invalid)
        }
    }
}
