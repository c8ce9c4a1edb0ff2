//! One pod, its sidecar and the control plane, and what tests do with them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use egress_compile::store::{FileUpdate, Store};
use egress_compile::{CompileOptions, Compiled, compile};
use egress_policy::Identity;
use serde_json::Value;

use crate::client::{self, Outcome};
use crate::envoy::Envoy;
use crate::mesh::{self, World};
use crate::netns::{Form, Pod, ensure_capable};
use crate::origin::ADDRESS_HEADER;
use crate::shim::Shim;
use crate::wait::wait_for;

/// Everything that there is.
#[derive(Debug)]
pub struct Scene<'s> {
    /// The world.
    pub world: &'s World,
    /// The pod, of `curl/curl`.
    pub pod: &'s Pod,
    /// The control plane.
    pub shim: &'s Shim<'s>,
    /// The sidecar.
    pub envoy: &'s Envoy<'s>,
}

/// How a scene is set.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The manifests: file names and texts.
    pub manifests: &'a [(&'a str, &'a str)],
    /// Flags of the control plane.
    pub flags: &'a [&'a str],
    /// The form of the pod.
    pub form: Form,
}

/// Sets a scene in which these manifests are in force.
///
/// # Errors
/// When it cannot be set, and what the test says.
pub fn play(manifests: &[(&str, &str)], test: impl FnOnce(&Scene<'_>) -> Result<()>) -> Result<()> {
    play_in(|_| Ok(()), manifests, test)
}

/// The same in a world that is made ready before.
///
/// # Errors
/// When it cannot be set, and what the test says.
pub fn play_in(
    prepare: impl FnOnce(&World) -> Result<()>,
    manifests: &[(&str, &str)],
    test: impl FnOnce(&Scene<'_>) -> Result<()>,
) -> Result<()> {
    Setting { manifests, flags: &[], form: Form::possible() }.play(prepare, test)
}

impl Setting<'_> {
    /// Sets the scene in a world that is made ready before.
    ///
    /// # Errors
    /// When it cannot be set, and what the test says.
    pub fn play(
        &self,
        prepare: impl FnOnce(&World) -> Result<()>,
        test: impl FnOnce(&Scene<'_>) -> Result<()>,
    ) -> Result<()> {
        ensure_capable()?;
        let world = World::new()?;
        prepare(&world)?;
        let pod = world.outside.pod(self.form)?;
        for (name, text) in self.manifests {
            world.write(name, text)?;
        }
        let shim = world.shim(self.flags)?;
        let envoy = mesh::sidecar(&pod, false)?;
        let scene = Scene { world: &world, pod: &pod, shim: &shim, envoy: &envoy };
        scene.in_force()?;
        test(&scene)
    }
}

impl Scene<'_> {
    /// Writes a manifest, and waits until Envoy has what follows from it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.world.write(name, text)?;
        self.in_force().with_context(|| format!("after {name} was written"))
    }

    /// Removes a manifest, and waits until Envoy has what follows from it.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.world.remove(name)?;
        self.in_force().with_context(|| format!("after {name} was removed"))
    }

    /// Waits until the control plane says of all objects what follows from the folder, and Envoy has
    /// acknowledged the document that follows from it.
    ///
    /// # Errors
    /// When that does not happen in time; with the control plane's status.
    pub fn in_force(&self) -> Result<()> {
        let compiled = self.compiled()?;
        let version = compiled.document(&Identity::new("curl", "curl")?).version.clone();
        let expected = serde_json::to_value(compiled.statuses.values().collect::<Vec<_>>())?;
        wait_for("the policy to be in force", Duration::from_secs(5), || {
            self.shim.status().is_ok_and(|status| {
                status["proxies"][0]["documentAcknowledged"] == version.as_str()
                    && said(&status["objects"]) == said(&expected)
            })
        })
        .with_context(|| format!("{:#}", self.shim.status().unwrap_or_default()))?;
        Ok(())
    }

    /// What follows from the folder.
    fn compiled(&self) -> Result<Compiled> {
        let mut store = Store::default();
        for entry in std::fs::read_dir(self.world.manifests.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                store.apply(FileUpdate::read(name.as_str().into(), &std::fs::read(&path)?));
            }
        }
        Ok(compile(&store, &CompileOptions::default(), None))
    }

    /// What the status says about an object, `KIND NAMESPACE/NAME`: `SEVERITY FIELD: MESSAGE` each.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn problems(&self, object: &str) -> Result<Vec<String>> {
        let condition = self.condition(object)?;
        let problems = condition["diagnostics"].as_array().cloned().unwrap_or_default();
        let text = |problem: &Value, key: &str| problem[key].as_str().unwrap_or("-").to_owned();
        let line =
            |p: &Value| format!("{} {}: {}", text(p, "severity"), text(p, "field"), text(p, "message"));
        Ok(problems.iter().map(line).collect())
    }

    /// Whether everything in an object counts, and how many rules it gives.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn accepted(&self, object: &str) -> Result<(bool, u64)> {
        let condition = self.condition(object)?;
        Ok((condition["accepted"] == true, condition["rules"].as_u64().unwrap_or_default()))
    }

    fn condition(&self, object: &str) -> Result<Value> {
        let status = self.shim.status()?;
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
    /// When there is none of this name.
    pub fn metric(&self, name: &str) -> Result<u64> {
        self.shim.metric(name)
    }

    /// A request for `http://AUTHORITY/PATH` to an address.
    ///
    /// # Errors
    /// When the workload's namespace is gone.
    pub fn get(&self, to: SocketAddr, authority: &str, path: &str) -> Result<Reply> {
        mesh::get(self.pod, to, authority, path).map(Reply::from)
    }

    /// The same over TLS.
    ///
    /// # Errors
    /// When the workload's namespace is gone.
    pub fn get_tls(&self, to: SocketAddr, name: &str) -> Result<Reply> {
        mesh::get_tls(self.pod, to, Some(name)).map(Reply::from)
    }

    /// What comes back first for these bytes.
    ///
    /// # Errors
    /// When the workload's namespace is gone.
    pub fn exchange(&self, to: SocketAddr, bytes: &[u8]) -> Result<Reply> {
        self.pod.workload().run(|| client::exchange(to, bytes)).map(Reply::from)
    }

    /// What Envoy has of one cluster.
    ///
    /// # Errors
    /// When there is none of this name.
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

/// What is said of objects, without their places: object, rules, problems.
fn said(conditions: &Value) -> Vec<(Value, Value, Vec<Value>)> {
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

/// What became of an attempt, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An origin answered, at this address: status and body.
    Origin(String, u16, String),
    /// Envoy answered: status, and the reason for which it refused.
    Envoy(u16, Option<String>),
    /// These bytes came.
    Bytes(Vec<u8>),
    /// No connection, or one that was closed without a byte.
    Closed,
    /// Nothing came in time.
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
    /// That an origin at this address answered.
    ///
    /// # Errors
    /// When not.
    pub fn from_origin(&self, at: std::net::IpAddr) -> Result<&str> {
        match self {
            Self::Origin(from, _, body) if *from == at.to_string() => Ok(body),
            other => bail!("instead of an answer from {at}: {other:?}"),
        }
    }

    /// That the request was refused, with this reason.
    ///
    /// # Errors
    /// When not.
    pub fn refused(&self, reason: &str) -> Result<()> {
        match self {
            Self::Envoy(403, Some(found)) if found == reason => Ok(()),
            other => bail!("instead of 403 {reason}: {other:?}"),
        }
    }

    /// That the connection was closed.
    ///
    /// # Errors
    /// When not.
    pub fn closed(&self) -> Result<()> {
        match self {
            Self::Closed => Ok(()),
            other => bail!("instead of a close: {other:?}"),
        }
    }

    /// That these bytes came back.
    ///
    /// # Errors
    /// When not.
    pub fn echoed(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Bytes(found) if found == bytes => Ok(()),
            other => bail!("instead of an echo: {other:?}"),
        }
    }
}
