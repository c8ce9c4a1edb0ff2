//! From a pod without a sidecar to one with it.

use egress_compile::manifest::spec::MeshConfig;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Map, Value, json};

use super::annotations::{Annotations, choice};
use super::{
    HOSTS_VOLUME, INIT, INJECTED_LABEL, NATIVE_ANNOTATION, Refusal, SIDECAR, Settings, TOKEN_VOLUME,
    bypasses, containers, exclusions, has_proxy_uid,
};

/// A pod, and what it gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod with its sidecar.
    pub pod: Value,
    /// What is different: whole lists, so that each is easy to read. Empty where it was so already.
    pub patch: Patch,
    /// What whoever made the pod should know.
    pub warnings: Vec<String>,
}

/// Gives a pod (or the template of pods) its sidecar. What it got from us before is replaced, so to do it
/// twice is to do it once.
///
/// # Errors
/// When the pod cannot have one, with what to do.
pub fn mutate(pod: &Value, settings: &Settings, mesh: &MeshConfig) -> Result<Injected, Refusal> {
    let annotations = Annotations::of(pod);
    let mut parts = Parts::of(pod)?;
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Err(Refusal::HostNetwork);
    }
    if is_windows(spec) {
        return Err(Refusal::Windows);
    }
    if let Some(account) = spec.get("serviceAccountName").and_then(Value::as_str).filter(|a| a.contains('.'))
    {
        return Err(Refusal::ServiceAccount(account.to_owned()));
    }
    if parts.labels.get(INJECTED_LABEL).is_some() {
        parts.strip();
    }
    parts.check_names()?;
    check_uids(spec, &parts)?;
    let native = match choice(annotations.get(NATIVE_ANNOTATION), NATIVE_ANNOTATION)? {
        Some(native) => native,
        None => settings.native_sidecar,
    };
    let (interception, mut warnings) = exclusions::interception(mesh, annotations, settings.pod_annotations)?;
    warnings.extend(bypasses(spec, parts.own_containers()));
    warnings.extend(inconveniences(spec, &parts, native));

    let of_mesh = mesh.sidecar.as_deref().cloned().unwrap_or_default();
    let sidecar = containers::sidecar(settings, &of_mesh, native)?;
    if native {
        parts.init_containers.insert(0, sidecar);
    } else {
        parts.containers.push(sidecar);
    }
    parts.init_containers.insert(0, containers::init(settings, &of_mesh, &interception));
    parts.volumes.extend(containers::volumes(settings));
    parts.labels.insert(INJECTED_LABEL.to_owned(), json!("injected"));
    Ok(parts.put_into(pod, warnings))
}

/// The volumes that pods get.
const VOLUMES: [&str; 2] = [TOKEN_VOLUME, HOSTS_VOLUME];

/// The parts of a pod that change.
struct Parts {
    labels: Map<String, Value>,
    containers: Vec<Value>,
    init_containers: Vec<Value>,
    volumes: Vec<Value>,
}

impl Parts {
    fn of(pod: &Value) -> Result<Self, Refusal> {
        let labels = match pod.pointer("/metadata/labels") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(labels)) => labels.clone(),
            Some(_) => return Err(Refusal::Shape("metadata.labels")),
        };
        let list = |pointer, field| match pod.pointer(pointer) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) if items.iter().all(Value::is_object) => Ok(items.clone()),
            Some(_) => Err(Refusal::Shape(field)),
        };
        let containers = list("/spec/containers", "spec.containers")?;
        if containers.is_empty() {
            return Err(Refusal::Shape("spec.containers"));
        }
        Ok(Self {
            labels,
            containers,
            init_containers: list("/spec/initContainers", "spec.initContainers")?,
            volumes: list("/spec/volumes", "spec.volumes")?,
        })
    }

    /// Takes away what came from us. Whoever marks a pod without it gets it all the same.
    fn strip(&mut self) {
        for list in [&mut self.containers, &mut self.init_containers] {
            list.retain(|container| ![SIDECAR, INIT].contains(&name(container)));
        }
        self.volumes.retain(|volume| !VOLUMES.contains(&name(volume)));
    }

    fn check_names(&self) -> Result<(), Refusal> {
        let taken = |what, name: &str| Err(Refusal::Taken { what, name: name.to_owned() });
        for container in self.own_containers() {
            if [SIDECAR, INIT].contains(&name(container)) {
                return taken("container", name(container));
            }
        }
        if let Some(volume) = self.volumes.iter().map(name).find(|volume| VOLUMES.contains(volume)) {
            return taken("volume", volume);
        }
        // The volume comes later, so Kubernetes would let them see the sidecar's token.
        for container in self.own_containers() {
            let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
            if let Some(volume) = mounts.map(name).find(|volume| VOLUMES.contains(volume)) {
                return Err(Refusal::Mount {
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

    fn put_into(self, pod: &Value, warnings: Vec<String>) -> Injected {
        let Self { labels, containers, init_containers, volumes } = self;
        let mut injected = Injected { pod: pod.clone(), patch: Patch(Vec::new()), warnings };
        // A template need not have any.
        if !pod.get("metadata").is_some_and(Value::is_object) {
            injected.put("metadata", None, json!({}));
        }
        injected.put("metadata", Some("labels"), Value::Object(labels));
        injected.put("spec", Some("containers"), Value::Array(containers));
        injected.put("spec", Some("initContainers"), Value::Array(init_containers));
        if !volumes.is_empty() || pod.pointer("/spec/volumes").is_some_and(Value::is_array) {
            injected.put("spec", Some("volumes"), Value::Array(volumes));
        }
        injected
    }
}

impl Injected {
    fn put(&mut self, part: &str, field: Option<&str>, value: Value) {
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

/// Interception knows the sidecar by its uid. What the image says cannot be seen here.
fn check_uids(spec: &Value, parts: &Parts) -> Result<(), Refusal> {
    let ephemeral = spec.get("ephemeralContainers").and_then(Value::as_array).into_iter().flatten();
    parts.own_containers().chain(ephemeral).try_for_each(|container| check_uid(spec, container))
}

/// The same for one container.
pub(super) fn check_uid(spec: &Value, container: &Value) -> Result<(), Refusal> {
    match has_proxy_uid(spec, container) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Refusal::ProxyUid(name(container).to_owned())),
        Err(_) => Err(Refusal::Shape("securityContext.runAsUser")),
    }
}

/// What does not work as without a sidecar.
fn inconveniences(spec: &Value, parts: &Parts, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if native {
        return warnings;
    }
    if let Some(first) = parts.init_containers.first() {
        warnings.push(format!(
            "init container `{}` reaches nothing by TCP, because the sidecar does not run yet: \
             with Kubernetes 1.29 or newer, annotate the pod with `{NATIVE_ANNOTATION}: enabled`",
            name(first)
        ));
    }
    if spec.get("restartPolicy").and_then(Value::as_str).is_some_and(|policy| policy != "Always") {
        warnings.push(format!(
            "the sidecar goes on when the workload has ended, so the pod never completes: \
             with Kubernetes 1.29 or newer, annotate it with `{NATIVE_ANNOTATION}: enabled`"
        ));
    }
    warnings
}
