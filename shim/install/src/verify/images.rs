//! The check of image references: each should have a digest.

use serde_json::Value;

use super::super::image;
use super::super::names::NAME;
use super::super::plan::TAG_ADVICE;
use super::report::{Report, State};

/// Checks the image of the control plane, and those that injection adds to pods.
pub(super) fn check_images(deployment: &Value, config: Option<&Value>, report: &mut Report) {
    let mut tagged: Vec<String> = Vec::new();
    let pod = &deployment["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().into_iter().flatten();
    let container = containers.clone().find(|container| container["name"] == NAME).unwrap_or(&Value::Null);
    let flag = |name: &str| {
        let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        arguments.into_iter().find_map(|argument| argument.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    let mesh_image = |field: &str| {
        let image = config.and_then(|config| config["spec"]["sidecar"][field].as_str());
        image.filter(|image| !image.is_empty()).map(str::to_owned)
    };
    let own = container["image"].as_str().unwrap_or_default().to_owned();
    let sidecar = mesh_image("envoyImage").unwrap_or_else(|| flag("--sidecar-image="));
    let init = mesh_image("initContainerImage").unwrap_or_else(|| flag("--init-image="));
    for (owner, image) in [("control plane", own), ("sidecars", sidecar), ("init containers", init)] {
        if !image.is_empty() && !matches!(image::parse_digest(&image), Ok(Some(_))) {
            tagged.push(format!("{owner}: {image}"));
        }
    }
    let wrong =
        if tagged.is_empty() { vec![] } else { vec![format!("{} ({TAG_ADVICE})", tagged.join(", "))] };
    report.add_findings("images", State::Warn, &wrong, "all are referenced by digest");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_without_a_digest_are_reported() {
        let sum = format!("sha256:{}", "0".repeat(64));
        let deployment = |image: &str, sidecar: &str| {
            let arguments = [format!("--sidecar-image={sidecar}"), format!("--init-image=init@{sum}")];
            let container = json!({ "name": "osm-egress", "image": image, "args": arguments });
            json!({ "spec": { "template": { "spec": { "containers": [container] } } } })
        };
        let (good, config) =
            (format!("a@{sum}"), json!({ "spec": { "sidecar": { "envoyImage": "mesh:1" } } }));
        for (deployment, config, expected) in [
            (deployment(&good, &good), None, None),
            (deployment("a:1", &good), None, Some("control plane: a:1 (")),
            (deployment("a:1", "b"), None, Some("control plane: a:1, sidecars: b (")),
            (deployment(&good, &good), Some(&config), Some("sidecars: mesh:1 (")),
        ] {
            let mut report = Report::default();
            check_images(&deployment, config, &mut report);
            let check = &report.checks[0];
            assert_eq!(check.state == State::Warn, expected.is_some(), "{report}");
            assert!(expected.is_none_or(|text| check.message.starts_with(text)), "{report}");
        }
    }
}
