use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::Cidr;
use crate::cidr::network;

/// Address blocks, each with the first rule that names it.
///
/// There is one hash table per prefix length that occurs, so a look-up costs the number of different lengths (a handful;
/// at most 162) and not the number of blocks.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    v4: Vec<Table>,
    v6: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    length: u8,
    blocks: FxHashMap<u128, u32>,
}

impl Addresses {
    /// Adds a block. Of two rules with the same block the smaller number stays.
    pub(crate) fn insert(&mut self, block: Cidr, rule: u32) {
        let net = block.net();
        let tables = if net.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let length = net.prefix_len();
        let at = match tables.binary_search_by_key(&length, |table| table.length) {
            Ok(at) => at,
            Err(at) => {
                tables.insert(at, Table { length, blocks: FxHashMap::default() });
                at
            }
        };
        if let Some(table) = tables.get_mut(at) {
            let first = table.blocks.entry(network(net.addr(), length)).or_insert(rule);
            *first = rule.min(*first);
        }
    }

    /// Finds the first rule with a block that contains the address.
    pub(crate) fn find(&self, address: IpAddr) -> Option<u32> {
        let tables = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        tables.iter().filter_map(|table| table.blocks.get(&network(address, table.length)).copied()).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (any::<[u8; 2]>(), 0_u8..=32).prop_map(|(a, n)| Cidr::canonical(&format!(
                "10.{}.{}.0/{n}",
                a[0] % 4,
                a[1]
            ))),
            (any::<u8>(), 0_u8..=128).prop_map(|(a, n)| Cidr::canonical(&format!("2001:db8:{a:x}::/{n}"))),
        ]
        .prop_map(|block| block.expect("valid"))
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a % 4, b, c])),
            any::<[u8; 2]>().prop_map(|[a, b]| format!("2001:db8:{a:x}::{b:x}").parse().expect("valid")),
        ]
    }

    proptest! {
        #[test]
        fn the_tables_agree_with_a_list(blocks in prop::collection::vec(block(), 0..40), addresses in prop::collection::vec(address(), 1..40)) {
            let mut index = Addresses::default();
            for (rule, block) in (0..).zip(&blocks) {
                index.insert(*block, rule);
            }
            for address in addresses {
                let naive = (0..).zip(&blocks).find(|(_, block)| block.contains(address)).map(|(rule, _)| rule);
                prop_assert_eq!(index.find(address), naive);
            }
        }
    }
}
