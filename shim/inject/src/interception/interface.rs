//! What lists of the interception may hold.

/// A name of a network interface, or its beginning with a `+`, as iptables writes it.
///
/// # Errors
/// When no interface has such a name, or every one has.
pub fn interface(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('+').unwrap_or(text);
    // The kernel's limit is 15 bytes; the other signs cannot be told from iptables' own.
    let valid = !name.is_empty()
        && text.len() <= 15
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b':'));
    if valid { Ok(text.to_owned()) } else { Err(format!("`{text}` is no name of a network interface")) }
}

/// Each item once, where it comes first.
#[must_use]
pub fn unique<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for item in items {
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}
