//! The playground: the module for browsers, its glue and the page, as files that any web server can give out.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;

use crate::{paths, tools};

/// The folder of the built page, from the repository's root.
const FOLDER: &str = "target/playground";
/// All files together: what a browser fetches.
const LARGEST: u64 = 1_000_000;
const TARGET: &str = "wasm32-unknown-unknown";
/// The page as it is written, and what it is served as.
const FILES: [(&str, &str); 10] = [
    ("index.html", "text/html; charset=utf-8"),
    ("base.css", "text/css; charset=utf-8"),
    ("style.css", "text/css; charset=utf-8"),
    ("page.js", "text/javascript; charset=utf-8"),
    ("answer.js", "text/javascript; charset=utf-8"),
    ("editor.js", "text/javascript; charset=utf-8"),
    ("examples.js", "text/javascript; charset=utf-8"),
    ("icon.svg", "image/svg+xml"),
    (GLUE, "text/javascript; charset=utf-8"),
    (MODULE, "application/gzip"),
];
const GLUE: &str = "egress_playground.js";
/// The module is compressed here, because not every web server does it; the page decompresses it.
const MODULE: &str = "egress_playground.wasm.gz";
/// The page's own policy, and a ban on frames, which only a header can express.
const HEADERS: &str = "content-security-policy: default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
    style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    cache-control: no-cache\r\nconnection: close\r\n";

/// Builds the page.
pub(crate) fn build(root: &Path) -> Result<()> {
    println!("building the playground");
    tools::add_rust_target(TARGET)?;
    let mut flags = vec!["-Cllvm-args=-inline-threshold=3".to_owned()];
    flags.extend(paths::remapped(root)?);
    let arguments =
        ["build", "--quiet", "--package", "egress-playground", "--profile", "browser", "--target", TARGET];
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(arguments)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the playground does not build");
    let compiled = root.join("target").join(TARGET).join("browser/egress_playground.wasm");
    let mut output = Bindgen::new()
        .input_path(&compiled)
        .web(true)?
        .typescript(false)
        .omit_default_module_path(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate_output()
        .with_context(|| format!("no glue for {}", compiled.display()))?;
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    for (name, _) in FILES.iter().filter(|(name, _)| ![GLUE, MODULE].contains(name)) {
        fs::copy(root.join("playground/page").join(name), folder.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
    }
    fs::write(folder.join(GLUE), output.js())?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&output.wasm_mut().emit_wasm())?;
    fs::write(folder.join(MODULE), packed.finish()?)?;
    let mut sum = 0;
    for (name, _) in FILES {
        sum += fs::metadata(folder.join(name))?.len();
    }
    println!("  {FOLDER}: {sum} bytes of at most {LARGEST}");
    ensure!(sum <= LARGEST, "the playground has {sum} bytes, more than {LARGEST}");
    Ok(())
}

/// Serves the page until the program is stopped.
pub(crate) fn serve(root: &Path, listen: SocketAddr) -> Result<()> {
    ensure!(listen.ip().is_loopback(), "{listen} is not on loopback: to publish it, use a web server");
    let folder = root.join(FOLDER);
    ensure!(folder.join(MODULE).is_file(), "{} is not built", folder.display());
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    println!("http://{}/", listener.local_addr()?);
    for stream in listener.incoming() {
        let folder = folder.clone();
        // Whoever goes away before the end gets nothing.
        std::thread::spawn(move || stream.map(|stream| answer(stream, &folder)));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(64 << 10)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    // A connection that is closed before everything was read ends with a reset.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.strip_prefix("GET /").and_then(|rest| rest.split([' ', '?']).next());
    let name = path.map(|path| if path.is_empty() { "index.html" } else { path });
    // Only what is listed: no path of a request reaches the file system.
    let file = FILES.iter().find(|(file, _)| Some(*file) == name);
    let (status, kind, body) = match file {
        Some((file, kind)) => ("200 OK", *kind, fs::read(folder.join(file))?),
        None => ("404 Not Found", "text/plain", b"there is no such file\n".to_vec()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{HEADERS}\r\n")?;
    stream.write_all(&body)
}
