//! `docs/compose.md`, command by command.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use egress_tests::compose::{Compose, docker};
use egress_tests::doc_commands;
use egress_tests::repository_root;

#[test]
fn the_documented_commands_print_the_documented_output() -> Result<()> {
    let compose = Compose::new()?;
    let text = std::fs::read_to_string(repository_root().join("docs/compose.md"))?;
    let steps = doc_commands::steps(&text);
    ensure!(steps.len() > 10, "docs/compose.md has {} commands only", steps.len());
    for step in &steps {
        step.run(|script| compose.shell(script), Duration::from_secs(10)).context("docs/compose.md")?;
        if step.command.contains("compose up") {
            println!("healthy {:.1} s after it was up", compose.healthy()?.as_secs_f64());
            expect_least_privilege(&compose)?;
        }
    }
    let left = compose.traces()?;
    ensure!(left.is_empty(), "the tour leaves {}", left.join(", "));
    Ok(())
}

/// Requires that Docker's containers are locked down and have `NET_ADMIN` only where the rules are installed.
fn expect_least_privilege(compose: &Compose) -> Result<()> {
    for service in compose.run(&["config", "--services"])?.lines() {
        let inspect = |what: &str| -> Result<String> {
            let format = format!("{{{{json {what}}}}}");
            Ok(docker(&["inspect", "--format", &format, &compose.container(service)?])?.trim().to_owned())
        };
        for (what, expected) in [
            (".HostConfig.Privileged", "false"),
            (".HostConfig.ReadonlyRootfs", "true"),
            (".HostConfig.CapDrop", "[\"ALL\"]"),
            (".HostConfig.SecurityOpt", "[\"no-new-privileges:true\"]"),
        ] {
            let found = inspect(what)?;
            ensure!(found == expected, "{service}: {what} is {found}");
        }
        let more = inspect(".HostConfig.CapAdd")?;
        let user = inspect(".Config.User")?;
        if service.ends_with("-init") {
            ensure!(more.contains("NET_ADMIN") && more.matches('"').count() == 2, "{service} may {more}");
        } else {
            ensure!(matches!(more.as_str(), "null" | "[]"), "{service} may {more}");
            ensure!(!matches!(user.trim_matches('"'), "" | "0" | "0:0" | "root"), "{service} is {user}");
        }
    }
    Ok(())
}
