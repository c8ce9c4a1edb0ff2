//! Annotations that extend Open Service Mesh's API: of Egress objects, and the mode of a Namespace or ServiceAccount.

use egress_policy::{EncryptedHello, Mode, Upgrade};

use super::diagnostic_sink::DiagnosticSink;
use super::{ENCRYPTED_HELLO_ANNOTATION, Invalid, MODE_ANNOTATION, UPGRADES_ANNOTATION};
use crate::manifest::{Object, annotation_path};

const GRANTS_NOTHING: &str = "until then the object grants nothing";

/// Reads the upgrades that http rules allow.
pub(super) fn read_upgrades(object: &Object, sink: &mut DiagnosticSink<'_>) -> Result<Vec<Upgrade>, Invalid> {
    let Some(text) = object.metadata.annotation(UPGRADES_ANNOTATION) else { return Ok(Vec::new()) };
    let mut upgrades = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if !word.eq_ignore_ascii_case("websocket") {
            let message = format!("`{word}` is not a supported upgrade");
            let advice = format!("write `websocket`; {GRANTS_NOTHING}");
            sink.error(&annotation_path(UPGRADES_ANNOTATION), message, Some(&advice));
            return Err(Invalid);
        }
        if upgrades.is_empty() {
            upgrades.push(Upgrade::Websocket);
        }
    }
    Ok(upgrades)
}

/// Reads the treatment of encrypted ClientHellos by https rules; `None` if the object does not set it.
pub(super) fn read_encrypted_hello(
    object: &Object,
    sink: &mut DiagnosticSink<'_>,
) -> Result<Option<EncryptedHello>, Invalid> {
    match object.metadata.annotation(ENCRYPTED_HELLO_ANNOTATION) {
        None => Ok(None),
        Some("refuse") => Ok(Some(EncryptedHello::Refuse)),
        Some("allow-outer") => Ok(Some(EncryptedHello::AllowOuter)),
        Some(text) => {
            let message = format!("`{text}` is not a treatment of encrypted ClientHellos");
            let advice = format!("write `refuse` or `allow-outer`; {GRANTS_NOTHING}");
            sink.error(&annotation_path(ENCRYPTED_HELLO_ANNOTATION), message, Some(&advice));
            Err(Invalid)
        }
    }
}

/// Reads the mode from an annotation. A value that cannot be read means the strictest mode.
pub(super) fn read_mode_annotation(object: &Object, sink: &mut DiagnosticSink<'_>) -> Option<Mode> {
    let text = object.metadata.annotation(MODE_ANNOTATION)?;
    let mode = [Mode::Enforce, Mode::Audit, Mode::Passthrough].into_iter().find(|mode| mode.as_str() == text);
    if mode.is_none() {
        sink.error(
            &annotation_path(MODE_ANNOTATION),
            format!("`{text}` is not a mode, so `enforce` applies"),
            Some("write `enforce`, `audit` or `passthrough`"),
        );
    }
    Some(mode.unwrap_or(Mode::Enforce))
}
