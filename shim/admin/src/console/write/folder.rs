//! WriteConfig to a folder of manifests. Files are replaced by renaming, so that no reader sees half of one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use egress_compile::CompileOptions;
use egress_compile::manifest::{Body, Kind, ObjectRef};
use egress_compile::store::Store;

use super::error::WriteError;
use super::global_egress;
use super::policy::ProposedPolicies;

/// A folder of manifests.
#[derive(Debug)]
pub(super) struct ManifestFolder {
    root: PathBuf,
}

impl ManifestFolder {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// WriteConfig policies to a new file; returns its path.
    pub(super) fn write_policies(&self, policies: &ProposedPolicies) -> Result<String, WriteError> {
        let (namespace, name) = policies.first();
        // The name must not be a path.
        let is_plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        if !is_plain(namespace) || !is_plain(name) || name.starts_with('.') || namespace.starts_with('.') {
            return Err(WriteError::invalid(format!(
                "`{namespace}/{name}` is not a valid object name: use lower-case letters, digits, `-` and `.`"
            )));
        }
        let path = self.root.join(format!("{namespace}-{name}.yaml"));
        let draft = self.write_draft(&policies.text, 0o644)?;
        match draft.persist_noclobber(&path) {
            Ok(_) => Ok(path.display().to_string()),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(WriteError::conflict(format!("{} already exists and was not changed", path.display())))
            }
            Err(error) => Err(write_failure(&path, &error.error)),
        }
    }

    /// Switches global egress in the file of the MeshConfig; returns its path and line.
    pub(super) fn set_global_egress(
        &self,
        store: &Store,
        options: &CompileOptions,
        on: bool,
    ) -> Result<String, WriteError> {
        let CompileOptions { mesh_config_namespace: namespace, mesh_config_name: name, .. } = options;
        let reference = ObjectRef::new(Kind::MeshConfig, namespace.as_str(), name.as_str());
        let Some(object) = store.object(&reference) else {
            return Err(WriteError::conflict(format!(
                "there is no {reference} in {}: write one with `spec: {{traffic: {{enableEgress: {on}}}}}`",
                self.root.display()
            )));
        };
        let path = PathBuf::from(&*object.file);
        let by_hand = |line: u32, why: &str| {
            WriteError::conflict(format!(
                "{}:{line}: {why}: set `spec.traffic.enableEgress: {on}` by hand",
                path.display()
            ))
        };
        let line = object.position("spec.traffic.enableEgress").map_or(1, |at| at.line);
        let Body::MeshConfig(config) = &object.body else {
            return Err(by_hand(line, "this is not a MeshConfig"));
        };
        if config.traffic.as_ref().and_then(|traffic| traffic.enable_egress).is_none() {
            return Err(by_hand(line, "the field is missing"));
        }
        let metadata = path.symlink_metadata().map_err(|error| write_failure(&path, &error))?;
        if !metadata.is_file() {
            // A mounted ConfigMap: something else writes this file.
            return Err(by_hand(line, "this is a symbolic link"));
        }
        let before = fs::read(&path).map_err(|error| write_failure(&path, &error))?;
        let after = global_egress::replace_switch(&before, object, on).map_err(|why| by_hand(line, why))?;
        let draft = self.write_draft(&after, metadata.permissions().mode() & 0o777)?;
        // Another program may have written it meanwhile.
        if fs::read(&path).ok().as_ref() != Some(&before) {
            return Err(WriteError::conflict(format!("{} has just changed: try again", path.display())));
        }
        draft.persist(&path).map_err(|error| write_failure(&path, &error.error))?;
        Ok(format!("{}:{line}", path.display()))
    }

    /// WriteConfig a hidden file, which is not read as a manifest.
    fn write_draft(&self, text: &str, mode: u32) -> Result<tempfile::NamedTempFile, WriteError> {
        let mut builder = tempfile::Builder::new();
        let builder =
            builder.prefix(".osm-egress-").suffix(".draft").permissions(Permissions::from_mode(mode));
        let written = builder.tempfile_in(&self.root).and_then(|mut draft| {
            draft.write_all(text.as_bytes())?;
            draft.as_file().sync_all()?;
            Ok(draft)
        });
        written.map_err(|error| write_failure(&self.root, &error))
    }
}

