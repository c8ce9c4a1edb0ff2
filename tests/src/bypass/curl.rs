//! The same attempts by an ordinary program: curl.

use anyhow::Result;

use super::check::{Check, Expect};
use super::observed_mesh::ObservedMesh;
use crate::client::{HttpResponse, Outcome};
use crate::network::NAME_SERVER;

/// Creates a check that runs curl with these arguments and reads its answer.
pub fn curl(words: String, expect: Expect) -> Check {
    Check::one(format!("`curl {words}`"), expect, move |observed| run(observed, &words))
}

fn run(observed: &ObservedMesh<'_>, words: &str) -> Result<Outcome> {
    // Words in single quotes are one.
    let words = words.split('\'').enumerate().flat_map(|(i, part)| {
        if i % 2 == 1 { vec![part.to_owned()] } else { part.split_whitespace().map(str::to_owned).collect() }
    });
    let output = observed
        .mesh
        .pod
        .command("curl", NAME_SERVER)?
        .args(["--silent", "--max-time", "5", "--dump-header", "-", "--output", "/dev/null"])
        .args(words)
        .output()?;
    let head = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(match output.status.code() {
        Some(0) => Outcome::Http(answer(&head)),
        // Recv failure, SSL connect error, empty reply.
        Some(35 | 52 | 56) => Outcome::Closed,
        code => Outcome::Refused(format!("curl ended with {code:?}")),
    })
}

fn answer(head: &str) -> HttpResponse {
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let headers = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    HttpResponse { status, headers, body: vec![] }
}
