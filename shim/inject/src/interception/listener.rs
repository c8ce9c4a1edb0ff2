//! Who listens on a port of this network namespace, as the kernel tells it.

use std::collections::BTreeSet;

/// The state of a socket that listens, in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// The uids that listen on a TCP port. Nobody where the kernel does not tell: this looks for a mistake, and prevents
/// nothing.
#[must_use]
pub fn listening_uids(port: u16) -> BTreeSet<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter();
    tables.filter_map(|path| std::fs::read_to_string(path).ok()).flat_map(|text| read(&text, port)).collect()
}

fn read(text: &str, port: u16) -> BTreeSet<u32> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
        is_it.then(|| fields.get(7)?.parse().ok()).flatten()
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_of_a_table() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1500        0 1 1 0 100 0 0 10 0\n   \
            1: 0100007F:3A98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0\n   \
            2: 0100007F:3A99 0200007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1\n";
        assert_eq!(read(text, 15001), BTreeSet::from([1500]));
        assert_eq!(read(text, 15000), BTreeSet::from([0]));
        assert_eq!(read(text, 15002), BTreeSet::new());
        let six = "   0: 00000000000000000000000000000000:3A99 00000000000000000000000000000000:0000 0A 00000000:00000000 \
            00:00000000 00000000  1337        0 4 1 0 100 0 0 10 0\n";
        assert_eq!(read(six, 15001), BTreeSet::from([1337]));
        assert_eq!(read("", 15001), BTreeSet::new());
    }
}
