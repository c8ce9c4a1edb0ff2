use std::net::IpAddr;

use egress_policy::Cidr;

use super::Invalid;
use super::diagnostic_sink::Issues;

/// Reads the blocks of a list. With an invalid one, nothing is left of the list.
pub(super) fn blocks(
    texts: &[String],
    field: &str,
    advice: &str,
    issues: &mut Issues<'_>,
) -> Result<Vec<Cidr>, Invalid> {
    let mut valid = true;
    let mut blocks = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match Cidr::canonical(text) {
            Ok(block) => {
                let written = block.to_string();
                if written != *text {
                    issues.info(&format!("{field}[{i}]"), format!("`{text}` is read as `{written}`"), None);
                }
                blocks.push(block);
            }
            Err(error) => {
                valid = false;
                // A lone address is the commonest slip.
                let one = text
                    .parse::<IpAddr>()
                    .ok()
                    .map(|ip| format!("write `{}` for this one address", Cidr::host(ip)));
                issues.error(
                    &format!("{field}[{i}]"),
                    error.to_string(),
                    Some(one.as_deref().unwrap_or(advice)),
                );
            }
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    if valid { Ok(blocks) } else { Err(Invalid) }
}
