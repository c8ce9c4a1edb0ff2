//! Rules in force, read from the output of iptables-save.

use super::rules::{CHAINS, Rule, format_restore_input};

/// Chains and rules of osm-egress in a table `nat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SavedRules {
    /// Chains of osm-egress.
    chains: Vec<&'static str>,
    /// Rules in these chains.
    rules_inside: Vec<Rule>,
    /// Rules in other chains that jump to these.
    jumps: Vec<Rule>,
}

impl SavedRules {
    /// Parses the output of iptables-save for the table `nat`.
    pub(super) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix(':') {
                let name = line.split(' ').next().unwrap_or_default();
                saved.chains.extend(own_chain(name));
            } else if let Some(line) = line.strip_prefix("-A ")
                && let Some((chain, text)) = line.split_once(' ')
            {
                let rule = Rule { chain: chain.to_owned(), text: text.to_owned() };
                if own_chain(chain).is_some() {
                    saved.rules_inside.push(rule);
                } else if jumps_to_own_chain(text) {
                    saved.jumps.push(rule);
                }
            }
        }
        saved
    }

    /// Renders the input of iptables-restore that replaces the rules of osm-egress by these; `None` if these are in
    /// force already.
    pub(super) fn render_replacement(&self, rules: &[Rule]) -> Option<String> {
        let wanted = Self::from_rules(rules);
        let same = CHAINS
            .iter()
            .all(|chain| chain_rules(&self.rules_inside, chain) == chain_rules(&wanted.rules_inside, chain))
            && sort_by_chain(&self.jumps) == sort_by_chain(&wanted.jumps)
            && self.chains.iter().all(|chain| wanted.chains.contains(chain));
        if same { None } else { Some(format_restore_input(rules, &self.jumps, &self.chains)) }
    }

    /// Returns true if the number of rules in each chain is as expected. Another version of iptables may print the
    /// same rules in other words.
    pub(super) fn has_expected_sizes(&self, rules: &[Rule]) -> bool {
        let wanted = Self::from_rules(rules);
        self.jumps.len() == wanted.jumps.len()
            && CHAINS.iter().all(|chain| {
                chain_rules(&self.rules_inside, chain).len() == chain_rules(&wanted.rules_inside, chain).len()
                    && self.chains.contains(chain) == wanted.chains.contains(chain)
            })
    }

    fn from_rules(rules: &[Rule]) -> Self {
        let (rules_inside, jumps): (Vec<_>, Vec<_>) =
            rules.iter().cloned().partition(|rule| own_chain(&rule.chain).is_some());
        let chains = CHAINS.into_iter().filter(|chain| rules_inside.iter().any(|rule| rule.chain == *chain));
        Self { chains: chains.collect(), rules_inside, jumps }
    }
}

fn chain_rules<'r>(rules: &'r [Rule], chain: &str) -> Vec<&'r Rule> {
    rules.iter().filter(|rule| rule.chain == chain).collect()
}

/// Sorts rules by chain: only the order within a chain matters.
fn sort_by_chain(rules: &[Rule]) -> Vec<&Rule> {
    let mut rules: Vec<_> = rules.iter().collect();
    rules.sort_by(|a, b| a.chain.cmp(&b.chain));
    rules
}

fn own_chain(name: &str) -> Option<&'static str> {
    CHAINS.into_iter().find(|chain| *chain == name)
}

fn jumps_to_own_chain(text: &str) -> bool {
    let words: Vec<_> = text.split(' ').collect();
    words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && own_chain(pair[1]).is_some())
}
