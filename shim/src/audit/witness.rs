//! The requests that the webhook saw and let in: who asked for which content.
//!
//! A record finds its user by the content: what an object says now is what somebody asked for. The version that an object
//! gets is not known while it is admitted.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use egress_compile::manifest::{Object, ObjectRef};

use crate::flows::clean;
use crate::snapshot::hash;

/// The most requests that are remembered: with the names of their objects, 1 MB at most.
const MAX_REQUESTS: usize = 2048;
/// The most bytes of a user's name.
const MAX_USER: usize = 128;
/// How long a request is remembered: a change is seen within a second, unless the API server is away.
const MEMORY: Duration = Duration::from_secs(60);

/// The requests of the last minute.
#[derive(Debug, Default)]
pub struct Witness(Mutex<VecDeque<Seen>>);

#[derive(Debug)]
struct Seen {
    object: ObjectRef,
    /// What the object is to say; none: it is deleted.
    content: Option<String>,
    user: String,
    at: Instant,
}

impl Witness {
    /// Remembers who asked for an object to say something, or to be deleted.
    pub fn saw(&self, object: ObjectRef, content: Option<&Object>, user: &str) {
        let seen = Seen {
            object,
            content: content.map(fingerprint),
            user: clean::text(user, MAX_USER),
            at: Instant::now(),
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all.len() >= MAX_REQUESTS || all.front().is_some_and(|first| first.at.elapsed() > MEMORY) {
            all.pop_front();
        }
        all.push_back(seen);
    }

    /// Who asked last for an object to say this, or to be gone.
    #[must_use]
    pub fn user_of(&self, object: &ObjectRef, now: Option<&Object>) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        let content = now.map(fingerprint);
        let is_it =
            |seen: &&Seen| seen.object == *object && seen.content == content && seen.at.elapsed() <= MEMORY;
        all.iter().rev().find(is_it).map(|seen| seen.user.clone())
    }
}

/// Stands for what an object says.
fn fingerprint(object: &Object) -> String {
    hash([format!("{:?}", (&object.metadata.annotations, &object.body)).as_bytes()])
}

#[cfg(test)]
mod tests {
    use egress_compile::manifest::{Kind, parse};

    use super::*;

    fn object(host: &str) -> (ObjectRef, Object) {
        let text = format!(
            "apiVersion: policy.openservicemesh.io/v1alpha1\nkind: Egress\nmetadata: {{name: p, namespace: n}}\n\
             spec: {{sources: [], hosts: [{host}], ports: []}}\n"
        );
        let parsed = parse(&"a".into(), text.as_bytes()).expect("readable");
        (ObjectRef::new(Kind::Egress, "n", "p"), parsed.objects[0].as_ref().clone())
    }

    #[test]
    fn a_user_is_found_by_what_they_asked_for() {
        let witness = Witness::default();
        let ((reference, a), (_, b)) = (object("a.org"), object("b.org"));
        witness.saw(reference.clone(), Some(&a), "alice");
        witness.saw(reference.clone(), Some(&b), "bob\n\u{1b}[2J");
        assert_eq!(witness.user_of(&reference, Some(&a)).as_deref(), Some("alice"));
        assert_eq!(witness.user_of(&reference, Some(&b)).as_deref(), Some("bob\\u{a}\\u{1b}[2J"));
        assert_eq!(witness.user_of(&reference, None), None);
        witness.saw(reference.clone(), None, "carol");
        assert_eq!(witness.user_of(&reference, None).as_deref(), Some("carol"));
        let other = ObjectRef::new(Kind::Egress, "n", "q");
        assert_eq!(witness.user_of(&other, Some(&a)), None);
    }

    #[test]
    fn it_forgets() {
        let witness = Witness::default();
        let (reference, a) = object("a.org");
        witness.saw(reference.clone(), Some(&a), "alice");
        for i in 0..MAX_REQUESTS {
            witness.saw(ObjectRef::new(Kind::Egress, "n", format!("x{i}")), None, &"m".repeat(1000));
        }
        assert_eq!(witness.user_of(&reference, Some(&a)), None);
        let all = witness.0.lock().expect("nobody panicked");
        assert!(all.len() == MAX_REQUESTS && all.iter().all(|seen| seen.user.len() < 2 * MAX_USER));
    }
}
