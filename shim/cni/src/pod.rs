//! The pod of an attachment, as the API server knows it.

use std::path::Path;
use std::time::Duration;

use egress_inject::expected_interception;
use egress_inject::interception::{Family, Interception};
use egress_kubernetes::{connect, is_unknown, reason};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;

use crate::environment::PodRef;
use crate::error::{CniError, Code};

/// The longest time for the API server's answer. Kubelets give a sandbox minutes, and try again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Annotation of the API server's copy of a static pod: the uid that the kubelet uses.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The interception that a pod expects.
pub(crate) type Expected = Option<(Interception, &'static [Family])>;

fn later(details: impl Into<String>) -> CniError {
    CniError::new(Code::TryAgainLater, "try again later", details)
}

/// Reads the interception that a pod expects; `None` if the plugin has nothing to do for it.
pub(crate) fn read_expected(kubeconfig: &Path, pod: &PodRef) -> Result<Expected, CniError> {
    let object = block_on(async {
        let api = pods(kubeconfig, &pod.namespace).await?;
        match api.get(&pod.name).await {
            Ok(object) => Ok(object),
            Err(error) if is_unknown(&error) => Err(format!("the API server knows no pod {pod}")),
            Err(error) => Err(format!("pod {pod}: {}", reason(&error))),
        }
    })?;
    let object = serde_json::to_value(object).map_err(|error| later(error.to_string()))?;
    check_uid(&object, pod)?;
    expected_interception(&object)
        .map_err(|error| CniError::new(Code::InvalidPod, "invalid pod", format!("pod {pod}: {error}")))
}

/// Refuses a pod that replaced the one of this attachment: it may expect another interception.
fn check_uid(object: &Value, pod: &PodRef) -> Result<(), CniError> {
    let metadata = &object["metadata"];
    let uids = [metadata["uid"].as_str(), metadata["annotations"][MIRROR_ANNOTATION].as_str()];
    match &pod.uid {
        Some(uid) if !uids.contains(&Some(uid.as_str())) => {
            Err(later(format!("pod {pod} was replaced by another of the same name")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Checks that the plugin can read pods.
pub(crate) fn check_access(kubeconfig: &Path) -> Result<(), CniError> {
    let unavailable =
        |details: String| CniError::new(Code::NotAvailable, "the plugin is not available", details);
    block_on(async {
        // The name is valid and taken by nobody. An answer of any kind but a refusal proves access.
        match pods(kubeconfig, "kube-system").await?.get("osm-egress-cni.status").await {
            Ok(_) => Ok(()),
            Err(error) if is_unknown(&error) => Ok(()),
            Err(error) => Err(reason(&error)),
        }
    })
    .map_err(|error| unavailable(error.details))
}

async fn pods(kubeconfig: &Path, namespace: &str) -> Result<Api<Pod>, String> {
    let connection = connect(Some(kubeconfig)).await.map_err(|error| {
        format!("{error}: the DaemonSet `osm-egress-cni` writes it; is its pod on this node ready?")
    })?;
    Ok(Api::namespaced(connection.client, namespace))
}

/// Waits for the API server. Every failure is one that passes.
fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, CniError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| later(format!("cannot wait for the API server: {error}")))?;
    let result = runtime.block_on(async { tokio::time::timeout(TIMEOUT, work).await });
    // Names are resolved on a thread that may hang.
    runtime.shutdown_background();
    match result {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(details)) => Err(later(details)),
        Err(_) => Err(later(format!("the API server does not answer within {} s", TIMEOUT.as_secs()))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_was_replaced_is_not_the_one_of_the_attachment() {
        let pod = |uid: Option<&str>| PodRef { uid: uid.map(Into::into), ..PodRef::default() };
        let object = json!({"metadata": {"uid": "u"}});
        let mirror = json!({"metadata": {"uid": "m", "annotations": {MIRROR_ANNOTATION: "u"}}});
        for (object, uid, expected) in [
            (&object, Some("u"), None),
            (&object, None, None),
            (&object, Some("old"), Some(Code::TryAgainLater)),
            (&mirror, Some("u"), None),
            (&json!({}), Some("u"), Some(Code::TryAgainLater)),
        ] {
            assert_eq!(
                check_uid(object, &pod(uid)).err().map(|error| error.code),
                expected,
                "{object} {uid:?}"
            );
        }
    }
}
