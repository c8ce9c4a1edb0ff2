//! Values of Open Service Mesh's chart that mean nothing here. A file that was written for it still loads.

const NO_CERTIFICATES: &str = "workloads get no certificates; the control plane's own is made by `install`";
const NO_ADDON: &str = "nothing of the kind is installed";
const ONE_PROGRAM: &str = "there is one control plane: see `osm.egress`";

/// Keys, also for everything below them, and why.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("contour", NO_ADDON),
    ("smi", "TrafficTargets are not validated at admission"),
    ("osm.caBundleSecretName", NO_CERTIFICATES),
    ("osm.certificateProvider", NO_CERTIFICATES),
    ("osm.certmanager", NO_CERTIFICATES),
    ("osm.configResyncInterval", "proxies are told of every change"),
    ("osm.controllerLogLevel", "the log says what is needed; `RUST_LOG` chooses"),
    ("osm.curlImage", ONE_PROGRAM),
    ("osm.deployGrafana", NO_ADDON),
    ("osm.deployJaeger", NO_ADDON),
    ("osm.deployPrometheus", NO_ADDON),
    ("osm.enableDebugServer", "the admin port is always there"),
    ("osm.enableFluentbit", NO_ADDON),
    ("osm.enableReconciler", "run `osm-egress verify`, and `upgrade` to mend"),
    ("osm.enforceSingleMesh", "there is one in a cluster"),
    ("osm.featureFlags", "policies always count while `osm.enableEgress` is false"),
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

/// Why a key means nothing, if it is one of these.
pub(super) fn find(path: &str) -> Option<&'static str> {
    KEYS.iter().find(|(key, _)| *key == path).map(|(_, why)| *why)
}
