//! `MeshConfig`.

use serde_json::{Value, json};

use super::definition::{Names, definition as define, version};
use super::schema::{
    anything, block, boolean, choice, described, integer, list, object, port, strings, text,
};

fn versions() -> [Value; 2] {
    let current = version("v1alpha2", specification(true));
    let mut old = version("v1alpha1", specification(false));
    old["storage"] = json!(false);
    old["deprecated"] = json!(true);
    old["deprecationWarning"] = json!(
        "config.openservicemesh.io/v1alpha1 MeshConfig is deprecated; use config.openservicemesh.io/v1alpha2"
    );
    [current, old]
}

pub(super) fn definition() -> Value {
    let names = Names {
        group: "config.openservicemesh.io",
        kind: "MeshConfig",
        plural: "meshconfigs",
        singular: "meshconfig",
        short: "meshconfig",
    };
    define(&names, &versions())
}

fn specification(current: bool) -> Value {
    object(
        &[],
        json!({
            "sidecar": sidecar(current),
            "traffic": traffic(current),
            "observability": observability(),
            "certificate": certificate(),
            "featureFlags": feature_flags(current),
        }),
    )
}

fn traffic(current: bool) -> Value {
    let authorization = object(
        &[],
        json!({
            "enable": boolean("Enables authorization of inbound requests"),
            "address": text("Address of the authorization service"),
            "port": port("Port of the authorization service"),
            "statPrefix": { "type": "string", "default": "inboundExtAuthz" },
            "timeout": { "type": "string", "default": "1s" },
            "failureModeAllow": boolean("Allows if the service does not answer"),
        }),
    );
    let mut fields = json!({
        "enableEgress": boolean("Allows all destinations outside the mesh; policies then have no effect"),
        "enablePermissiveTrafficPolicyMode": boolean("Allows all destinations in the mesh"),
        "outboundIPRangeExclusionList": list("Address blocks that are not intercepted", block()),
        "outboundPortExclusionList": list("Destination ports that are not intercepted", port("A port")),
        "inboundPortExclusionList": list("Workload ports that are not intercepted", port("A port")),
        "inboundExternalAuthorization": described("Authorization of inbound requests", authorization),
    });
    if current {
        fields["outboundIPRangeInclusionList"] =
            list("The only address blocks that are intercepted", block());
        fields["networkInterfaceExclusionList"] = strings("Network interfaces that are not intercepted");
    }
    described("Traffic settings", object(&[], fields))
}

fn sidecar(current: bool) -> Value {
    let levels = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];
    let mut fields = json!({
        "enablePrivilegedInitContainer": boolean("Runs init containers privileged"),
        "logLevel": choice("Log level of Envoy", &levels),
        "envoyImage": text("Image of Envoy"),
        "envoyWindowsImage": text("Image of Envoy on Windows"),
        "initContainerImage": text("Image of the init container"),
        "maxDataPlaneConnections": integer("Most connected proxies; 0 for no limit"),
        "configResyncInterval": text("Interval of full resends, as in 60s; 0s for never"),
        "resources": described("Resources of the sidecar", anything()),
    });
    if current {
        let versions = ["TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"];
        let mut min_version = choice("Lowest TLS version", &versions);
        min_version["default"] = json!("TLSv1_2");
        let mut max_version = choice("Highest TLS version", &versions);
        max_version["default"] = json!("TLSv1_3");
        let mut mode = choice("Address at which sidecars reach their workload", &["Localhost", "PodIP"]);
        mode["default"] = json!("Localhost");
        fields["tlsMinProtocolVersion"] = min_version;
        fields["tlsMaxProtocolVersion"] = max_version;
        fields["cipherSuites"] = strings("Cipher suites");
        fields["ecdhCurves"] = strings("ECDH curves");
        fields["localProxyMode"] = mode;
    }
    described("Sidecar settings", object(&[], fields))
}

fn observability() -> Value {
    let tracing = object(
        &[],
        json!({
            "enable": boolean("Enables tracing"),
            "port": port("Port of the collector"),
            "address": text("Address of the collector"),
            "endpoint": text("Path of the collector"),
        }),
    );
    let fields = json!({
        "osmLogLevel": text("Log level of the control plane"),
        "enableDebugServer": boolean("Enables the debug server"),
        "tracing": described("Tracing settings", tracing),
    });
    described("Observability settings", object(&[], fields))
}

fn certificate() -> Value {
    let secret = object(
        &["name", "namespace"],
        json!({ "name": text("Name of the secret"), "namespace": text("Namespace of the secret") }),
    );
    let gateway = object(
        &[],
        json!({
            "subjectAltNames": strings("Names in the certificate"),
            "validityDuration": text("Validity, as in 24h"),
            "secret": described("Secret that holds it", secret),
        }),
    );
    let fields = json!({
        "serviceCertValidityDuration": text("Validity of certificates, as in 24h"),
        "certKeyBitSize": integer("Size of keys in bits"),
        "ingressGateway": described("The certificate of an ingress gateway", gateway),
    });
    described("Certificates", object(&["serviceCertValidityDuration", "certKeyBitSize"], fields))
}

fn feature_flags(current: bool) -> Value {
    let mut names = vec![
        "enableWASMStats",
        "enableEgressPolicy",
        "enableSnapshotCacheMode",
        "enableAsyncProxyServiceMapping",
        "enableIngressBackendPolicy",
        "enableEnvoyActiveHealthChecks",
        "enableRetryPolicy",
    ];
    if current {
        names.push("enableMeshRootCertificate");
    }
    let fields: serde_json::Map<String, Value> =
        names.into_iter().map(|name| (name.to_owned(), json!({ "type": "boolean" }))).collect();
    described("Flags of Open Service Mesh", object(&[], Value::Object(fields)))
}
