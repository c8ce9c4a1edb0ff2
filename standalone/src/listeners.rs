//! The listeners that outbound connections are redirected to, one for each family.
//!
//! Two, and not one with two addresses: where a machine has no IPv6, Envoy refuses the second one alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use egress_policy::HostMatch;
use egress_policy::contract::filter_state;

use crate::access_log::FormatString;
use crate::messages::{address, original_dst};
use crate::settings::Settings;
use crate::value::{Object, Value};
use crate::{access_log, config, dns, name, object, traffic};

/// The outbound listeners, with the network plugin as their first filter.
#[must_use]
pub fn outbound(settings: &Settings, plugin: &Value) -> Vec<Value> {
    let ipv4 = (name::LISTENER, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let ipv6 = (name::LISTENER_IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    [Some(ipv4), settings.ipv6.then_some(ipv6)]
        .into_iter()
        .flatten()
        .map(|(name, ip)| listener(name, SocketAddr::new(ip, settings.listener_port), settings, plugin))
        .collect()
}

fn listener(name: &str, at: SocketAddr, settings: &Settings, plugin: &Value) -> Value {
    config!({
        "name": name,
        "address": address(at),
        "traffic_direction": "OUTBOUND",
        /// Silence has no limit, so peers that are gone are found by asking.
        "tcp_keepalive": traffic::keepalive(),
        // An Envoy that gets its own connections back would accept one after the other, and never hear of an upstream
        // connection of its own, by which the plugin notices it. Envoy's documentation sees no cost in it.
        /// One at a time, so that the filter notices when Envoy gets its own connections back.
        "max_connections_to_accept_per_socket_event": 1_u32,
        "listener_filters": [original_dst()],
        "default_filter_chain": {
            "name": name::FILTER_CHAIN,
            "filters": [
                plugin.clone(),
                /// A name that only a wildcard lists is the dynamic host for this filter alone, and any other for the
                /// second one alone: else each would be resolved for both caches, one after the other.
                dns::filter(settings, HostMatch::Wildcard),
                state(),
                dns::filter(settings, HostMatch::Exact),
                dynamic_host(),
                tcp_proxy(settings),
            ],
        },
    })
}

fn tcp_proxy(settings: &Settings) -> Value {
    config!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name::PASSTHROUGH,
            /// There is no such cluster unless the mode is `passthrough`: what the filter does not steer is closed.
            "cluster": name::PASSTHROUGH,
            /// Without it tcp_proxy stops reading until it has an upstream, and the filter, which waits for the first
            /// bytes, would wait for ever.
            "max_early_data_bytes": 65536_u32,
            // Envoy's hour is shorter than what some pools of database connections are silent for.
            "idle_timeout": settings.idle_timeout.unwrap_or(traffic::UNLIMITED),
            "access_log": access_log::connection(settings),
        },
    })
}

/// Envoy's factory of filter state that is a string. By chance it has the text of the key [`filter_state::EXACT_NAME`].
const STRING_FACTORY: &str = "envoy.string";

/// Tells the internal listener which address was dialled and from which, keeps the name that the plugin allowed, and makes it the
/// dynamic host where a rule lists it itself. What only a wildcard lists was resolved before, and is none until the next
/// filter has passed.
fn state() -> Value {
    let by_wildcard = FormatString::FilterState(filter_state::DYNAMIC_HOST).to_string();
    let exact = FormatString::FilterState(filter_state::EXACT_NAME).to_string();
    let name = object!({
        "object_key": filter_state::NAME,
        "factory_key": STRING_FACTORY,
        ..format_string(&format!("{exact}{by_wildcard}")),
        "skip_if_empty": true,
    });
    let dynamic_host = object!({"object_key": filter_state::DYNAMIC_HOST, ..format_string(&exact)});
    set_filter_state(
        "egress-state",
        config!([
            shared("envoy.filters.listener.original_dst.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%"),
            shared("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
            /// The name that the filter allowed, however a rule lists it.
            name,
            /// For the next filter: the name where a rule lists it itself, and else none.
            dynamic_host,
        ]),
    )
}

/// Makes every name that the plugin allowed the dynamic host, which is how clusters find its addresses.
fn dynamic_host() -> Value {
    let name = FormatString::FilterState(filter_state::NAME).to_string();
    set_filter_state(
        "egress-name",
        config!([
            /// For the cluster: the name, however a rule lists it.
            {"object_key": filter_state::DYNAMIC_HOST, ..format_string(&name), "skip_if_empty": true},
        ]),
    )
}

fn set_filter_state(name: &str, values: Value) -> Value {
    config!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
            "on_new_connection": values,
        },
    })
}

/// A value that the internal listener has as well.
fn shared(key: &str, format: &str) -> Value {
    config!({"object_key": key, ..format_string(format), "skip_if_empty": true, "shared_with_upstream": "ONCE"})
}

fn format_string(format: &str) -> Object {
    object!({"format_string": {"text_format_source": {"inline_string": format}, "omit_empty_values": true}})
}
