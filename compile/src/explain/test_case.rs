//! Test cases for policies, in a file beside them: `osm-egress test` and the playground.

mod junit;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use egress_policy::explain::Verdict;
use egress_policy::{Identity, ReasonCode};
use serde::{Deserialize, Serialize};

use super::policy_source::PolicySource;
use super::probe::ProbeArgs;
use super::{ExplainRequest, Report, explain};
use crate::blocked_ranges::BlockedRanges;
use crate::manifest::yaml;

/// A connection and its expected verdict.
#[derive(Debug, Clone)]
pub struct TestCase {
    /// The file that defines it.
    pub file: String,
    /// The line.
    pub line: Option<u32>,
    case: CaseSpec,
    identity: Option<Identity>,
}

/// The error for an invalid list of test cases, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TestCaseError(String);

/// A test case as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CaseSpec {
    name: String,
    #[serde(default, alias = "source")]
    identity: Option<String>,
    to: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, HeaderValues>,
    #[serde(default)]
    sni: Option<String>,
    #[serde(default)]
    ech: bool,
    #[serde(default)]
    client_hello_hex: Option<String>,
    #[serde(default)]
    address: Option<IpAddr>,
    expect: ExpectedVerdict,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    rule: Option<String>,
}

/// The value of a header, or the values of several headers of one name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a string, or a list of strings if the request has several such headers")]
enum HeaderValues {
    One(String),
    Several(Vec<String>),
}

impl HeaderValues {
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
enum ExpectedVerdict {
    Allow,
    Deny,
}

/// The result of one test case.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestOutcome {
    /// The name of the test case.
    pub name: String,
    /// The file that defines it.
    pub file: String,
    /// The line.
    pub line: Option<u32>,
    /// True if the actual verdict is the expected one.
    pub passed: bool,
    /// The expected verdict.
    pub expected: String,
    /// The actual verdict.
    pub actual: String,
    /// The full report of a failed case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<Report>>,
}

/// The results of all test cases.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TestResults {
    /// The results, in the order of the file.
    pub cases: Vec<TestOutcome>,
}

impl TestCase {
    /// Parses the test cases of a file.
    ///
    /// ```
    /// # use egress_compile::store::{FileUpdate, Store};
    /// # let text = b"
    /// # apiVersion: policy.openservicemesh.io/v1alpha1
    /// # kind: Egress
    /// # metadata: {name: web, namespace: shop}
    /// # spec:
    /// #   sources: [{kind: ServiceAccount, name: app, namespace: shop}]
    /// #   hosts: [example.com]
    /// #   ports: [{number: 443, protocol: https}]
    /// # ";
    /// # let mut store = Store::default();
    /// # store.apply(FileUpdate::read("web.yaml".into(), text));
    /// use egress_compile::CompileOptions;
    /// use egress_compile::explain::policy_source::PolicySource;
    /// use egress_compile::explain::test_case::{TestCase, TestResults};
    ///
    /// let text = b"- {name: web, identity: shop/app, to: https://example.com, expect: allow}\n";
    /// let cases = TestCase::parse("cases.yaml", text).expect("valid cases");
    /// let source = PolicySource::compile(store.into(), &CompileOptions::default(), None);
    /// let results = TestResults::run(&cases, &source, 15001, &Default::default()).expect("results");
    /// assert!(results.all_passed());
    /// ```
    ///
    /// # Errors
    /// Fails if a test case is invalid. The error names its place.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Self>, TestCaseError> {
        let at = |line: Option<u32>, message: String| {
            let location = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
            TestCaseError(format!("{location}: {message}"))
        };
        let documents = yaml::parse_bytes(bytes).map_err(|error| {
            let line = error.position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default();
            TestCaseError(format!("{file}{line}: {error}: {}", error.advice))
        })?;
        let mut found = Vec::new();
        for document in documents {
            let Some(items) = document.value.as_array() else {
                return Err(at(
                    None,
                    "this is not a list of test cases: begin each with `- name: …`".to_owned(),
                ));
            };
            for (index, item) in items.iter().enumerate() {
                let line = document.source_map.find(&format!("[{index}]")).map(|at| at.line);
                let wrong = |error: &dyn fmt::Display| at(line, error.to_string());
                let case: CaseSpec = serde_json::from_value(item.clone()).map_err(|e| wrong(&e))?;
                if let Some(reason) = &case.reason
                    && !ReasonCode::ALL.iter().any(|known| known.as_str() == reason)
                {
                    return Err(wrong(&format_args!("`{reason}` is not a reason code")));
                }
                case.probe_args().parse().map_err(|e| wrong(&e))?;
                let identity = case.identity.as_deref().map(str::parse).transpose();
                let identity = identity.map_err(|e: egress_policy::IdentityError| wrong(&e))?;
                found.push(Self { file: file.to_owned(), line, case, identity });
            }
        }
        if found.is_empty() {
            return Err(at(None, "the file has no test cases".to_owned()));
        }
        Ok(found)
    }

    fn report(
        &self,
        source: &PolicySource,
        listener_port: u16,
        blocked: &BlockedRanges,
    ) -> Result<Report, TestCaseError> {
        let wrong = |message: String| {
            let Self { file, line, case, .. } = self;
            TestCaseError(format!("{file}:{}: {}: {message}", line.unwrap_or_default(), case.name))
        };
        let probe = self.case.probe_args().parse().map_err(|error| wrong(error.to_string()))?;
        let identity = self.identity.clone().or_else(|| source.only_identity().cloned());
        let request = ExplainRequest {
            identity: identity
                .ok_or_else(|| wrong("`identity: NAMESPACE/SERVICE-ACCOUNT` is missing".to_owned()))?,
            addresses: self.case.address.or(probe.address).into_iter().collect(),
            probe,
            resolved: false,
            listener_port,
            blocked: blocked.clone(),
        };
        explain(source, &request).map_err(|error| wrong(error.to_string()))
    }
}

