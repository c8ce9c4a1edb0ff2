//! `osm-egress`: the control plane and its command line.

fn main() -> std::process::ExitCode {
    egress_shim::cli::run()
}
