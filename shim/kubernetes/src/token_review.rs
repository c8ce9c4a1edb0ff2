//! Reviews of tokens by the API server.

use egress_core::token_review::{Review, TokenReviewer};
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::reason;

/// Reviews tokens at the API server.
#[derive(Clone)]
pub struct ApiTokenReviewer {
    client: Client,
}

impl std::fmt::Debug for ApiTokenReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl ApiTokenReviewer {
    /// A reviewer with this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn create_review(&self, token: &str, audience: &str) -> Result<Review, String> {
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

impl TokenReviewer for ApiTokenReviewer {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> BoxFuture<'a, Result<Review, String>> {
        Box::pin(self.create_review(token, audience))
    }
}
