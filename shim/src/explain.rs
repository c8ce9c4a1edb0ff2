//! `osm-egress explain`: where its evidence comes from. What follows from that is said by
//! [`egress_compile::explain`], as in the playground.

pub mod evidence;
pub mod expected;

pub use egress_compile::explain::{
    AllowedAt, Ask, ExplainError, GoesTo, How, PlacedRuling, Report, call, explain,
};

#[cfg(test)]
mod tests;
