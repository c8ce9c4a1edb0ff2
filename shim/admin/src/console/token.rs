//! The token that a write must present.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Minimum length: a shorter token can be guessed.
const MIN_TOKEN_LENGTH: usize = 16;
/// Maximum size of the token's file.
const MAX_TOKEN_FILE_SIZE: u64 = 4096;
/// Maximum number of concurrent attempts, and delay after a wrong one: together they limit guessing.
const MAX_CONCURRENT_ATTEMPTS: usize = 4;
const FAILURE_DELAY: Duration = Duration::from_millis(500);

/// The console's token. It is never logged, except for a generated one at the start.
pub struct Token {
    source: TokenSource,
    attempts: Semaphore,
}

enum TokenSource {
    /// Read for each attempt, so that a change needs no restart.
    File(PathBuf),
    /// Digest of a generated token.
    Generated([u8; 32]),
}

/// Reason why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("writes need the console's token: send it as `Authorization: Bearer TOKEN`")]
    Missing,
    #[error("the token is not the console's: copy it from the control plane's log or from its token file")]
    Wrong,
    #[error("too many wrong tokens were sent: try again in a second")]
    TooMany,
    #[error("the token file cannot be read: see the control plane's log")]
    Unreadable,
}

impl TokenError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Wrong => StatusCode::UNAUTHORIZED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreadable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// Loads the token from a file, without surrounding white space.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or the token is too short or too long.
    pub fn from_file(path: PathBuf) -> Result<Self> {
        read_token(&path)?;
        Ok(Self::new(TokenSource::File(path)))
    }

    /// Generates a token; returns it with its text.
    ///
    /// # Errors
    /// Returns an error if the system has no randomness.
    pub fn generate() -> Result<(Self, String)> {
        let mut bytes = [0; 32];
        let provider = rustls::crypto::ring::default_provider();
        provider
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the system has no randomness"))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        Ok((Self::new(TokenSource::Generated(hash_token(text.as_bytes()))), text))
    }

    fn new(source: TokenSource) -> Self {
        Self { source, attempts: Semaphore::new(MAX_CONCURRENT_ATTEMPTS) }
    }

    /// Checks a token. A wrong one takes time, and the number of concurrent attempts is limited.
    pub(super) async fn check(&self, presented: Option<&[u8]>) -> Result<(), TokenError> {
        let presented = presented.ok_or(TokenError::Missing)?;
        let Ok(attempt) = self.attempts.try_acquire() else { return Err(TokenError::TooMany) };
        let expected = match &self.source {
            TokenSource::Generated(digest) => *digest,
            TokenSource::File(path) => match read_token(path) {
                Ok(token) => hash_token(&token),
                Err(error) => {
                    tracing::error!(reason = format!("{error:#}"), "a write by the console was refused");
                    return Err(TokenError::Unreadable);
                }
            },
        };
        // Digests have one length and reveal nothing about the token.
        if expected.ct_eq(&hash_token(presented)).into() {
            return Ok(());
        }
        tokio::time::sleep(FAILURE_DELAY).await;
        drop(attempt);
        Err(TokenError::Wrong)
    }
}

fn hash_token(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn read_token(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let context = || format!("cannot read the console's token in {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .with_context(context)?
        .take(MAX_TOKEN_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .with_context(context)?;
    let token = bytes.trim_ascii();
    ensure!(
        token.len() >= MIN_TOKEN_LENGTH && bytes.len() as u64 <= MAX_TOKEN_FILE_SIZE,
        "the console's token in {} is {} bytes long: it must have {MIN_TOKEN_LENGTH} to {MAX_TOKEN_FILE_SIZE} bytes (`openssl rand -hex 32` makes one)",
        path.display(),
        token.len()
    );
    Ok(token.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_token_is_accepted() {
        let (token, text) = Token::generate().expect("random");
        assert_eq!(text.len(), 43);
        assert!(!format!("{token:?}").contains(&text));
        assert_eq!(token.check(None).await, Err(TokenError::Missing));
        assert_eq!(token.check(Some(text.as_bytes())).await, Ok(()));
        for wrong in ["", "x", &text[1..], &format!("{text}x")] {
            assert_eq!(token.check(Some(wrong.as_bytes())).await, Err(TokenError::Wrong), "{wrong}");
        }
        assert_ne!(Token::generate().expect("random").1, text);
    }

    /// Of many concurrent attempts few are compared; afterwards the right token is accepted.
    #[tokio::test]
    async fn guessing_is_limited() {
        let (token, text) = Token::generate().expect("random");
        let guesses = (0..100).map(|_| token.check(Some(b"guess")));
        let refused = futures::future::join_all(guesses).await;
        assert_eq!(
            refused.iter().filter(|refusal| **refusal == Err(TokenError::Wrong)).count(),
            MAX_CONCURRENT_ATTEMPTS
        );
        assert_eq!(refused.iter().filter(|refusal| **refusal == Err(TokenError::TooMany)).count(), 96);
        assert_eq!(token.check(Some(text.as_bytes())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_changed_file_takes_effect() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        assert!(Token::from_file(path.clone()).is_err());
        for bad in ["", "short", "               \n", &"x".repeat(5000)] {
            std::fs::write(&path, bad).expect("written");
            let error = Token::from_file(path.clone()).expect_err("an error").to_string();
            assert!(error.contains("it must have 16 to 4096"), "{error}");
        }
        std::fs::write(&path, "the-first-token-of-all\n").expect("written");
        let token = Token::from_file(path.clone()).expect("a token");
        assert_eq!(token.check(Some(b"the-first-token-of-all")).await, Ok(()));
        std::fs::write(&path, "the-second-token-of-all").expect("written");
        assert_eq!(token.check(Some(b"the-first-token-of-all")).await, Err(TokenError::Wrong));
        assert_eq!(token.check(Some(b"the-second-token-of-all")).await, Ok(()));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(token.check(Some(b"the-second-token-of-all")).await, Err(TokenError::Unreadable));
    }
}
