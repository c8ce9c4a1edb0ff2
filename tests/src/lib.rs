pub mod client;
pub mod dns;
pub mod envoy;
pub mod netns;
pub mod origin;
