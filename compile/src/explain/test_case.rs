//! What is expected of policies, beside them in a file: for `osm-egress test` and the playground.

mod junit;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use egress_policy::explain::Verdict;
use egress_policy::{Identity, ReasonCode};
use serde::{Deserialize, Serialize};

use super::probe::Words;
use super::policy_source::Evidence;
use super::{Ask, Report, explain};
use crate::blocked_ranges::BlockedRanges;
use crate::manifest::yaml;

/// One connection, and what must become of it.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The file that it stands in.
    pub file: String,
    /// The line.
    pub line: Option<u32>,
    case: Case,
    source: Option<Identity>,
}

/// Why a list of cases cannot be used: the place, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpectedError(String);

/// As it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    source: Option<String>,
    to: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    #[serde(default)]
    sni: Option<String>,
    #[serde(default)]
    ech: bool,
    #[serde(default)]
    client_hello_hex: Option<String>,
    #[serde(default)]
    address: Option<IpAddr>,
    expect: Verb,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    rule: Option<String>,
}

/// The value of a header, or those of several fields of one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a text, or a list of texts where a request has several such headers")]
enum Values {
    One(String),
    Several(Vec<String>),
}

impl Values {
    fn iter(&self) -> impl Iterator<Item = &String> {
        let (one, several) = match self {
            Self::One(value) => (Some(value), &[][..]),
            Self::Several(values) => (None, values.as_slice()),
        };
        one.into_iter().chain(several)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Allow,
    Deny,
}

/// What became of one.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What it is called.
    pub name: String,
    /// The file that it stands in.
    pub file: String,
    /// The line.
    pub line: Option<u32>,
    /// Whether it is as expected.
    pub as_expected: bool,
    /// What is expected.
    pub expected: String,
    /// What is so.
    pub found: String,
    /// The whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<Report>>,
}

/// What became of all.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Each, in the order of the file.
    pub cases: Vec<Outcome>,
}

impl Expected {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// When something in it makes no sense; with the place.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Self>, ExpectedError> {
        let at = |line: Option<u32>, message: String| {
            let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
            ExpectedError(format!("{place}: {message}"))
        };
        let documents = yaml::parse_bytes(bytes).map_err(|error| {
            let line = error.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
            ExpectedError(format!("{file}{line}: {error}: {}", error.advice))
        })?;
        let mut found = Vec::new();
        for document in documents {
            let Some(items) = document.value.as_array() else {
                return Err(at(None, "this is no list of cases: begin each with `- name: …`".to_owned()));
            };
            for (index, item) in items.iter().enumerate() {
                let line = document.places.find(&format!("[{index}]")).map(|at| at.line);
                let wrong = |error: &dyn fmt::Display| at(line, error.to_string());
                let case: Case = serde_json::from_value(item.clone()).map_err(|e| wrong(&e))?;
                if let Some(reason) = &case.reason
                    && !ReasonCode::ALL.iter().any(|known| known.as_str() == reason)
                {
                    return Err(wrong(&format_args!("`{reason}` is not a reason code")));
                }
                case.words().read().map_err(|e| wrong(&e))?;
                let source = case.source.as_deref().map(str::parse).transpose();
                let source = source.map_err(|e: egress_policy::IdentityError| wrong(&e))?;
                found.push(Self { file: file.to_owned(), line, case, source });
            }
        }
        if found.is_empty() {
            return Err(at(None, "there is no case in it".to_owned()));
        }
        Ok(found)
    }

    fn report(
        &self,
        evidence: &Evidence,
        listener_port: u16,
        blocked: &BlockedRanges,
    ) -> Result<Report, ExpectedError> {
        let wrong = |message: String| {
            let Self { file, line, case, .. } = self;
            ExpectedError(format!("{file}:{}: {}: {message}", line.unwrap_or_default(), case.name))
        };
        let call = self.case.words().read().map_err(|error| wrong(error.to_string()))?;
        let identity = self.source.clone().or_else(|| evidence.only_identity().cloned());
        let ask = Ask {
            identity: identity
                .ok_or_else(|| wrong("`source: NAMESPACE/SERVICE-ACCOUNT` is missing".to_owned()))?,
            addresses: self.case.address.or(call.address).into_iter().collect(),
            call,
            resolved: false,
            listener_port,
            blocked: blocked.clone(),
        };
        explain(evidence, &ask).map_err(|error| wrong(error.to_string()))
    }
}

