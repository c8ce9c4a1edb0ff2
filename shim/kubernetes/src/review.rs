//! What the API server says of a token.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::connect::reason;

/// Asks the API server about tokens.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// The token is good.
    Confirmed {
        /// Whose it is.
        user: String,
        /// For whom, of those that were asked about.
        audiences: Vec<String>,
    },
    /// It is not; with what the API server has to say.
    Refused(String),
}

impl Reviewer {
    /// Asks by this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks about a token that should be for an audience.
    ///
    /// # Errors
    /// When there is no answer, with the reason.
    pub async fn review(&self, token: &str, audience: &str) -> Result<Review, String> {
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
        let review = TokenReview { spec, ..Default::default() };
        let answer = Api::<TokenReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| reason(&error))?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.and_then(|user| user.username);
        Ok(match user.filter(|_| status.authenticated == Some(true)) {
            Some(user) => Review::Confirmed { user, audiences: status.audiences.unwrap_or_default() },
            None => Review::Refused(status.error.unwrap_or_else(|| "it gives no reason".to_owned())),
        })
    }
}
