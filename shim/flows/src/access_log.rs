//! Observations from Envoy's access logs: its gRPC entries and the JSON lines on its standard output.

pub mod grpc;
pub mod json;
