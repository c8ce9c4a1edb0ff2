//! `HTTPRouteGroup` and `TrafficTarget`.

use serde_json::{Value, json};

use super::definition::{Names, definition, former, version};
use super::schema::{at_most, choice, kept_if_null, list, object, port, strings, text};
use egress_compile::budget;

pub(super) fn route_group() -> Value {
    let methods = ["*", "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let header = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let one = object(
        &["name"],
        json!({
            "name": text("Name of the match"),
            "pathRegex": kept_if_null(at_most(
                budget::MAX_PATTERN_LENGTH,
                text("Regular expression for the whole path"),
            )),
            "methods": kept_if_null(at_most(budget::MAX_MATCH_ITEMS, list("Methods", choice("Method", &methods)))),
            "headers": kept_if_null(at_most(
                budget::MAX_MATCH_ITEMS,
                list("Headers, each an object of one name and a regular expression for its whole value", header),
            )),
        }),
    );
    let spec = object(
        &["matches"],
        json!({ "matches": at_most(budget::MAX_GROUP_MATCHES, list("Matches, of which one must match the request", one)) }),
    );
    let names = Names {
        group: "specs.smi-spec.io",
        kind: "HTTPRouteGroup",
        plural: "httproutegroups",
        singular: "httproutegroup",
        short: "htr",
    };
    let versions = [version("v1alpha4", spec), former("v1alpha3"), former("v1alpha2"), former("v1alpha1")];
    definition(&names, &versions)
}

pub(super) fn traffic_target() -> Value {
    let subject = |with_port: bool| {
        let mut fields = json!({
            "kind": text("Kind of the subject: ServiceAccount"),
            "name": text("Name of the subject"),
            "namespace": text("Namespace of the subject"),
        });
        if with_port {
            fields["port"] = port("The only port that may be reached");
        }
        object(&["kind", "name"], fields)
    };
    let rule = object(
        &["kind", "name"],
        json!({
            "kind": choice("Kind of the routes", &["HTTPRouteGroup", "TCPRoute"]),
            "name": text("Name of the routes"),
            "matches": strings("Names of matches of the route group"),
        }),
    );
    let spec = object(
        &["destination"],
        json!({
            "destination": subject(true),
            "sources": list("Subjects that may connect", subject(false)),
            "rules": list("Routes that may be requested", rule),
        }),
    );
    let names = Names {
        group: "access.smi-spec.io",
        kind: "TrafficTarget",
        plural: "traffictargets",
        singular: "traffictarget",
        short: "tt",
    };
    definition(&names, &[version("v1alpha3", spec), former("v1alpha2"), former("v1alpha1")])
}
