//! A namespace controller, which finalizes deleted namespaces. The API server has none of its own here.

use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ApiServer, User};
use crate::wait::wait_for;

/// Runs `work` while deleted namespaces are finalized. The real controller empties them first; here they must
/// be empty, so a test notices objects that were left behind.
///
/// # Errors
/// Fails if the work fails, or a namespace could not go.
pub fn with_namespace_controller<T>(api: &ApiServer<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let controller = scope.spawn(|| {
            let mut result = Ok(());
            wait_for("the work to be done", Duration::from_secs(300), || {
                result = finalize(api);
                result.is_err() || done.load(Ordering::Acquire)
            })?;
            result
        });
        let result = work();
        done.store(true, Ordering::Release);
        let controlled = controller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and_then(|value| controlled.map(|()| value))
    })
}

fn finalize(api: &ApiServer<'_>) -> Result<()> {
    let list: Value = serde_json::from_str(&api.kubectl(User::Admin, &["get", "namespaces", "-o", "json"])?)?;
    for mut namespace in list["items"].as_array().cloned().unwrap_or_default() {
        if namespace["status"]["phase"] != "Terminating" {
            continue;
        }
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let inside = format!(" {name}/");
        let left: Vec<String> = api.objects()?.into_keys().filter(|id| id.contains(&inside)).collect();
        ensure!(left.is_empty(), "namespace {name} goes with {left:?} in it");
        namespace["spec"]["finalizers"] = json!([]);
        let mut kubectl = api
            .command("kubectl", User::Admin)
            .args(["replace", "--raw", &format!("/api/v1/namespaces/{name}/finalize"), "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        kubectl.stdin.take().context("no stdin")?.write_all(namespace.to_string().as_bytes())?;
        let output = kubectl.wait_with_output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
