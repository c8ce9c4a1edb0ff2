//! Parts of every bootstrap, for what an Envoy needs beside its resources.

use crate::value::Object;
use crate::{EnvoyVersion, config, object, versions};

/// The labels of the filter's counters.
#[must_use]
pub fn stats() -> Object {
    let tag = |name: &str| {
        config!({
            "tag_name": name,
            "regex": format!(r"^wasmcustom\.egress_[a-z_]+_total.*?(\.{name}\.([a-z-]+))"),
        })
    };
    object!({
        /// The filter's counters carry their labels in their names.
        "stats_config": {"stats_tags": [tag("verdict"), tag("reason"), tag("protocol")]},
    })
}

/// The extension for internal listeners.
#[must_use]
pub fn extensions() -> Object {
    object!({
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }],
    })
}

/// The runtime values that a version needs, each with its reason.
#[must_use]
pub fn runtime(version: EnvoyVersion) -> Object {
    let mut guards = Object::default();
    for guard in versions::guards(version) {
        let older = format!(" Envoy before {} does not know it.", guard.since);
        let older = if guard.since > crate::OLDEST { older } else { String::new() };
        guards.push(&format!("{}.{older}", guard.why), guard.name, guard.value);
    }
    object!({"layered_runtime": {"layers": [{"name": "egress", "static_layer": guards}]}})
}
