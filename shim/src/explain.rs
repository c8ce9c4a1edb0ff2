//! `osm-egress explain`: where its evidence comes from. What follows from that is said by
//! [`egress_compile::explain`], as in the playground.

pub mod evidence;
pub mod expected;

pub use egress_compile::explain::{
    AddressGrant, AddressSource, ExplainError, ExplainRequest, Report, Route, RuleReport, explain, probe,
};

#[cfg(test)]
mod tests;
