//! The review of a service account's token by whoever gave it out.

use std::fmt;

use futures::future::BoxFuture;

/// Asks whoever gave tokens out whose they are. In a cluster that is the API server.
pub trait TokenReviewer: fmt::Debug + Send + Sync {
    /// Asks about a token that should be for an audience.
    ///
    /// # Errors
    /// When there is no answer, with the reason.
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> BoxFuture<'a, Result<Review, String>>;
}

/// The answer about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// The token is good.
    Confirmed {
        /// The user that it was given to.
        user: String,
        /// For whom, of those that were asked about.
        audiences: Vec<String>,
    },
    /// It is not; with what the API server has to say.
    Refused(String),
}
