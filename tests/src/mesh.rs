//! A test mesh: one pod with its sidecar, under a control plane, in a test network.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use egress_policy::Identity;
use serde_json::Value;

use crate::client::{self, Outcome};
use crate::control_plane::ControlPlane;
use crate::envoy::Envoy;
use crate::netns::{Pod, PodForm, ensure_capable};
use crate::network::TestNetwork;
use crate::origin::ADDRESS_HEADER;
use crate::sidecar;
use crate::wait::wait_for;
use crate::workload;

/// One pod with its sidecar, under a control plane, in a test network.
#[derive(Debug)]
pub struct TestMesh<'s> {
    /// The network.
    pub network: &'s TestNetwork,
    /// The pod of `curl/curl`.
    pub pod: &'s Pod,
    /// The control plane.
    pub control_plane: &'s ControlPlane<'s>,
    /// The sidecar.
    pub envoy: &'s Envoy<'s>,
}

/// The options of a test mesh.
#[derive(Debug)]
pub struct MeshOptions<'a> {
    /// The manifests: file names and texts.
    pub manifests: &'a [(&'a str, &'a str)],
    /// Flags of the control plane.
    pub flags: &'a [&'a str],
    /// The form of the pod.
    pub form: PodForm,
}

/// Runs a test in a mesh with these manifests in force.
///
/// # Errors
/// Fails if the mesh does not start, or if the test fails.
pub fn with_mesh(manifests: &[(&str, &str)], test: impl FnOnce(&TestMesh<'_>) -> Result<()>) -> Result<()> {
    with_prepared_mesh(|_| Ok(()), manifests, test)
}

/// Runs a test in a mesh whose network `prepare` changes first.
///
/// # Errors
/// Fails if the mesh does not start, or if the test fails.
pub fn with_prepared_mesh(
    prepare: impl FnOnce(&TestNetwork) -> Result<()>,
    manifests: &[(&str, &str)],
    test: impl FnOnce(&TestMesh<'_>) -> Result<()>,
) -> Result<()> {
    MeshOptions { manifests, flags: &[], form: PodForm::supported() }.run(prepare, test)
}

impl MeshOptions<'_> {
    /// Runs a test in a mesh with these options, whose network `prepare` changes first.
    ///
    /// # Errors
    /// Fails if the mesh does not start, or if the test fails.
    pub fn run(
        &self,
        prepare: impl FnOnce(&TestNetwork) -> Result<()>,
        test: impl FnOnce(&TestMesh<'_>) -> Result<()>,
    ) -> Result<()> {
        ensure_capable()?;
        let network = TestNetwork::new()?;
        prepare(&network)?;
        let pod = network.outside.pod(self.form)?;
        for (name, text) in self.manifests {
            network.write(name, text)?;
        }
        let control_plane = network.control_plane(self.flags)?;
        let envoy = sidecar::start(&pod, false)?;
        let mesh = TestMesh { network: &network, pod: &pod, control_plane: &control_plane, envoy: &envoy };
        mesh.wait_until_in_force()?;
        test(&mesh)
    }
}

impl TestMesh<'_> {
    /// Writes a manifest and waits until Envoy has the resulting policy.
    ///
    /// # Errors
    /// Fails if that does not happen in time.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.network.write(name, text)?;
        self.wait_until_in_force().with_context(|| format!("after {name} was written"))
    }

    /// Removes a manifest and waits until Envoy has the resulting policy.
    ///
    /// # Errors
    /// Fails if that does not happen in time.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.network.remove(name)?;
        self.wait_until_in_force().with_context(|| format!("after {name} was removed"))
    }

    /// Waits until the control plane reports the folder's objects and Envoy has acknowledged the resulting
    /// document.
    ///
    /// # Errors
    /// Fails if that does not happen in time; with the control plane's status.
    pub fn wait_until_in_force(&self) -> Result<()> {
        let compiled = self.compiled()?;
        let version = compiled.document(&Identity::new("curl", "curl")?).version.clone();
        let expected = serde_json::to_value(compiled.statuses.values().collect::<Vec<_>>())?;
        wait_for("the policy to be in force", Duration::from_secs(5), || {
            self.control_plane.status().is_ok_and(|status| {
                status["proxies"][0]["documentAcknowledged"] == version.as_str()
                    && summarize_statuses(&status["objects"]) == summarize_statuses(&expected)
            })
        })
        .with_context(|| format!("{:#}", self.control_plane.status().unwrap_or_default()))?;
        Ok(())
    }

    /// Compiles the folder.
    fn compiled(&self) -> Result<Compiled> {
        let mut store = Store::default();
        for entry in std::fs::read_dir(self.network.manifests.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                store.apply(FileUpdate::read(name.as_str().into(), &std::fs::read(&path)?));
            }
        }
        Ok(compile(&store, &CompileOptions::default(), None))
    }

    /// The diagnostics of an object, `KIND NAMESPACE/NAME`, each as `SEVERITY FIELD: MESSAGE`.
    ///
    /// # Errors
    /// Fails if there is no such object.
    pub fn diagnostics(&self, object: &str) -> Result<Vec<String>> {
        let condition = self.condition(object)?;
        let problems = condition["diagnostics"].as_array().cloned().unwrap_or_default();
        let text = |problem: &Value, key: &str| problem[key].as_str().unwrap_or("-").to_owned();
        let line =
            |p: &Value| format!("{} {}: {}", text(p, "severity"), text(p, "field"), text(p, "message"));
        Ok(problems.iter().map(line).collect())
    }

    /// The acceptance of an object and its number of rules.
    ///
    /// # Errors
    /// Fails if there is no such object.
    pub fn accepted(&self, object: &str) -> Result<(bool, u64)> {
        let condition = self.condition(object)?;
        Ok((condition["accepted"] == true, condition["rules"].as_u64().unwrap_or_default()))
    }

    fn condition(&self, object: &str) -> Result<Value> {
        let status = self.control_plane.status()?;
        let is_it = |condition: &&Value| {
            let reference = &condition["object"];
            let text = |key: &str| reference[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}/{}", text("kind"), text("namespace"), text("name")) == object
        };
        let found = status["objects"].as_array().into_iter().flatten().find(is_it);
        found.cloned().with_context(|| format!("there is no {object} in {status:#}"))
    }

    /// A counter of the control plane.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn metric(&self, name: &str) -> Result<u64> {
        self.control_plane.metric(name)
    }

    /// Sends a request for `http://AUTHORITY/PATH` to an address.
    ///
    /// # Errors
    /// Fails if the workload's namespace is gone.
    pub fn get(&self, to: SocketAddr, authority: &str, path: &str) -> Result<Reply> {
        workload::get(self.pod, to, authority, path).map(Reply::from)
    }

    /// Sends a request over TLS.
    ///
    /// # Errors
    /// Fails if the workload's namespace is gone.
    pub fn get_tls(&self, to: SocketAddr, name: &str) -> Result<Reply> {
        workload::get_tls(self.pod, to, Some(name)).map(Reply::from)
    }

    /// Sends bytes and returns the first answer.
    ///
    /// # Errors
    /// Fails if the workload's namespace is gone.
    pub fn exchange(&self, to: SocketAddr, bytes: &[u8]) -> Result<Reply> {
        self.pod.workload().run(|| client::exchange(to, bytes)).map(Reply::from)
    }

    /// Envoy's configuration of a cluster.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn cluster(&self, name: &str) -> Result<Value> {
        let dump: Value =
            serde_json::from_str(&self.envoy.admin("/config_dump?resource=dynamic_active_clusters")?)?;
        let clusters = dump["configs"].as_array().cloned().unwrap_or_default();
        let found = clusters.iter().map(|config| &config["cluster"]).find(|c| c["name"] == name);
        found.cloned().with_context(|| {
            let names: Vec<String> = clusters.iter().map(|c| c["cluster"]["name"].to_string()).collect();
            format!("there is no cluster `{name}` among {}", names.join(", "))
        })
    }
}

