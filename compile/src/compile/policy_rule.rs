//! A rule of a policy.

use std::sync::Arc;

use egress_policy::Rule;

use super::digest::Digest;

/// A rule, shared by all identities that it is granted to.
#[derive(Clone, Debug)]
pub(super) struct PolicyRule {
    pub(super) rule: Arc<Rule>,
    pub(super) digest: Digest,
}