impl CaseSpec {
    fn probe_args(&self) -> ProbeArgs {
        ProbeArgs {
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

    fn matches(&self, report: &Report) -> bool {
        let same = |expected: &Option<String>, found: Option<&str>| {
            expected.as_deref().is_none_or(|expected| found == Some(expected))
        };
        let verdict = match self.expect {
            ExpectedVerdict::Allow => Verdict::Allow,
            ExpectedVerdict::Deny => Verdict::Deny,
        };
        report.verdict == verdict
            && same(&self.reason, report.reason.map(ReasonCode::as_str))
            && same(&self.policy, report.policy.as_deref())
            && same(&self.rule, report.rule.as_deref())
    }

    fn expected(&self) -> String {
        let verdict = match self.expect {
            ExpectedVerdict::Allow => "allow",
            ExpectedVerdict::Deny => "deny",
        };
        format_verdict(verdict, self.reason.as_deref(), self.policy.as_deref(), self.rule.as_deref())
    }
}

fn format_verdict(verdict: &str, reason: Option<&str>, policy: Option<&str>, rule: Option<&str>) -> String {
    let mut text = verdict.to_owned();
    for (before, part) in [(" ", reason), (" by ", policy), (" ", rule)] {
        if let Some(part) = part {
            text.push_str(before);
            text.push_str(part);
        }
    }
    text
}

impl TestResults {
    /// Runs all test cases.
    ///
    /// # Errors
    /// Fails if a case has no verdict. The error names its place.
    pub fn run(
        cases: &[TestCase],
        source: &PolicySource,
        listener_port: u16,
        blocked: &BlockedRanges,
    ) -> Result<Self, TestCaseError> {
        let mut outcomes = Vec::with_capacity(cases.len());
        for one in cases {
            let TestCase { file, line, case, .. } = one;
            let report = one.report(source, listener_port, blocked)?;
            let passed = case.matches(&report);
            let verdict = if report.is_allowed() { "allow" } else { "deny" };
            let reason = report.reason.map(ReasonCode::as_str);
            let actual = format_verdict(verdict, reason, report.policy.as_deref(), report.rule.as_deref());
            outcomes.push(TestOutcome {
                name: case.name.clone(),
                file: file.clone(),
                line: *line,
                passed,
                expected: case.expected(),
                actual,
                report: (!passed).then(|| Box::new(report)),
            });
        }
        Ok(Self { cases: outcomes })
    }

    /// Returns true if every case passed.
    #[must_use]
    pub fn all_passed(&self) -> bool {
        self.count_failures() == 0
    }

    fn count_failures(&self) -> usize {
        self.cases.iter().filter(|case| !case.passed).count()
    }

    /// Formats the results as JUnit XML for CI systems.
    #[must_use]
    pub fn format_junit(&self) -> String {
        junit::format(self)
    }
}

/// Writes a line for each case, and the report of each failure.
impl fmt::Display for TestResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let name = escape_controls(&case.name);
            if case.passed {
                writeln!(f, "ok    {name}")?;
                continue;
            }
            let line = case.line.map(|line| format!(":{line}")).unwrap_or_default();
            writeln!(f, "FAIL  {name}  {}{line}", escape_controls(&case.file))?;
            writeln!(f, "      expected {}", escape_controls(&case.expected))?;
            writeln!(f, "      actual   {}", escape_controls(&case.actual))?;
            for text in case.report.iter().map(|report| report.text(false).to_string()) {
                for line in text.lines() {
                    writeln!(f, "{}", format!("      | {line}").trim_end())?;
                }
            }
        }
        let (all, failed) = (self.cases.len(), self.count_failures());
        writeln!(f, "{all} {}, {failed} failed", if all == 1 { "case" } else { "cases" })
    }
}

/// Escapes control characters, which a terminal would obey.
fn escape_controls(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped: Box<dyn Iterator<Item = char>> =
                if c.is_control() { Box::new(c.escape_default()) } else { Box::new(std::iter::once(c)) };
            escaped
        })
        .collect()
}
