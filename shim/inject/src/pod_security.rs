//! Pod Security admission: namespaces whose labels refuse injected pods.

/// Label of a namespace with the profile that its pods must satisfy (API server 1.23 or newer).
pub const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// Describes why a namespace refuses injected pods; `None` if it does not. With the CNI plugin no container needs
/// NET_ADMIN, and every profile accepts what injection adds.
#[must_use]
pub fn find_refusal(profile: Option<&str>, cni: bool) -> Option<String> {
    // An unknown profile counts as `restricted` there.
    let profile = profile.filter(|profile| *profile != "privileged")?;
    (!cni).then(|| {
        format!(
            "its label `{ENFORCE_LABEL}: {profile}` refuses injected pods, because their init container `{}` needs NET_ADMIN: \
             install the CNI plugin (`--set osm.egress.cni=true`), or label the namespace `privileged`",
            crate::INIT_CONTAINER
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_but_privileged_refuses_pods_without_the_plugin() {
        for (profile, cni, refuses) in [
            (None, false, false),
            (Some("privileged"), false, false),
            (Some("baseline"), false, true),
            (Some("restricted"), false, true),
            (Some("unknown"), false, true),
            (Some("restricted"), true, false),
        ] {
            assert_eq!(find_refusal(profile, cni).is_some(), refuses, "{profile:?} {cni}");
        }
    }
}
