//! Names of network interfaces, and lists without duplicates.

/// Parses the name of a network interface, or its beginning followed by `+`, as iptables writes it.
///
/// # Errors
/// Returns an error if no interface can have the name, or every one matches.
pub fn parse_interface(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('+').unwrap_or(text);
    // The kernel's limit is 15 bytes. Other characters could be read as iptables' options.
    let valid = !name.is_empty()
        && text.len() <= 15
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b':'));
    if valid { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a network interface name")) }
}

/// Removes duplicates, and keeps the first of each.
#[must_use]
pub fn deduplicate<T: PartialEq>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for item in items {
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}
