//! Collecting all flows of a query, page by page.

use std::collections::HashMap;

use super::{FlowKey, FlowList, FlowQuery, PageLimit};
use crate::Flow;

/// Fetches page after page until there is no more. A flow that changes meanwhile is returned in its last state.
///
/// # Errors
/// The first error of `fetch_page`.
pub fn collect_pages<E>(
    query: &FlowQuery,
    mut fetch_page: impl FnMut(&FlowQuery) -> Result<FlowList, E>,
) -> Result<FlowList, E> {
    let mut page = FlowQuery { limit: PageLimit::MAX, newest: false, ..query.clone() };
    let mut flows: HashMap<(String, FlowKey), Flow> = HashMap::new();
    let answer = loop {
        let mut answer = fetch_page(&page)?;
        if answer.sequence < page.after {
            // Another control plane answers, or this one has restarted: the pages so far are not of its table.
            page.after = 0;
            flows.clear();
            continue;
        }
        let last = answer.flows.last().map(|flow| flow.sequence);
        flows.extend(answer.flows.drain(..).map(|flow| ((flow.identity.clone(), FlowKey::of(&flow)), flow)));
        match last {
            Some(last) if answer.more && last > page.after => page.after = last,
            Some(_) | None => break answer,
        }
    };
    let mut flows: Vec<Flow> = flows.into_values().collect();
    flows.sort_by_key(|flow| flow.sequence);
    Ok(FlowList { flows, more: false, ..answer })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::num::NonZeroUsize;

    use jiff::Timestamp;

    use super::*;
    use crate::access_log::json;
    use crate::table::FlowTable;

    const ALLOWED: &str = r#"{"kind":"connection","dialled":"192.0.2.1:PORT","verdict":"allow","reason":"rule","policy":"a/b","rule":"c"}"#;

    fn record(table: &FlowTable, port: u16) {
        let observation = json::read_line(&ALLOWED.replace("PORT", &port.to_string())).ok();
        assert!(observation.is_some());
        table.record(&"shop/app".parse().expect("an identity"), "p", Timestamp::now(), vec![observation]);
    }

    fn table_of(flows: u16) -> FlowTable {
        let table = FlowTable::new(NonZeroUsize::new(60_000).expect("not zero"));
        (1..=flows).for_each(|port| record(&table, port));
        table
    }

    #[test]
    fn all_pages_are_collected_while_flows_change() {
        let table = table_of(25_000);
        let mut pages = 0;
        let flows = collect_pages(&FlowQuery::default(), |page| {
            let answer = table.list_page(page);
            pages += 1;
            // A flow of an earlier page changes, and one of a later page.
            record(&table, 1);
            record(&table, 24_000);
            Ok::<_, Infallible>(answer)
        })
        .expect("flows");
        assert_eq!((pages, flows.flows.len(), flows.more), (3, 25_000, false));
        let counts: Vec<_> =
            flows.flows.iter().filter(|flow| flow.count > 1).map(|flow| (flow.port, flow.count)).collect();
        assert_eq!(counts, [(1, 3), (24_000, 3)]);
        assert!(flows.flows.is_sorted_by_key(|flow| flow.sequence));
    }

    #[test]
    fn a_restart_of_the_control_plane_discards_earlier_pages() {
        let (old, new) = (table_of(12_000), table_of(3));
        let mut pages = 0;
        let flows = collect_pages(&FlowQuery::default(), |page| {
            pages += 1;
            Ok::<_, Infallible>(if pages == 1 { old.list_page(page) } else { new.list_page(page) })
        });
        assert_eq!(flows.expect("flows").flows.len(), 3);
    }
}
