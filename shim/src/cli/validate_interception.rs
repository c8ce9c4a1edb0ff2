//! `osm-egress validate-interception`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::output::print;
use egress_cni::validate;
use egress_inject::interception::InterceptionArgs;

#[derive(Debug, Args)]
pub(super) struct ValidateInterception {
    #[command(flatten)]
    interception: InterceptionArgs,
}

impl ValidateInterception {
    pub(super) fn run(self) -> Result<ExitCode> {
        let families = self.interception.families();
        print(&validate::run(&self.interception.interception(), families)?)
    }
}
