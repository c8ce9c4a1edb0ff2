//! The reason why nothing was written.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use egress_kubernetes::Refused;

/// Why nothing was written: for whoever asked, with what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) StatusCode, pub(super) String);

impl Problem {
    pub(super) fn conflict(why: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, why.into())
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, why.into())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Exists(_) => StatusCode::CONFLICT,
            Refused::Server(_) => StatusCode::BAD_GATEWAY,
        };
        Self(status, refused.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        (status, format!("{why}\n")).into_response()
    }
}
