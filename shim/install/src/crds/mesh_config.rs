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
            "enable": boolean("Whether inbound requests are asked about"),
            "address": text("Address of who is asked"),
            "port": port("Port of who is asked"),
            "statPrefix": { "type": "string", "default": "inboundExtAuthz" },
            "timeout": { "type": "string", "default": "1s" },
            "failureModeAllow": boolean("Whether no answer means yes"),
        }),
    );
    let mut fields = json!({
        "enableEgress": boolean("Whether everything outside the mesh may be reached; policies are then not looked at"),
        "enablePermissiveTrafficPolicyMode": boolean("Whether everything in the mesh may be reached"),
        "outboundIPRangeExclusionList": list("Blocks of addresses that sidecars do not see", block()),
        "outboundPortExclusionList": list("Ports outside that sidecars do not see", port("A port")),
        "inboundPortExclusionList": list("Ports of workloads that sidecars do not see", port("A port")),
        "inboundExternalAuthorization": described("Who is asked about inbound requests", authorization),
    });
    if current {
        fields["outboundIPRangeInclusionList"] =
            list("The only blocks of addresses that sidecars see", block());
        fields["networkInterfaceExclusionList"] = strings("Network interfaces that sidecars do not see");
    }
    described("How traffic is treated", object(&[], fields))
}

fn sidecar(current: bool) -> Value {
    let levels = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];
    let mut fields = json!({
        "enablePrivilegedInitContainer": boolean("Whether init containers run privileged"),
        "logLevel": choice("Log level of Envoy", &levels),
        "envoyImage": text("Image of Envoy"),
        "envoyWindowsImage": text("Image of Envoy on Windows"),
        "initContainerImage": text("Image of the init container"),
        "maxDataPlaneConnections": integer("The most proxies that may connect; 0 for any number"),
        "configResyncInterval": text("How often everything is sent again, as in 60s; 0s for never"),
        "resources": described("Resources of the sidecar", anything()),
    });
    if current {
        let versions = ["TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"];
        let mut least = choice("The least version of TLS", &versions);
        least["default"] = json!("TLSv1_2");
        let mut most = choice("The greatest version of TLS", &versions);
        most["default"] = json!("TLSv1_3");
        let mut mode = choice("Where sidecars reach their workload", &["Localhost", "PodIP"]);
        mode["default"] = json!("Localhost");
        fields["tlsMinProtocolVersion"] = least;
        fields["tlsMaxProtocolVersion"] = most;
        fields["cipherSuites"] = strings("Cipher suites");
        fields["ecdhCurves"] = strings("ECDH curves");
        fields["localProxyMode"] = mode;
    }
    described("How sidecars are set up", object(&[], fields))
}

fn observability() -> Value {
    let tracing = object(
        &[],
        json!({
            "enable": boolean("Whether requests are traced"),
            "port": port("Port of the collector"),
            "address": text("Address of the collector"),
            "endpoint": text("Path of the collector"),
        }),
    );
    let fields = json!({
        "osmLogLevel": text("Log level of the control plane"),
        "enableDebugServer": boolean("Whether there is a debug server"),
        "tracing": described("How requests are traced", tracing),
    });
    described("What can be seen", object(&[], fields))
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
            "validityDuration": text("How long it is valid, as in 24h"),
            "secret": described("Where it is kept", secret),
        }),
    );
    let fields = json!({
        "serviceCertValidityDuration": text("How long certificates are valid, as in 24h"),
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
