//! The kubelet's part in running an injected pod.

use std::fmt::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::control_plane;

const HOSTS: &str = "/etc/hosts";

/// Runs `osm-egress inject` on a manifest and returns the pod.
///
/// # Errors
/// Fails if it refuses.
pub fn inject(manifest: &str) -> Result<Value> {
    let mut child = Command::new(control_plane::binary()?)
        .args(["inject", "-f", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no standard input")?, manifest.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The hosts file of a container: the one that it mounts itself, or else the pod's.
///
/// # Errors
/// Fails if there is no such container, or it mounts something that is not made here.
pub fn hosts(pod: &Value, container: &str) -> Result<String> {
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let named = |list: &Value, name: &str| items(list).into_iter().find(|item| item["name"] == name);
    let found = named(&pod["spec"]["containers"], container).context("there is no such container")?;
    let Some(mount) = items(&found["volumeMounts"]).into_iter().find(|mount| mount["mountPath"] == HOSTS)
    else {
        let mut text = "127.0.0.1\tlocalhost\n".to_owned();
        for alias in items(&pod["spec"]["hostAliases"]) {
            let names: Vec<String> = items(&alias["hostnames"])
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect();
            let _ = writeln!(text, "{}\t{}", alias["ip"].as_str().unwrap_or_default(), names.join("\t"));
        }
        return Ok(text);
    };
    ensure!(mount["readOnly"] == true, "{mount}");
    let name = mount["name"].as_str().unwrap_or_default();
    let volume =
        named(&pod["spec"]["volumes"], name).with_context(|| format!("there is no volume {name}"))?;
    let files = items(&volume["downwardAPI"]["items"]);
    let file =
        files.iter().find(|file| file["path"] == mount["subPath"]).with_context(|| volume.to_string())?;
    let field = file["fieldRef"]["fieldPath"].as_str().context("no field")?;
    let value = pod.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str);
    Ok(value.with_context(|| format!("the pod has no {field}"))?.to_owned())
}
