//! The playground and the console in a real Chromium, by clicking and typing. `cargo xtask test` builds them and sets
//! `XTASK_BIN`, and what the command line, Envoy and a real mesh need.
//! With `UPDATE_SCREENSHOTS=1` the pictures of the documentation are taken.

#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

mod console;
mod corpus;
mod features;
mod given;
mod hostile;
mod links;
mod looks;
mod page;
