//! Checks of values that have the right type.

use anyhow::{Result, anyhow, bail};
use egress_compile::PolicyNamespaces;
use egress_compile::blocked_ranges::Nat64Prefix;
use egress_policy::Cidr;

use super::{INLINE, Osm, Values, parse_idle_timeout};
use crate::image;

impl Values {
    /// Checks the values that have the right type.
    pub(super) fn validate(&self) -> Result<()> {
        let Osm { egress, .. } = &self.osm;
        for (key, list) in [
            ("osm.outboundIPRangeExclusionList", &self.osm.outbound_ip_range_exclusion_list),
            ("osm.outboundIPRangeInclusionList", &self.osm.outbound_ip_range_inclusion_list),
            ("osm.egress.neverResolveTo", &egress.never_resolve_to),
            ("osm.egress.apiServerCIDRs", &egress.api_server_cidrs),
        ] {
            for (i, block) in list.iter().enumerate() {
                Cidr::canonical(block).map_err(|why| anyhow!("value `{key}[{i}]`: `{block}`: {why}"))?;
            }
        }
        for (i, prefix) in egress.nat64_prefixes.iter().enumerate() {
            let _: Nat64Prefix =
                prefix.parse().map_err(|why| anyhow!("value `osm.egress.nat64Prefixes[{i}]`: {why}"))?;
        }
        for (i, address) in egress.dns_resolvers.iter().enumerate() {
            let _: std::net::SocketAddr = address.parse().map_err(|_| {
                anyhow!("value `osm.egress.dnsResolvers[{i}]`: `{address}`: write it as `ADDRESS:PORT`")
            })?;
        }
        for (key, image) in self.images() {
            if image.is_empty() || image.contains(char::is_whitespace) {
                bail!("value `{key}`: `{image}` is not an image reference");
            }
            image::parse_digest(image).map_err(|why| anyhow!("value `{key}`: {why}"))?;
        }
        for (i, secret) in self.osm.image_pull_secrets.iter().enumerate() {
            if !secret.keys().eq(["name"]) {
                bail!("value `osm.imagePullSecrets[{i}]`: write it as `{{name: SECRET}}`");
            }
        }
        for (key, folder) in
            [("osm.egress.cniBinDir", &egress.cni_bin_dir), ("osm.egress.cniConfDir", &egress.cni_conf_dir)]
        {
            if !folder.starts_with('/') || folder.split('/').any(|part| part == "..") {
                bail!("value `{key}`: `{folder}` is not the absolute path of a folder on the nodes");
            }
        }
        for (i, name) in egress.cni_exclude_namespaces.iter().enumerate() {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || !name.bytes().all(good) {
                bail!("value `osm.egress.cniExcludeNamespaces[{i}]`: `{name}` is not a namespace");
            }
        }
        let file = egress.module_delivery.strip_prefix("file:");
        if egress.module_delivery != INLINE && !file.is_some_and(|path| path.starts_with('/')) {
            bail!(
                "value `osm.egress.moduleDelivery`: `{}` is neither `inline` nor `file:` and an absolute path in the image of \
                 the sidecar",
                egress.module_delivery
            );
        }
        if !(400..=599).contains(&egress.http_deny_status) {
            bail!("value `osm.egress.httpDenyStatus`: {} is not 400 to 599", egress.http_deny_status);
        }
        for (key, text) in [
            ("osm.egress.idleTimeout", Some(&egress.idle_timeout).filter(|text| !text.is_empty())),
            ("osm.egress.upstreamIdleTimeout", Some(&egress.upstream_idle_timeout)),
        ] {
            if let Some(text) = text {
                parse_idle_timeout(text).map_err(|why| anyhow!("value `{key}`: {text:?}: {why}"))?;
            }
        }
        for (i, name) in egress.policy_namespaces.iter().enumerate() {
            let found: Result<PolicyNamespaces, _> = name.parse();
            if name.contains(',') || found.is_err() || found == Ok(PolicyNamespaces::default()) {
                bail!(
                    "value `osm.egress.policyNamespaces[{i}]`: `{name}` is not a namespace; `*` stands for all"
                );
            }
        }
        let is_name = |text: &str| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        for (key, name) in [
            ("osm.egress.consoleTokenSecret", &egress.console_token_secret),
            ("osm.egress.webhookClientCaSecret", &egress.webhook_client_ca_secret),
        ] {
            if !is_name(name) {
                bail!("value `{key}`: `{name}` is not the name of a Secret");
            }
        }
        if !egress.webhook_client_names.is_empty() && egress.webhook_client_ca_secret.is_empty() {
            bail!(
                "value `osm.egress.webhookClientNames` needs `osm.egress.webhookClientCaSecret`, without which no client \
                 certificate is asked for"
            );
        }
        if let Some(name) =
            egress.webhook_client_names.iter().find(|name| name.is_empty() || name.contains(','))
        {
            bail!("value `osm.egress.webhookClientNames`: `{name}` is not the name of a certificate");
        }
        if !(1..=30).contains(&egress.webhook_timeout_seconds) {
            bail!(
                "value `osm.egress.webhookTimeoutSeconds`: {} is not 1 to 30",
                egress.webhook_timeout_seconds
            );
        }
        Ok(())
    }
}
