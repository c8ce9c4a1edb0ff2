//! Image references: `NAME[:TAG][@DIGEST]`.

/// Parses the digest of an image reference. Returns `None` if the reference has none.
///
/// # Errors
/// Fails when the text after `@` is not a digest.
pub(super) fn parse_digest(image: &str) -> Result<Option<&str>, String> {
    let Some((name, digest)) = image.split_once('@') else { return Ok(None) };
    let is_digest = digest.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    if is_digest && !name.is_empty() {
        Ok(Some(digest))
    } else {
        Err(format!(
            "`{image}` has no valid digest after `@`: write `NAME@sha256:` and 64 lower-case hexadecimal digits"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_parsed_and_checked() {
        let sum = "0123456789abcdef".repeat(4);
        for name in ["envoy", "localhost:5000/envoy:v1.40.0", "registry.example/a/b"] {
            assert_eq!(parse_digest(name), Ok(None));
            let image = format!("{name}@sha256:{sum}");
            assert_eq!(parse_digest(&image), Ok(Some(image.split_once('@').expect("a digest").1)));
        }
        for image in [
            "envoy@".to_owned(),
            "envoy@sha256:".to_owned(),
            format!("envoy@sha256:{}", &sum[1..]),
            format!("envoy@sha256:{}", sum.to_uppercase()),
            format!("envoy@md5:{sum}"),
            format!("@sha256:{sum}"),
            format!("a@b@sha256:{sum}"),
        ] {
            assert!(parse_digest(&image).is_err_and(|why| why.contains(&image)), "{image}");
        }
    }
}
