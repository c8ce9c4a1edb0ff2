//! Builds the wasm module: compile, drop what Envoy need not call, check what is left.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use wasmparser::{Parser, Payload};

use crate::paths;

/// The path of the finished module, from the repository's root.
pub(crate) const MODULE: &str = "target/egress_filter.wasm";
/// The largest module, in bytes. With inline delivery it travels with every policy change, so it grows only on purpose:
/// this is the size at the last change of this line and 5 %, never more than 450,000 (decision 172).
const MAX_MODULE_SIZE: usize = 443_231;
const TARGET: &str = "wasm32-unknown-unknown";

/// The functions that Envoy may call. The SDK exports every callback of the ABI; Envoy looks a callback up once
/// and skips what is not there, so each name that is missing here is a call per event less.
const EXPORTS: [&str; 14] = [
    "memory",
    "malloc",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_tick",
    "proxy_on_context_create",
    "proxy_on_new_connection",
    "proxy_on_downstream_data",
    "proxy_on_downstream_connection_close",
    "proxy_on_request_headers",
    "proxy_on_delete",
];

/// Builds the module and returns its path.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let flags = paths::remapped(root)?;
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--package", "egress-filter", "--profile", "wasm", "--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the module does not build");
    let compiled = root.join(format!("target/{TARGET}/wasm/egress_filter.wasm"));
    let bytes = std::fs::read(&compiled).with_context(|| format!("cannot read {}", compiled.display()))?;
    let bytes = slim(&bytes)?;
    check(&bytes)?;
    let module = root.join(MODULE);
    // Envoy or the control plane may be reading the old one.
    let new = module.with_extension("wasm.new");
    std::fs::write(&new, &bytes)
        .and_then(|()| std::fs::rename(&new, &module))
        .with_context(|| format!("cannot write {}", module.display()))?;
    println!("  {MODULE}: {} bytes of at most {MAX_MODULE_SIZE}", bytes.len());
    Ok(module)
}

/// Removes the exports that Envoy need not call, and all that only they use.
fn slim(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut module = walrus::ModuleConfig::new().generate_name_section(false).parse(bytes)?;
    let superfluous: Vec<_> = module
        .exports
        .iter()
        .filter(|export| !EXPORTS.contains(&export.name.as_str()))
        .map(walrus::Export::id)
        .collect();
    for export in superfluous {
        module.exports.delete(export);
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

/// Checks that the module is small and needs nothing but proxy-wasm.
fn check(bytes: &[u8]) -> Result<()> {
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.context("the module is not valid")?;
        if let Payload::ImportSection(imports) = payload {
            for import in imports.into_imports() {
                let import = import?;
                if import.module != "env" || !import.name.starts_with("proxy_") {
                    bail!("the module imports `{}.{}`, which is not proxy-wasm", import.module, import.name);
                }
            }
        } else if let Payload::ExportSection(section) = payload {
            for export in section {
                exports.push(export?.name);
            }
        }
    }
    for needed in ["_initialize", "proxy_abi_version_0_2_1", "proxy_on_configure", "proxy_on_new_connection"]
    {
        ensure!(exports.contains(&needed), "the module does not export `{needed}`");
    }
    ensure!(
        bytes.len() <= MAX_MODULE_SIZE,
        "the module has {} bytes, more than {MAX_MODULE_SIZE}",
        bytes.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(import: (&str, &str), padding: usize) -> Vec<u8> {
        let mut module = walrus::Module::default();
        let ty = module.types.add(&[], &[]);
        let (function, _) = module.add_import_func(import.0, import.1, ty);
        for name in EXPORTS.iter().skip(1).chain(&["proxy_on_log"]) {
            module.exports.add(name, function);
        }
        let memory = module.memories.add_local(false, false, 32, None, None);
        module.exports.add("memory", memory);
        module.data.add(
            walrus::DataKind::Active { memory, offset: walrus::ConstExpr::Value(walrus::ir::Value::I32(0)) },
            vec![7; padding],
        );
        module.emit_wasm()
    }

    #[test]
    fn a_module_is_slimmed_and_checked() {
        let good = slim(&module(("env", "proxy_log"), 10)).expect("valid");
        check(&good).expect("good");
        assert!(!String::from_utf8_lossy(&good).contains("proxy_on_log"));
    }

    #[test]
    fn what_a_module_must_not_be() {
        for (case, bytes, expected) in [
            (
                "an import of WASI",
                module(("wasi_snapshot_preview1", "fd_write"), 0),
                "which is not proxy-wasm",
            ),
            ("another import", module(("env", "abort"), 0), "which is not proxy-wasm"),
            (
                "too large",
                module(("env", "proxy_log"), MAX_MODULE_SIZE),
                &format!("more than {MAX_MODULE_SIZE}"),
            ),
            ("no module", b"\0asm".to_vec(), "not valid"),
        ] {
            let error = check(&bytes).expect_err(case);
            assert!(format!("{error:#}").contains(expected), "{case}: {error:#}");
        }
    }
}