fn write_failure(path: &Path, error: &std::io::Error) -> WriteError {
    let why = format!("cannot write {}: {error}", path.display());
    WriteError(StatusCode::INTERNAL_SERVER_ERROR, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::destination::Destination;
    use egress_compile::blocked_ranges::BlockedRanges;
    use egress_compile::explain::probe_form::ProbeForm;
    use egress_compile::store::FileUpdate;
    use egress_policy::Identity;

    /// Destination of the policies in these tests.
    fn destination() -> Destination {
        let form =
            ProbeForm { identity: "shop/app".into(), to: "https://a.org".into(), ..ProbeForm::default() };
        Destination::from_request(&form.to_request(15001, BlockedRanges::default()).expect("sense"))
    }

    fn load(root: &Path) -> Store {
        let mut store = Store::default();
        for entry in fs::read_dir(root).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            store.apply(FileUpdate::read(name.as_str().into(), &fs::read(&path).expect("a file")));
        }
        store
    }

    const MESH: &str = "# Ours.\nkind: MeshConfig\napiVersion: config.openservicemesh.io/v1alpha2\n\
        metadata: {name: osm-mesh-config, namespace: osm-system}\nspec:\n  traffic:\n    enableEgress: false # for now\n";

    #[test]
    fn only_the_switch_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, options) = (folder.path().join("mesh.yaml"), CompileOptions::default());
        fs::write(&path, MESH).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
        let ours = ManifestFolder::new(folder.path());
        let message = ours.set_global_egress(&load(folder.path()), &options, true).expect("switched");
        assert_eq!(message, format!("{}:7", path.display()));
        let after = fs::read_to_string(&path).expect("there");
        assert_eq!(after, MESH.replace("enableEgress: false", "enableEgress: true"));
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "a draft was left behind");

        // The file has changed since it was read.
        let store = load(folder.path());
        fs::write(&path, format!("# A new line.\n{MESH}")).expect("written");
        let WriteError(status, why) = ours.set_global_egress(&store, &options, false).expect_err("changed");
        assert!(status == 409 && why.contains("mesh.yaml:7: "), "{why}");
        assert_eq!(fs::read_to_string(&path).expect("there"), format!("# A new line.\n{MESH}"));
    }

    #[test]
    fn a_switch_that_cannot_be_replaced_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, options) = (folder.path().join("mesh.yaml"), CompileOptions::default());
        let ours = ManifestFolder::new(folder.path());
        let refused = |expected: &str| {
            let before = fs::read(&path).ok();
            let WriteError(status, why) =
                ours.set_global_egress(&load(folder.path()), &options, true).expect_err(expected);
            assert!(status == 409 && why.contains(expected), "{why}");
            assert_eq!(fs::read(&path).ok(), before);
        };
        refused("there is no MeshConfig osm-system/osm-mesh-config in");
        fs::write(
            &path,
            MESH.replace("    enableEgress: false # for now\n", "    outboundPortExclusionList: [1]\n"),
        )
        .expect("written");
        refused("mesh.yaml:6: the field is missing: set `spec.traffic.enableEgress: true` by hand");
        let elsewhere = tempfile::NamedTempFile::new().expect("a file");
        fs::write(elsewhere.path(), MESH).expect("written");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(elsewhere.path(), &path).expect("a link");
        refused("mesh.yaml:7: this is a symbolic link");
    }

    #[test]
    fn a_policy_is_written_to_a_new_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {name: new, namespace: shop}\n\
            spec:\n  sources: [{kind: ServiceAccount, name: app, namespace: shop}]\n  hosts: [a.org]\n  \
            ports: [{number: 443, protocol: https}]\n";
        let policies = |name: &str| {
            let text = text.replace("name: new", &format!("name: \"{name}\""));
            let identity = Identity::new("shop", "app").expect("valid");
            ProposedPolicies::validate(
                &identity,
                &destination(),
                text,
                &Store::default(),
                &CompileOptions::default(),
            )
            .expect("good")
        };
        let ours = ManifestFolder::new(folder.path());
        let path = folder.path().join("shop-new.yaml");
        assert_eq!(ours.write_policies(&policies("new")).expect("written"), path.display().to_string());
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o644);
        fs::write(&path, "somebody's").expect("written");
        let WriteError(status, why) = ours.write_policies(&policies("new")).expect_err("there already");
        assert!(status == 409 && why.contains("shop-new.yaml already exists"), "{why}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "somebody's");
        for name in ["../new", ".new", "a/b", "NEW", "a b"] {
            let identity = Identity::new("shop", "app").expect("valid");
            let text = text.replace("name: new", &format!("name: \"{name}\""));
            // Some of these are no valid object names to begin with.
            let read = ProposedPolicies::validate(
                &identity,
                &destination(),
                text,
                &Store::default(),
                &CompileOptions::default(),
            );
            assert!(read.and_then(|policies| ours.write_policies(&policies)).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
