//! `UpstreamTrafficSetting`. Egress uses only `connectionSettings`; the other fields are Open Service Mesh's.

use serde_json::{Value, json};

use super::definition::{Names, definition as define, version};
use super::schema::{at_least, boolean, choice, described, list, object, port, text, within};

pub(super) fn definition() -> Value {
    let mut version = version("v1alpha1", specification());
    version["additionalPrinterColumns"] = json!([
        { "name": "Status", "type": "string", "jsonPath": ".status.currentStatus" },
    ]);
    let names = Names {
        group: "policy.openservicemesh.io",
        kind: "UpstreamTrafficSetting",
        plural: "upstreamtrafficsettings",
        singular: "upstreamtrafficsetting",
        short: "upstreamtrafficsetting",
    };
    define(&names, &[version])
}

fn specification() -> Value {
    let route = object(
        &["path"],
        json!({
            "path": text("Regular expression for the whole path"),
            "rateLimit": object(&[], json!({
                "local": local_http(),
                "global": object(&["descriptors"], json!({ "descriptors": http_descriptors() })),
            })),
        }),
    );
    object(
        &["host"],
        json!({
            "host": text("Name of the destination in the mesh; for egress the policy names this object"),
            "connectionSettings": connection_settings(),
            "rateLimit": object(&[], json!({
                "local": object(&[], json!({ "tcp": local_tcp(), "http": local_http() })),
                "global": object(&[], json!({ "tcp": global_tcp(), "http": global_http() })),
            })),
            "httpRoutes": list("Settings of some paths", route),
        }),
    )
}

fn connection_settings() -> Value {
    let tcp = object(
        &[],
        json!({
            "maxConnections": at_least("The most connections at a time", 0),
            "connectTimeout": text("Timeout of connecting, as in 5s"),
        }),
    );
    let http = object(
        &[],
        json!({
            "maxRequests": at_least("The most requests at a time", 0),
            "maxRequestsPerConnection": at_least("The most requests on one connection", 0),
            "maxPendingRequests": at_least("The most requests that wait for a connection", 0),
            "maxRetries": at_least("The most retries at a time", 0),
        }),
    );
    described("Limits of connections", object(&[], json!({ "tcp": tcp, "http": http })))
}

fn unit() -> Value {
    choice("Period of the limit", &["second", "minute", "hour"])
}

fn local_tcp() -> Value {
    object(
        &["connections", "unit"],
        json!({
            "connections": at_least("Connections in a period", 1),
            "unit": unit(),
            "burst": at_least("Additional connections of a burst", 0),
        }),
    )
}

fn local_http() -> Value {
    let header = object(
        &["name", "value"],
        json!({ "name": text("Name of the header"), "value": text("Value of the header") }),
    );
    object(
        &["requests", "unit"],
        json!({
            "requests": at_least("Requests in a period", 1),
            "unit": unit(),
            "burst": at_least("Additional requests of a burst", 0),
            "responseStatusCode": status_code(),
            "responseHeadersToAdd": list("Headers of the response above the limit", header),
        }),
    )
}

fn status_code() -> Value {
    within("HTTP status of the response above the limit", 400, 599)
}

fn service() -> Value {
    object(
        &["host", "port"],
        json!({ "host": text("Name of the rate limit service"), "port": port("Its port") }),
    )
}

fn timeout() -> Value {
    json!({ "type": "string", "default": "20ms" })
}

fn fail_open() -> Value {
    let mut schema = boolean("Allows if the service does not answer");
    schema["default"] = json!(true);
    schema
}

fn global_tcp() -> Value {
    let entry = object(
        &["key", "value"],
        json!({ "key": text("Key of the entry"), "value": text("Value of the entry") }),
    );
    let descriptor = object(&["entries"], json!({ "entries": list("Entries", entry) }));
    object(
        &["rateLimitService", "domain", "descriptors"],
        json!({
            "rateLimitService": service(),
            "domain": text("Domain of the limit"),
            "descriptors": list("Descriptors", descriptor),
            "timeout": timeout(),
            "failOpen": fail_open(),
        }),
    )
}

fn global_http() -> Value {
    object(
        &["rateLimitService", "domain"],
        json!({
            "rateLimitService": service(),
            "domain": text("Domain of the limit"),
            "descriptors": http_descriptors(),
            "timeout": timeout(),
            "failOpen": fail_open(),
            "enableXRateLimitHeaders": boolean("Adds headers with the remaining quota to responses"),
            "responseStatusCode": status_code(),
        }),
    )
}

fn http_descriptors() -> Value {
    let pair =
        object(&["value"], json!({ "key": text("Key of the entry"), "value": text("Value of the entry") }));
    let header = object(
        &["name", "key"],
        json!({ "name": text("Name of the header"), "key": text("Key of the entry") }),
    );
    let matcher = object(
        &["name"],
        json!({
            "name": text("Name of the header"),
            "exact": text("The value"),
            "prefix": text("Prefix of the value"),
            "suffix": text("Suffix of the value"),
            "regex": text("Regular expression for the whole value"),
            "contains": text("Substring of the value"),
            "present": boolean("Requires the header to be present, or absent"),
        }),
    );
    let matches = object(
        &["value", "headers"],
        json!({
            "key": text("Key of the entry"),
            "value": text("Value of the entry"),
            "headers": list("Headers", matcher),
            "expectMatch": { "type": "boolean", "default": true },
        }),
    );
    let mut entry = object(
        &[],
        json!({
            "genericKey": pair,
            "remoteAddress": object(&[], json!({})),
            "requestHeader": header,
            "headerValueMatch": matches,
        }),
    );
    let one_of = ["genericKey", "remoteAddress", "requestHeader", "headerValueMatch"];
    entry["oneOf"] = json!(one_of.map(|name| json!({ "required": [name] })));
    let descriptor = object(&["entries"], json!({ "entries": list("Entries", entry) }));
    list("Descriptors", descriptor)
}
