//! The checked-in schema of the policy document is the one that the code has.

use std::path::Path;

#[test]
fn the_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy-document.schema.json");
    let schema =
        serde_json::to_string_pretty(&schemars::schema_for!(egress_policy::Document)).expect("writes") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &schema).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, schema, "run `UPDATE=1 cargo test -p egress-shim --test schema`");
}
