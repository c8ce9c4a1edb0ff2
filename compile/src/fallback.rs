//! What a proxy is given in place of a document that it refuses.

use std::collections::{BTreeMap, BTreeSet};

use egress_policy::{Document, Rule};

use crate::compile::digest;

/// The document that allows only what the accepted and the new one both allow.
#[must_use]
pub fn bridge(accepted: &Document, new: &Document) -> Document {
    versioned(new.intersection(accepted))
}

/// The Egress objects of a new document that have rules which the accepted one has not. Without an accepted
/// document these are all.
#[must_use]
pub fn changed(accepted: Option<&Document>, new: &Document) -> Vec<String> {
    let known = rules(accepted);
    let changed = new.rules.iter().filter(|rule| !known.contains(rule.as_ref()));
    let names: BTreeSet<&str> = changed.map(|rule| rule.policy.as_str()).collect();
    names.into_iter().map(str::to_owned).collect()
}

/// The new document without those rules of some Egress objects which the accepted one has not.
#[must_use]
pub fn without(accepted: Option<&Document>, new: &Document, left_out: &[String]) -> Document {
    let known = rules(accepted);
    let left_out: BTreeMap<&str, ()> = left_out.iter().map(|name| (name.as_str(), ())).collect();
    let stays = |rule: &Rule| !left_out.contains_key(rule.policy.as_str()) || known.contains(rule);
    let mut document = new.clone();
    document.rules.retain(|rule| stays(rule));
    versioned(document)
}

fn rules(document: Option<&Document>) -> BTreeSet<&Rule> {
    document.into_iter().flat_map(|document| &document.rules).map(AsRef::as_ref).collect()
}

/// Equal content has an equal version, and no other document has it.
fn versioned(mut document: Document) -> Document {
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
    fn what_was_revoked_is_gone_and_what_is_new_is_not_there() {
        let accepted = document(&[("revoked", 1), ("stays", 2), ("changes", 3)]);
        let new = document(&[("stays", 2), ("changes", 4), ("new", 5)]);
        let bridge = bridge(&accepted, &new);
        assert_eq!(ports(&bridge), [2]);
        assert_ne!(bridge.version, new.version);
        assert_eq!(changed(Some(&accepted), &new), ["n/changes", "n/new"]);
        assert_eq!(changed(None, &new), ["n/changes", "n/new", "n/stays"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let trial = without(Some(&accepted), &new, &names(&["n/new", "n/stays"]));
        assert_eq!(ports(&trial), [4, 2]);
        assert_eq!(ports(&without(None, &new, &names(&["n/new", "n/stays"]))), [4]);
        assert_eq!(ports(&without(Some(&accepted), &new, &[])), ports(&new));
        // Equal content has an equal version.
        assert_eq!(trial.version, without(Some(&accepted), &new, &names(&["n/new"])).version);
    }
}
