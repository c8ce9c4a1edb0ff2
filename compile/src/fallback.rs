//! Replacement documents for a proxy that rejected its document.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Document, Rule};

use crate::compile::digest;

/// Builds the document that allows only what both the accepted and the new document allow.
#[must_use]
pub fn intersect_documents(accepted: &Document, new: &Document) -> Document {
    set_version(new.intersection(accepted))
}

/// Lists the Egress objects with rules in the new document that the accepted document lacks. Without an
/// accepted document, it lists all of them.
#[must_use]
pub fn list_changed_policies(accepted: Option<&Document>, new: &Document) -> Vec<String> {
    let known = collect_rules(accepted);
    let changed = new.rules.iter().filter(|rule| !known.contains(rule.as_ref()));
    let names: BTreeSet<&str> = changed.map(|rule| rule.policy.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// Builds the new document without those rules of the given Egress objects that the accepted document lacks.
#[must_use]
pub fn omit_policies(accepted: Option<&Document>, new: &Document, left_out: &[String]) -> Document {
    let known = collect_rules(accepted);
    let left_out: BTreeMap<&str, ()> = left_out.iter().map(|name| (name.as_str(), ())).collect();
    let stays = |rule: &Rule| !left_out.contains_key(rule.policy.as_str()) || known.contains(rule);
    let mut document = new.clone();
    document.rules.retain(|rule| stays(rule));
    set_version(document)
}

fn collect_rules(document: Option<&Document>) -> BTreeSet<&Rule> {
    document.into_iter().flat_map(|document| &document.rules).map(AsRef::as_ref).collect()
}

/// Sets the version of a document from its content: equal content has an equal version.
fn set_version(mut document: Document) -> Document {
    document.version.clear();
    document.version = digest(&document);
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{FileUpdate, Store};
    use crate::{CompileOptions, compile};

    fn document(policies: &[(&str, u16)]) -> Document {
        let mut text = String::new();
        for (name, port) in policies {
            text.push_str(&format!(
                "---\napiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\n\
                 metadata: {{name: {name}, namespace: n}}\n\
                 spec: {{sources: [{{kind: ServiceAccount, name: app, namespace: n}}], \
                 ports: [{{number: {port}, protocol: tcp}}]}}\n"
            ));
        }
        let mut store = Store::default();
        store.apply(FileUpdate::read("a.yaml".into(), text.as_bytes()));
        let compiled = compile(&store, &CompileOptions::default(), None);
        Document::clone(&compiled.document(&"n/app".parse().expect("an identity")))
    }

    fn ports(document: &Document) -> Vec<u16> {
        document.rules.iter().map(|rule| rule.port.get()).collect()
    }

    #[test]
    fn an_intersection_lacks_revoked_and_new_rules() {
        let accepted = document(&[("revoked", 1), ("stays", 2), ("changes", 3)]);
        let new = document(&[("stays", 2), ("changes", 4), ("new", 5)]);
        let bridge = intersect_documents(&accepted, &new);
        assert_eq!(ports(&bridge), [2]);
        assert_ne!(bridge.version, new.version);
        assert_eq!(list_changed_policies(Some(&accepted), &new), ["n/changes", "n/new"]);
        assert_eq!(list_changed_policies(None, &new), ["n/changes", "n/new", "n/stays"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let trial = omit_policies(Some(&accepted), &new, &names(&["n/new", "n/stays"]));
        assert_eq!(ports(&trial), [4, 2]);
        assert_eq!(ports(&omit_policies(None, &new, &names(&["n/new", "n/stays"]))), [4]);
        assert_eq!(ports(&omit_policies(Some(&accepted), &new, &[])), ports(&new));
        // Equal content has an equal version.
        assert_eq!(trial.version, omit_policies(Some(&accepted), &new, &names(&["n/new"])).version);
    }
}
