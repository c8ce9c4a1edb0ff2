//! The policy that allows only what two others both allow.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Document, InMesh, Rule};

impl Document {
    /// The document that allows only what both allow: rules that are equal in both, the stricter mode, and of the
    /// services of the mesh those that are equal in both; the others are refused. The version is left as it is here.
    ///
    /// It is what a proxy can be given at once, when it refuses a new document: its rules were accepted before, and
    /// what the new document revokes is gone.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let others: BTreeSet<&Rule> = other.rules.iter().map(AsRef::as_ref).collect();
        Self {
            api_version: self.api_version,
            identity: self.identity.clone(),
            version: self.version.clone(),
            // Modes are in the order of strictness.
            mode: self.mode.min(other.mode),
            rules: self.rules.iter().filter(|rule| others.contains(rule.as_ref())).cloned().collect(),
            in_mesh: services(&self.in_mesh, &other.in_mesh),
        }
    }
}

/// A service that only one of both has is not egress there, and may be refused by the rules of the other. Of services
/// with one address and port one that is refused counts.
fn services(one: &Arc<[InMesh]>, other: &Arc<[InMesh]>) -> Arc<[InMesh]> {
    if one == other {
        return Arc::clone(one);
    }
    let (ones, others): (BTreeSet<&InMesh>, BTreeSet<&InMesh>) =
        (one.iter().collect(), other.iter().collect());
    let in_both = ones.intersection(&others).map(|service| (*service).clone());
    let in_one =
        ones.symmetric_difference(&others).map(|service| InMesh { allowed: false, ..(*service).clone() });
    in_both.chain(in_one).collect()
}
