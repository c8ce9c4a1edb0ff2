//! All flows, page by page.

use std::collections::HashMap;

use super::{Filter, Flows, Key, Limit};
use crate::Flow;

/// Asks page by page. A flow that changes meanwhile comes again, as it is then.
///
/// # Errors
/// When a page cannot be had.
pub fn all<E>(filter: &Filter, mut ask: impl FnMut(&Filter) -> Result<Flows, E>) -> Result<Flows, E> {
    let mut page = Filter { limit: Limit::MOST, newest: false, ..filter.clone() };
    let mut flows: HashMap<(String, Key), Flow> = HashMap::new();
    let answer = loop {
        let mut answer = ask(&page)?;
        if answer.sequence < page.after {
            // Another control plane, or it started anew: what was said before is not what it knows.
            page.after = 0;
            flows.clear();
            continue;
        }
        let last = answer.flows.last().map(|flow| flow.sequence);
        flows.extend(answer.flows.drain(..).map(|flow| ((flow.identity.clone(), Key::of(&flow)), flow)));
        match last {
            Some(last) if answer.more && last > page.after => page.after = last,
            Some(_) | None => break answer,
        }
    };
    let mut flows: Vec<Flow> = flows.into_values().collect();
    flows.sort_by_key(|flow| flow.sequence);
    Ok(Flows { flows, more: false, ..answer })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::num::NonZeroUsize;

    use jiff::Timestamp;

    use super::*;
    use crate::line;
    use crate::memory::Memory;

    const ALLOWED: &str = r#"{"kind":"connection","dialled":"192.0.2.1:PORT","decision":"allow rule a/b c"}"#;

    fn see(memory: &Memory, port: u16) {
        let seen = line::read(&ALLOWED.replace("PORT", &port.to_string()));
        assert!(seen.is_some());
        memory.record(&"shop/app".parse().expect("an identity"), "p", Timestamp::now(), vec![seen]);
    }

    fn memory(flows: u16) -> Memory {
        let memory = Memory::new(NonZeroUsize::new(60_000).expect("not zero"));
        (1..=flows).for_each(|port| see(&memory, port));
        memory
    }

    #[test]
    fn until_there_is_no_more() {
        let memory = memory(25_000);
        let mut pages = 0;
        let flows = all(&Filter::default(), |page| {
            let answer = memory.flows(page);
            pages += 1;
            // One that was told of already changes, and another that was not.
            see(&memory, 1);
            see(&memory, 24_000);
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
    fn a_control_plane_that_starts_anew() {
        let (old, new) = (memory(12_000), memory(3));
        let mut pages = 0;
        let flows = all(&Filter::default(), |page| {
            pages += 1;
            Ok::<_, Infallible>(if pages == 1 { old.flows(page) } else { new.flows(page) })
        });
        assert_eq!(flows.expect("flows").flows.len(), 3);
    }
}
