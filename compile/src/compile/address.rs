use std::net::IpAddr;

use egress_policy::Cidr;

use super::Invalid;
use super::diagnostic_sink::DiagnosticSink;

/// Parses a list of address blocks. One invalid block invalidates the whole list.
pub(super) fn read_blocks(
    texts: &[String],
    field: &str,
    advice: &str,
    sink: &mut DiagnosticSink<'_>,
) -> Result<Vec<Cidr>, Invalid> {
    let mut valid = true;
    let mut blocks = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match Cidr::canonical(text) {
            Ok(block) => {
                let written = block.to_string();
                if written != *text {
                    sink.info(&format!("{field}[{i}]"), format!("`{text}` is read as `{written}`"), None);
                }
                blocks.push(block);
            }
            Err(error) => {
                valid = false;
                // An address without a prefix length is the most common mistake.
                let one = text
                    .parse::<IpAddr>()
                    .ok()
                    .map(|ip| format!("write `{}` for this one address", Cidr::host(ip)));
                sink.error(
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
