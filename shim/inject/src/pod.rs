//! Injection of the sidecar into a pod.

use egress_compile::manifest::spec::MeshConfig;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Map, Value, json};

use super::annotations::{Annotations, parse_enabled};
use super::interception::PROXY_UID;
use super::{
    HOSTS_VOLUME, INIT_CONTAINER, INJECTED_LABEL, InjectionError, NATIVE_ANNOTATION, SIDECAR_CONTAINER,
    Settings, TOKEN_VOLUME, containers, exclusions, find_bypasses, has_proxy_uid,
};

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectedPod {
    /// The pod.
    pub pod: Value,
    /// The difference: whole lists, for readability. Empty if the pod already was as it should be.
    pub patch: Patch,
    /// Warnings for the author of the pod.
    pub warnings: Vec<String>,
}

/// Adds the sidecar to a pod or pod template. Injection is idempotent: parts that were injected before are replaced.
///
/// # Errors
/// Returns the reason and the remedy if the pod cannot have a sidecar.
pub fn inject_sidecar(
    pod: &Value,
    settings: &Settings,
    mesh: &MeshConfig,
) -> Result<InjectedPod, InjectionError> {
    let annotations = Annotations::from_object(pod);
    let mut parts = PodParts::from_pod(pod)?;
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Err(InjectionError::HostNetwork);
    }
    if is_windows(spec) {
        return Err(InjectionError::Windows);
    }
    if let Some(account) = spec.get("serviceAccountName").and_then(Value::as_str).filter(|a| a.contains('.'))
    {
        return Err(InjectionError::DottedServiceAccount(account.to_owned()));
    }
    if parts.labels.get(INJECTED_LABEL).is_some() || parts.is_copy() {
        parts.remove_injected();
    }
    parts.check_names()?;
    check_uids(spec, &parts)?;
    let native = match parse_enabled(annotations.get(NATIVE_ANNOTATION), NATIVE_ANNOTATION)? {
        Some(native) => native,
        None => settings.native_sidecar,
    };
    let (interception, mut warnings) =
        exclusions::build_interception(mesh, annotations, settings.pod_annotations)?;
    warnings.extend(find_bypasses(spec, parts.own_containers()));
    warnings.extend(find_limitations(spec, &parts, native));

    let of_mesh = mesh.sidecar.as_deref().cloned().unwrap_or_default();
    let sidecar = containers::sidecar_container(settings, &of_mesh, native)?;
    if native {
        parts.init_containers.insert(0, sidecar);
    } else {
        parts.containers.push(sidecar);
    }
    parts.init_containers.insert(0, containers::init_container(settings, &of_mesh, &interception));
    parts.volumes.extend(containers::volumes(settings));
    parts.labels.insert(INJECTED_LABEL.to_owned(), json!("injected"));
    Ok(parts.build(pod, warnings))
}

/// Names of the injected volumes.
const INJECTED_VOLUMES: [&str; 2] = [TOKEN_VOLUME, HOSTS_VOLUME];

/// PodParts of a pod that injection changes.
struct PodParts {
    labels: Map<String, Value>,
    containers: Vec<Value>,
    init_containers: Vec<Value>,
    volumes: Vec<Value>,
}

