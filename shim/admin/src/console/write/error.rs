//! The reason why nothing was written.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use egress_kubernetes::Refused;

/// Status and message of a refused or failed write, with the remedy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WriteError(pub(super) StatusCode, pub(super) String);

impl WriteError {
    pub(super) fn conflict(why: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, why.into())
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, why.into())
    }
}

impl From<Refused> for WriteError {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Exists(_) => StatusCode::CONFLICT,
            Refused::Server(_) => StatusCode::BAD_GATEWAY,
        };
        Self(status, refused.to_string())
    }
}

impl IntoResponse for WriteError {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        (status, format!("{why}\n")).into_response()
    }
}
