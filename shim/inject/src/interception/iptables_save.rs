//! What is in force, as iptables-save tells it.

use super::rules::{CHAINS, Rule, restore_input};

/// What is ours in a table `nat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// Our chains.
    chains: Vec<&'static str>,
    /// The rules in them.
    inside: Vec<Rule>,
    /// The rules of other chains that lead to ours.
    leading: Vec<Rule>,
}

impl Saved {
    /// Reads what iptables-save printed of the table `nat`.
    pub(super) fn read(text: &str) -> Self {
        let mut saved = Self::default();
        for line in text.lines() {
            if let Some(line) = line.strip_prefix(':') {
                let name = line.split(' ').next().unwrap_or_default();
                saved.chains.extend(ours(name));
            } else if let Some(line) = line.strip_prefix("-A ")
                && let Some((chain, text)) = line.split_once(' ')
            {
                let rule = Rule { chain: chain.to_owned(), text: text.to_owned() };
                if ours(chain).is_some() {
                    saved.inside.push(rule);
                } else if leads_to_ours(text) {
                    saved.leading.push(rule);
                }
            }
        }
        saved
    }

    /// What iptables-restore has to read so that these rules, and no others of ours, are in force;
    /// nothing when they are.
    pub(super) fn replace(&self, rules: &[Rule]) -> Option<String> {
        let wanted = Self::of(rules);
        let same =
            CHAINS.iter().all(|chain| of_chain(&self.inside, chain) == of_chain(&wanted.inside, chain))
                && by_chain(&self.leading) == by_chain(&wanted.leading)
                && self.chains.iter().all(|chain| wanted.chains.contains(chain));
        if same { None } else { Some(restore_input(rules, &self.leading, &self.chains)) }
    }

    /// Whether these rules seem to be in force: another version of iptables may print them otherwise.
    pub(super) fn resembles(&self, rules: &[Rule]) -> bool {
        let wanted = Self::of(rules);
        self.leading.len() == wanted.leading.len()
            && CHAINS.iter().all(|chain| {
                of_chain(&self.inside, chain).len() == of_chain(&wanted.inside, chain).len()
                    && self.chains.contains(chain) == wanted.chains.contains(chain)
            })
    }

    fn of(rules: &[Rule]) -> Self {
        let (inside, leading): (Vec<_>, Vec<_>) =
            rules.iter().cloned().partition(|rule| ours(&rule.chain).is_some());
        let chains = CHAINS.into_iter().filter(|chain| inside.iter().any(|rule| rule.chain == *chain));
        Self { chains: chains.collect(), inside, leading }
    }
}

fn of_chain<'r>(rules: &'r [Rule], chain: &str) -> Vec<&'r Rule> {
    rules.iter().filter(|rule| rule.chain == chain).collect()
}

/// Only the order within a chain means anything.
fn by_chain(rules: &[Rule]) -> Vec<&Rule> {
    let mut rules: Vec<_> = rules.iter().collect();
    rules.sort_by(|a, b| a.chain.cmp(&b.chain));
    rules
}

fn ours(name: &str) -> Option<&'static str> {
    CHAINS.into_iter().find(|chain| *chain == name)
}

fn leads_to_ours(text: &str) -> bool {
    let words: Vec<_> = text.split(' ').collect();
    words.windows(2).any(|pair| matches!(pair[0], "-j" | "-g") && ours(pair[1]).is_some())
}
