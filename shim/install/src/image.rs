//! References to images: `NAME[:TAG][@DIGEST]`.

/// The digest by which a reference names an image.
///
/// # Errors
/// When what stands there is no digest.
pub(super) fn digest(image: &str) -> Result<Option<&str>, String> {
    let Some((name, digest)) = image.split_once('@') else { return Ok(None) };
    let is_digest = digest.strip_prefix("sha256:").is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    });
    if is_digest && !name.is_empty() {
        Ok(Some(digest))
    } else {
        Err(format!(
            "`{image}` has no digest behind `@`: write it as `NAME@sha256:` and 64 hexadecimal digits"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let sum = "0123456789abcdef".repeat(4);
        for name in ["envoy", "localhost:5000/envoy:v1.40.0", "registry.example/a/b"] {
            assert_eq!(digest(name), Ok(None));
            let image = format!("{name}@sha256:{sum}");
            assert_eq!(digest(&image), Ok(Some(image.split_once('@').expect("a digest").1)));
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
            assert!(digest(&image).is_err_and(|why| why.contains(&image)), "{image}");
        }
    }
}
