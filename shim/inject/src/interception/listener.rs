//! Uids of the processes that listen on a port of this network namespace.

use std::collections::BTreeSet;

/// State of a listening socket in `/proc/net/tcp`.
const LISTEN_STATE: &str = "0A";

/// Uids that listen on a TCP port; empty if the kernel does not show them. This detects mistakes and is not a
/// security check.
#[must_use]
pub fn listening_uids(port: u16) -> BTreeSet<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
    tables
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| parse_listeners(&text, port))
        .collect()
}

fn parse_listeners(text: &str, port: u16) -> BTreeSet<u32> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = *fields.get(3)? == LISTEN_STATE && u16::from_str_radix(local_port, 16).ok()? == port;
        is_it.then(|| fields.get(7)?.parse().ok()).flatten()
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_by_port() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1500        0 1 1 0 100 0 0 10 0\n   \
            1: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0\n   \
            2: 0100007F:3A99 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1\n";
        assert_eq!(parse_listeners(text, 15001), BTreeSet::from([1500]));
        assert_eq!(parse_listeners(text, 15000), BTreeSet::from([0]));
        assert_eq!(parse_listeners(text, 15002), BTreeSet::new());
        let six = "   0: 00000000000000000000000000000000:3A99 00000000000000000000000000000000:0000 0A 00000000:00000000 \
            00:00000000 00000000  1337        0 4 1 0 100 0 0 10 0\n";
        assert_eq!(parse_listeners(six, 15001), BTreeSet::from([1337]));
        assert_eq!(parse_listeners("", 15001), BTreeSet::new());
    }
}