impl PodParts {
    fn from_pod(pod: &Value) -> Result<Self, InjectionError> {
        let labels = match pod.pointer("/metadata/labels") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(labels)) => labels.clone(),
            Some(_) => return Err(InjectionError::InvalidField("metadata.labels")),
        };
        let list = |pointer, field| match pod.pointer(pointer) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items.clone()),
            Some(_) => Err(InjectionError::InvalidField(field)),
        };
        let containers = list("/spec/containers", "spec.containers")?;
        if containers.is_empty() {
            return Err(InjectionError::InvalidField("spec.containers"));
        }
        Ok(Self {
            labels,
            containers,
            init_containers: list("/spec/initContainers", "spec.initContainers")?,
            volumes: list("/spec/volumes", "spec.volumes")?,
        })
    }

    /// Returns true for a copy of an injected pod without its labels, as `kubectl debug --copy-to` makes it. Its injected
    /// parts are replaced, so whoever imitates them gains nothing.
    fn is_copy(&self) -> bool {
        let is_init = |container: &Value| {
            name(container) == INIT_CONTAINER && container["command"] == json!(["osm-egress"])
        };
        let is_sidecar = |container: &Value| {
            name(container) == SIDECAR_CONTAINER
                && container.pointer("/securityContext/runAsUser") == Some(&json!(PROXY_UID))
        };
        self.init_containers.iter().any(is_init)
            && self.own_containers().any(is_sidecar)
            && self.volumes.iter().any(|volume| name(volume) == HOSTS_VOLUME)
    }

    /// Removes injected parts. A pod that only has the label gets a sidecar all the same.
    fn remove_injected(&mut self) {
        for list in [&mut self.containers, &mut self.init_containers] {
            list.retain(|container| ![SIDECAR_CONTAINER, INIT_CONTAINER].contains(&name(container)));
        }
        self.volumes.retain(|volume| !INJECTED_VOLUMES.contains(&name(volume)));
    }

    fn check_names(&self) -> Result<(), InjectionError> {
        let taken = |what, name: &str| Err(InjectionError::NameTaken { what, name: name.to_owned() });
        for container in self.own_containers() {
            if [SIDECAR_CONTAINER, INIT_CONTAINER].contains(&name(container)) {
                return taken("container", name(container));
            }
        }
        if let Some(volume) = self.volumes.iter().map(name).find(|volume| INJECTED_VOLUMES.contains(volume)) {
            return taken("volume", volume);
        }
        // Once the volume is added, Kubernetes would give them the sidecar's token.
        for container in self.own_containers() {
            let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
            if let Some(volume) = mounts.map(name).find(|volume| INJECTED_VOLUMES.contains(volume)) {
                return Err(InjectionError::ForbiddenMount {
                    container: name(container).to_owned(),
                    volume: volume.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn own_containers(&self) -> impl Iterator<Item = &Value> {
        self.containers.iter().chain(&self.init_containers)
    }

    fn build(self, pod: &Value, warnings: Vec<String>) -> InjectedPod {
        let Self { labels, containers, init_containers, volumes } = self;
        let mut injected = InjectedPod { pod: pod.clone(), patch: Patch(Vec::new()), warnings };
        // A template may lack metadata.
        if !pod.get("metadata").is_some_and(Value::is_object) {
            injected.set_field("metadata", None, json!({}));
        }
        injected.set_field("metadata", Some("labels"), Value::Object(labels));
        injected.set_field("spec", Some("containers"), Value::Array(containers));
        injected.set_field("spec", Some("initContainers"), Value::Array(init_containers));
        if !volumes.is_empty() || pod.pointer("/spec/volumes").is_some_and(Value::is_array) {
            injected.set_field("spec", Some("volumes"), Value::Array(volumes));
        }
        injected
    }
}

impl InjectedPod {
    fn set_field(&mut self, part: &str, field: Option<&str>, value: Value) {
        let place = match field {
            Some(field) => &mut self.pod[part][field],
            None => &mut self.pod[part],
        };
        if *place == value {
            return;
        }
        place.clone_from(&value);
        let path = PointerBuf::from_tokens(std::iter::once(part).chain(field));
        self.patch.0.push(PatchOperation::Add(AddOperation { path, value }));
    }
}

fn name(part: &Value) -> &str {
    part.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn is_windows(spec: &Value) -> bool {
    let names = [spec.pointer("/os/name"), spec.pointer("/nodeSelector/kubernetes.io~1os")];
    names.into_iter().flatten().any(|name| name == "windows")
}

/// Refuses containers with the sidecar's uid, by which interception recognizes it. The image's user is unknown here.
fn check_uids(spec: &Value, parts: &PodParts) -> Result<(), InjectionError> {
    let ephemeral = spec.get("ephemeralContainers").and_then(Value::as_array).into_iter().flatten();
    parts.own_containers().chain(ephemeral).try_for_each(|container| check_uid(spec, container))
}

/// Refuses a container with the sidecar's uid.
pub(super) fn check_uid(spec: &Value, container: &Value) -> Result<(), InjectionError> {
    match has_proxy_uid(spec, container) {
        Ok(false) => Ok(()),
        Ok(true) => Err(InjectionError::ProxyUid(name(container).to_owned())),
        Err(_) => Err(InjectionError::InvalidField("securityContext.runAsUser")),
    }
}

/// Warns of features that a sidecar breaks.
fn find_limitations(spec: &Value, parts: &PodParts, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if native {
        return warnings;
    }
    if let Some(first) = parts.init_containers.first() {
        warnings.push(format!(
            "init container `{}` cannot open TCP connections, because the sidecar starts after it: \
             on Kubernetes 1.29 or newer, annotate the pod with `{NATIVE_ANNOTATION}: enabled`",
            name(first)
        ));
    }
    if spec.get("restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always") {
        warnings.push(format!(
            "the sidecar keeps running after the workload ends, so the pod never completes: \
             on Kubernetes 1.29 or newer, annotate the pod with `{NATIVE_ANNOTATION}: enabled`"
        ));
    }
    warnings
}