impl Case {
    fn words(&self) -> Words {
        Words {
            to: self.to.clone(),
            method: self.method.clone(),
            headers: self
                .headers
                .iter()
                .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")))
                .collect(),
            sni: self.sni.clone(),
            ech: self.ech,
            client_hello: self.client_hello_hex.clone(),
        }
    }

    fn is(&self, report: &Report) -> bool {
        let same = |expected: &Option<String>, found: Option<&str>| {
            expected.as_deref().is_none_or(|expected| found == Some(expected))
        };
        let verdict = match self.expect {
            Verb::Allow => Verdict::Allow,
            Verb::Deny => Verdict::Deny,
        };
        report.verdict == verdict
            && same(&self.reason, report.reason.map(ReasonCode::as_str))
            && same(&self.policy, report.policy.as_deref())
            && same(&self.rule, report.rule.as_deref())
    }

    fn expected(&self) -> String {
        let verdict = match self.expect {
            Verb::Allow => "allow",
            Verb::Deny => "deny",
        };
        words(verdict, self.reason.as_deref(), self.policy.as_deref(), self.rule.as_deref())
    }
}

fn words(verdict: &str, reason: Option<&str>, policy: Option<&str>, rule: Option<&str>) -> String {
    let mut text = verdict.to_owned();
    for (before, part) in [(" ", reason), (" by ", policy), (" ", rule)] {
        if let Some(part) = part {
            text.push_str(before);
            text.push_str(part);
        }
    }
    text
}

impl Results {
    /// Asks about each.
    ///
    /// # Errors
    /// When one cannot be answered; with its place.
    pub fn of(
        expected: &[Expected],
        evidence: &Evidence,
        listener_port: u16,
        blocked: &BlockedRanges,
    ) -> Result<Self, ExpectedError> {
        let mut cases = Vec::with_capacity(expected.len());
        for one in expected {
            let Expected { file, line, case, .. } = one;
            let report = one.report(evidence, listener_port, blocked)?;
            let as_expected = case.is(&report);
            let verdict = if report.is_allowed() { "allow" } else { "deny" };
            let reason = report.reason.map(ReasonCode::as_str);
            let found = words(verdict, reason, report.policy.as_deref(), report.rule.as_deref());
            cases.push(Outcome {
                name: case.name.clone(),
                file: file.clone(),
                line: *line,
                as_expected,
                expected: case.expected(),
                found,
                report: (!as_expected).then(|| Box::new(report)),
            });
        }
        Ok(Self { cases })
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn all_as_expected(&self) -> bool {
        self.differing() == 0
    }

    fn differing(&self) -> usize {
        self.cases.iter().filter(|case| !case.as_expected).count()
    }

    /// The report that CI systems read.
    #[must_use]
    pub fn junit(&self) -> String {
        junit::write(self)
    }
}

/// A line for each case, and why one is not as expected.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let name = clean(&case.name);
            if case.as_expected {
                writeln!(f, "ok    {name}")?;
                continue;
            }
            let line = case.line.map(|line| format!(":{line}")).unwrap_or_default();
            writeln!(f, "WRONG {name}  {}{line}", clean(&case.file))?;
            writeln!(f, "      expected {}", clean(&case.expected))?;
            writeln!(f, "      found    {}", clean(&case.found))?;
            for text in case.report.iter().map(|report| report.text(false).to_string()) {
                for line in text.lines() {
                    writeln!(f, "{}", format!("      | {line}").trim_end())?;
                }
            }
        }
        let (all, wrong) = (self.cases.len(), self.differing());
        writeln!(f, "{all} {}, {wrong} not as expected", if all == 1 { "case" } else { "cases" })
    }
}

/// What others wrote, without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped: Box<dyn Iterator<Item = char>> =
                if c.is_control() { Box::new(c.escape_default()) } else { Box::new(std::iter::once(c)) };
            escaped
        })
        .collect()
}
