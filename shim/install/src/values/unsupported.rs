//! Values of Open Service Mesh's chart that have no effect here, so that a values file for it still loads.

const NO_CERTIFICATES: &str = "workloads get no certificates; the control plane's own is made by `install`";
const NO_ADDON: &str = "no add-ons are installed";
const ONE_PROGRAM: &str = "there is one control plane: see `osm.egress`";

/// The unsupported keys, each with the reason; a key stands for everything below it too.
pub(super) const UNSUPPORTED_KEYS: &[(&str, &str)] = &[
    ("contour", NO_ADDON),
    ("smi", "TrafficTargets are always validated at admission"),
    ("osm.caBundleSecretName", NO_CERTIFICATES),
    ("osm.certificateProvider", NO_CERTIFICATES),
    ("osm.certmanager", NO_CERTIFICATES),
    ("osm.configResyncInterval", "every change is sent to proxies at once"),
    ("osm.controllerLogLevel", "set the environment variable `RUST_LOG`"),
    ("osm.curlImage", ONE_PROGRAM),
    ("osm.deployGrafana", NO_ADDON),
    ("osm.deployJaeger", NO_ADDON),
    ("osm.deployPrometheus", NO_ADDON),
    ("osm.enableDebugServer", "the admin port is always on"),
    ("osm.enableFluentbit", NO_ADDON),
    ("osm.enableReconciler", "run `osm-egress verify` to find changes, and `upgrade` to repair them"),
    ("osm.enforceSingleMesh", "a cluster has one mesh"),
    ("osm.featureFlags", "policies always apply while `osm.enableEgress` is false"),
    ("osm.fluentBit", NO_ADDON),
    ("osm.grafana", NO_ADDON),
    ("osm.image", ONE_PROGRAM),
    ("osm.injector", ONE_PROGRAM),
    ("osm.multicluster", NO_ADDON),
    ("osm.osmBootstrap", ONE_PROGRAM),
    ("osm.osmController", ONE_PROGRAM),
    ("osm.prometheus", NO_ADDON),
    ("osm.pspEnabled", "the control plane needs no privileges"),
    ("osm.remoteLogging", NO_ADDON),
    ("osm.sidecarWindowsImage", "Windows is not supported"),
    ("osm.tracing", NO_ADDON),
    ("osm.trustDomain", NO_CERTIFICATES),
    ("osm.validatorWebhook", "its name follows from the mesh's"),
    ("osm.vault", NO_CERTIFICATES),
    ("osm.webhookConfigNamePrefix", "its name follows from the mesh's"),
];

/// Finds the reason why a key is unsupported.
pub(super) fn find_reason(path: &str) -> Option<&'static str> {
    UNSUPPORTED_KEYS.iter().find(|(key, _)| *key == path).map(|(_, why)| *why)
}
