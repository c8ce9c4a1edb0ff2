//! The version that an Envoy reports.

use egress_standalone::EnvoyVersion;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;

/// Its version; none: it does not say.
#[must_use]
pub fn version(node: &Node) -> Option<EnvoyVersion> {
    let Some(UserAgentVersionType::UserAgentBuildVersion(build)) = &node.user_agent_version_type else {
        return None;
    };
    let version = build.version.as_ref()?;
    let part = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Some(EnvoyVersion { major: part(version.major_number), minor: part(version.minor_number) })
}

#[cfg(test)]
mod tests {
    use egress_standalone::{CURRENT, OLDEST};
    use envoy_types::pb::envoy::config::core::v3::BuildVersion;
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;

    use super::*;

    #[test]
    fn what_an_envoy_says_of_itself() {
        let node = |minor_number| Node {
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
                version: Some(SemanticVersion { major_number: 1, minor_number, patch: 3 }),
                metadata: None,
            })),
            ..Node::default()
        };
        assert!(version(&node(38)).expect("a version") < OLDEST);
        assert_eq!(version(&node(40)), Some(CURRENT));
        assert!(version(&node(70_000)).expect("a version") > CURRENT);
        assert_eq!(version(&Node::default()), None);
    }
}
