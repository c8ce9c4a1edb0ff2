//! The playground and the console in a real Chromium, by clicking and typing. `cargo xtask test` builds them
//! and sets `XTASK_BIN` and the variables of the command line, Envoy and a real mesh. `UPDATE_SCREENSHOTS=1`
//! takes the pictures of the documentation.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

mod accessibility;
mod console;
mod corpus;
mod features;
mod hostile;
mod links;
mod page;
mod render;
