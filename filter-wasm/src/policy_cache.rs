//! The policy that was compiled last in this VM. Both plugins of a worker have the same document: the second one finds
//! the policy here.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use egress_policy::{Document, Policy};
use sha2::{Digest, Sha256};

/// The key of a document's text. A cryptographic hash, because whoever may write policies must not be able to make two
/// documents of one key. Not the document's `version`, which one written by hand may keep.
type Key = [u8; 32];

thread_local! {
    static LAST: RefCell<(Key, Weak<Policy>)> = const { RefCell::new(([0; 32], Weak::new())) };
}

/// Compiles the text of a document, or returns the policy that was compiled from the same text.
pub(crate) fn compile(text: &str) -> Result<Rc<Policy>, String> {
    let key = Key::from(Sha256::digest(text.as_bytes()));
    let cached = LAST.with_borrow(|(last, policy)| if *last == key { policy.upgrade() } else { None });
    if let Some(policy) = cached {
        return Ok(policy);
    }
    let document = Document::from_json(text).map_err(|e| format!("policy: {e}"))?;
    let policy = Rc::new(Policy::new(document).map_err(|e| format!("policy: {e}"))?);
    LAST.set((key, Rc::downgrade(&policy)));
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(name: &str) -> String {
        format!(
            r#"{{"apiVersion":"egress-policy/v1","identity":{{"namespace":"ns","serviceAccount":"sa"}},
            "version":"v","mode":"enforce","rules":[{{"policy":"a/b","name":"{name}","port":1,"protocol":"tcp"}}]}}"#
        )
    }

    #[test]
    fn equal_text_is_compiled_once() {
        let one = compile(&document("n")).expect("valid");
        assert!(Rc::ptr_eq(&one, &compile(&document("n")).expect("valid")));
        assert!(!Rc::ptr_eq(&one, &compile(&document("m")).expect("valid")), "the same version");
        assert!(!Rc::ptr_eq(&one, &compile(&document("n")).expect("valid")), "only the last one is kept");
        assert!(compile("x").is_err());
    }
}