/// The parts of object statuses that have no place in a file: object, rules, messages.
fn summarize_statuses(conditions: &Value) -> Vec<(Value, Value, Vec<Value>)> {
    let problems = |condition: &Value| -> Vec<Value> {
        condition["diagnostics"].as_array().into_iter().flatten().map(|p| p["message"].clone()).collect()
    };
    conditions
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| (condition["object"].clone(), condition["rules"].clone(), problems(condition)))
        .collect()
}

/// The result of an attempt, by who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An origin answered at this address: status and body.
    Origin(String, u16, String),
    /// Envoy answered: status, and the reason of its refusal.
    Envoy(u16, Option<String>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// The connection was refused, or closed without a byte.
    Closed,
    /// Nothing came before [`client::IO_TIMEOUT`].
    Silence,
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Http(answer) => match answer.header(ADDRESS_HEADER) {
                Some(at) => {
                    let body = String::from_utf8_lossy(&answer.body).into_owned();
                    Self::Origin(at.to_owned(), answer.status, body)
                }
                None => Self::Envoy(answer.status, answer.header("x-egress-denied").map(str::to_owned)),
            },
            Outcome::Bytes(bytes) => Self::Bytes(bytes),
            Outcome::Refused(_) | Outcome::Closed => Self::Closed,
            Outcome::Silence => Self::Silence,
        }
    }
}

impl Reply {
    /// Requires an answer of the origin at this address; returns the body.
    ///
    /// # Errors
    /// Fails with the reply if it is another one.
    pub fn expect_origin(&self, at: std::net::IpAddr) -> Result<&str> {
        match self {
            Self::Origin(from, _, body) if *from == at.to_string() => Ok(body),
            other => bail!("instead of an answer from {at}: {other:?}"),
        }
    }

    /// Requires a refusal with this reason.
    ///
    /// # Errors
    /// Fails with the reply if it is another one.
    pub fn expect_refusal(&self, reason: &str) -> Result<()> {
        match self {
            Self::Envoy(403, Some(found)) if found == reason => Ok(()),
            other => bail!("instead of 403 {reason}: {other:?}"),
        }
    }

    /// Requires that the connection was closed.
    ///
    /// # Errors
    /// Fails with the reply if it is another one.
    pub fn expect_close(&self) -> Result<()> {
        match self {
            Self::Closed => Ok(()),
            other => bail!("instead of a close: {other:?}"),
        }
    }

    /// Requires that these bytes came back.
    ///
    /// # Errors
    /// Fails with the reply if it is another one.
    pub fn expect_echo(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Bytes(found) if found == bytes => Ok(()),
            other => bail!("instead of an echo: {other:?}"),
        }
    }
}
