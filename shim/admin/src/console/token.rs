//! The token without which nothing is written.

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

/// A shorter one is guessed.
const SHORTEST: usize = 16;
/// No token is larger.
const LONGEST: u64 = 4096;
/// How many wrong ones are answered at a time, and how long that takes: the bound on guessing.
const AT_A_TIME: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// What a request must show. It is never logged, but for a random one at the start.
pub struct Token {
    kept: Kept,
    attempts: Semaphore,
}

enum Kept {
    /// Read for each attempt: whoever changes the file need not start anything anew.
    File(PathBuf),
    /// The digest of one that was made.
    Made([u8; 32]),
}

/// Why a token does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("writing needs the console's token: send it as `Authorization: Bearer TOKEN`")]
    Missing,
    #[error("this is not the console's token")]
    Wrong,
    #[error("too many wrong tokens came: try again in a second")]
    TooMany,
    #[error("the file of the token cannot be read: look at the control plane's log")]
    Unreadable,
}

impl Refusal {
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
    /// The one in a file, without white space around it.
    ///
    /// # Errors
    /// When there is none, or it is too short.
    pub fn file(path: PathBuf) -> Result<Self> {
        read(&path)?;
        Ok(Self::new(Kept::File(path)))
    }

    /// A random one, and its text.
    ///
    /// # Errors
    /// When the system gives nothing random.
    pub fn random() -> Result<(Self, String)> {
        let mut bytes = [0; 32];
        let provider = rustls::crypto::ring::default_provider();
        provider
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the system gives nothing random"))?;
        let text = URL_SAFE_NO_PAD.encode(bytes);
        Ok((Self::new(Kept::Made(digest(text.as_bytes()))), text))
    }

    fn new(kept: Kept) -> Self {
        Self { kept, attempts: Semaphore::new(AT_A_TIME) }
    }

    /// Compares. A wrong one costs time, and only so many are looked at in that time.
    pub(super) async fn check(&self, shown: Option<&[u8]>) -> Result<(), Refusal> {
        let shown = shown.ok_or(Refusal::Missing)?;
        let Ok(attempt) = self.attempts.try_acquire() else { return Err(Refusal::TooMany) };
        let expected = match &self.kept {
            Kept::Made(digest) => *digest,
            Kept::File(path) => match read(path) {
                Ok(token) => digest(&token),
                Err(error) => {
                    tracing::error!(reason = format!("{error:#}"), "the console writes nothing");
                    return Err(Refusal::Unreadable);
                }
            },
        };
        // Digests have one length, and say nothing of what they are of.
        if expected.ct_eq(&digest(shown)).into() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        drop(attempt);
        Err(Refusal::Wrong)
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let named = || format!("cannot read the console's token in {}", path.display());
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .with_context(named)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(named)?;
    let token = bytes.trim_ascii();
    ensure!(
        token.len() >= SHORTEST && bytes.len() as u64 <= LONGEST,
        "the console's token in {} has {} bytes: it must have {SHORTEST} to {LONGEST} (`openssl rand -hex 32` makes one)",
        path.display(),
        token.len()
    );
    Ok(token.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_token_does() {
        let (token, text) = Token::random().expect("random");
        assert_eq!(text.len(), 43);
        assert!(!format!("{token:?}").contains(&text));
        assert_eq!(token.check(None).await, Err(Refusal::Missing));
        assert_eq!(token.check(Some(text.as_bytes())).await, Ok(()));
        for wrong in ["", "x", &text[1..], &format!("{text}x")] {
            assert_eq!(token.check(Some(wrong.as_bytes())).await, Err(Refusal::Wrong), "{wrong}");
        }
        assert_ne!(Token::random().expect("random").1, text);
    }

    /// However many come at once, few are compared; and afterwards the right one does.
    #[tokio::test]
    async fn guessing_is_bounded() {
        let (token, text) = Token::random().expect("random");
        let guesses = (0..100).map(|_| token.check(Some(b"guess")));
        let refused = futures::future::join_all(guesses).await;
        assert_eq!(refused.iter().filter(|refusal| **refusal == Err(Refusal::Wrong)).count(), AT_A_TIME);
        assert_eq!(refused.iter().filter(|refusal| **refusal == Err(Refusal::TooMany)).count(), 96);
        assert_eq!(token.check(Some(text.as_bytes())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_file_may_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        assert!(Token::file(path.clone()).is_err());
        for bad in ["", "short", "               \n", &"x".repeat(5000)] {
            std::fs::write(&path, bad).expect("written");
            let error = Token::file(path.clone()).expect_err("an error").to_string();
            assert!(error.contains("it must have 16 to 4096"), "{error}");
        }
        std::fs::write(&path, "the-first-token-of-all\n").expect("written");
        let token = Token::file(path.clone()).expect("a token");
        assert_eq!(token.check(Some(b"the-first-token-of-all")).await, Ok(()));
        std::fs::write(&path, "the-second-token-of-all").expect("written");
        assert_eq!(token.check(Some(b"the-first-token-of-all")).await, Err(Refusal::Wrong));
        assert_eq!(token.check(Some(b"the-second-token-of-all")).await, Ok(()));
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(token.check(Some(b"the-second-token-of-all")).await, Err(Refusal::Unreadable));
    }
}
