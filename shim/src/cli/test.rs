//! `osm-egress test`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::evidence::EvidenceArgs;
use super::output::{Output, print};
use crate::explain::expected::{self, TestResults};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Files of expectations: a YAML list of connections and verdicts. Several files are read as one list.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write a JUnit report to this file, for CI systems.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Output format.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    evidence: EvidenceArgs,
}

impl TestArgs {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut cases = Vec::new();
        for file in &self.files {
            cases.extend(expected::read(file)?);
        }
        let runtime = tokio::runtime::Runtime::new()?;
        let evidence = runtime.block_on(async {
            let origin = self.evidence.origin().await?;
            self.evidence.read(origin).await
        })?;
        runtime.shutdown_background();
        let blocked = self.evidence.blocked.clone().into();
        let results = TestResults::run(&cases, &evidence, self.evidence.listener_port, &blocked)?;
        if let Some(file) = &self.junit {
            std::fs::write(file, results.format_junit())
                .with_context(|| format!("cannot write the report {}", file.display()))?;
        }
        print(&match self.output {
            Output::Json => format!("{:#}\n", serde_json::json!(results)),
            Output::Text => results.to_string(),
        })?;
        Ok(if results.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
