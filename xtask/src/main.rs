mod module;
fn main() -> anyhow::Result<()> {
    module::build(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).map(|_| ())
}
