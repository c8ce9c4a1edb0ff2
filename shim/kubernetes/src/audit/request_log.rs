//! The requests that the webhook admitted: which user requested which content.
//!
//! A record finds its user by the content: what an object says now is what somebody asked for. The version that an object
//! gets is not known while it is admitted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use egress_compile::manifest::{Object, ObjectRef};

use egress_core::hash;
use egress_core::sanitize;

/// The most requests that are remembered: with the names of their objects, 1 MB at most.
const MAX_REQUESTS: usize = 2048;
/// The most bytes of a user's name.
const MAX_USER_NAME: usize = 128;
/// The time that a request is remembered: a change is seen within a second, unless the API server is away.
const RETENTION: Duration = Duration::from_secs(60);

/// The most users that are named of one object.
const MAX_USERS: usize = 4;

/// The user of a request, as the API server named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// True if an API server told it that showed its certificate. Else whoever reaches the webhook may have made it up.
    pub is_verified: bool,
}

/// As in `alice (not verified)`.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, is_verified } = self;
        f.write_str(name)?;
        if *is_verified { Ok(()) } else { f.write_str(" (not verified)") }
    }
}

/// The requests of the last minute.
#[derive(Debug, Default)]
pub struct RequestLog(Mutex<VecDeque<AdmittedRequest>>);

#[derive(Debug)]
struct AdmittedRequest {
    object: ObjectRef,
    /// The new content of the object; none: it is deleted.
    content: Option<String>,
    user: User,
    at: Instant,
}

impl RequestLog {
    /// Records which user requested a content of an object, or its deletion.
    pub fn record(&self, object: ObjectRef, content: Option<&Object>, user: User) {
        let user = User { name: sanitize::text(&user.name, MAX_USER_NAME), ..user };
        let seen = AdmittedRequest { object, content: content.map(fingerprint), user, at: Instant::now() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all.len() >= MAX_REQUESTS || all.front().is_some_and(|first| first.at.elapsed() > RETENTION) {
            all.pop_front();
        }
        all.push_back(seen);
    }

    /// The users who asked for this content of an object, or for its deletion: the last of those that are verified. Where none is,
    /// all that somebody named, in the order in which they came, so that nobody can take the place of another.
    #[must_use]
    pub fn users_of(&self, object: &ObjectRef, now: Option<&Object>) -> Vec<User> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return Vec::new();
        }
        let content = now.map(fingerprint);
        let is_it = |seen: &&AdmittedRequest| {
            seen.object == *object && seen.content == content && seen.at.elapsed() <= RETENTION
        };
        let found = || all.iter().filter(is_it).map(|seen| &seen.user);
        if let Some(user) = found().rfind(|user| user.is_verified) {
            return vec![user.clone()];
        }
        let mut users: Vec<User> = Vec::new();
        for user in found() {
            if users.len() < MAX_USERS && !users.contains(user) {
                users.push(user.clone());
            }
        }
        users
    }
}

/// A hash of the content of an object.
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

    fn user(name: &str, is_verified: bool) -> User {
        User { name: name.to_owned(), is_verified }
    }

    fn named(request_log: &RequestLog, reference: &ObjectRef, now: Option<&Object>) -> Vec<String> {
        request_log.users_of(reference, now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_user_is_found_by_the_requested_content() {
        let request_log = RequestLog::default();
        let ((reference, a), (_, b)) = (object("a.org"), object("b.org"));
        request_log.record(reference.clone(), Some(&a), user("alice", true));
        request_log.record(reference.clone(), Some(&b), user("bob\n\u{1b}[2J", true));
        assert_eq!(named(&request_log, &reference, Some(&a)), ["alice"]);
        assert_eq!(named(&request_log, &reference, Some(&b)), ["bob\\u{a}\\u{1b}[2J"]);
        assert!(named(&request_log, &reference, None).is_empty());
        request_log.record(reference.clone(), None, user("carol", true));
        assert_eq!(named(&request_log, &reference, None), ["carol"]);
        let other = ObjectRef::new(Kind::Egress, "n", "q");
        assert!(named(&request_log, &other, Some(&a)).is_empty());
    }

    /// A client of the webhook may name any user, but displaces no other by that.
    #[test]
    fn a_user_that_is_made_up() {
        let request_log = RequestLog::default();
        let (reference, a) = object("a.org");
        for name in ["alice", "mallory", "alice", "mallory"] {
            request_log.record(reference.clone(), Some(&a), user(name, false));
        }
        let both = ["alice (not verified)", "mallory (not verified)"];
        assert_eq!(named(&request_log, &reference, Some(&a)), both);
        for n in 0..10 {
            request_log.record(reference.clone(), Some(&a), user(&format!("m{n}"), false));
        }
        let many = named(&request_log, &reference, Some(&a));
        assert_eq!((many.len(), &many[..2]), (MAX_USERS, &both.map(str::to_owned)[..]));
        for name in ["carol", "dave"] {
            request_log.record(reference.clone(), Some(&a), user(name, true));
        }
        request_log.record(reference.clone(), Some(&a), user("mallory", false));
        assert_eq!(named(&request_log, &reference, Some(&a)), ["dave"], "the last that is verified");
    }

    #[test]
    fn old_requests_are_dropped() {
        let request_log = RequestLog::default();
        let (reference, a) = object("a.org");
        request_log.record(reference.clone(), Some(&a), user("alice", true));
        for i in 0..MAX_REQUESTS {
            let other = ObjectRef::new(Kind::Egress, "n", format!("x{i}"));
            request_log.record(other, None, user(&"m".repeat(1000), true));
        }
        assert!(named(&request_log, &reference, Some(&a)).is_empty());
        let all = request_log.0.lock().expect("nobody panicked");
        assert!(all.len() == MAX_REQUESTS && all.iter().all(|seen| seen.user.name.len() < 2 * MAX_USER_NAME));
    }
}
