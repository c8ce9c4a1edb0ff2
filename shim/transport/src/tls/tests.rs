use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Generates a certificate and its key, as PEM.
fn pair(years: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.org".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2026 + years, 1, 1);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn files(folder: &Path) -> TlsFiles {
    let of = |name: &str| folder.join(name);
    TlsFiles {
        certificate: of("tls.crt"),
        key: of("tls.key"),
        client_ca: Some(of("ca.crt")),
        webhook_client_ca: None,
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("written");
}

#[test]
fn unusable_files_are_refused_with_a_reason() {
    let (certificate, key) = pair(30);
    let (expired, expired_key) = pair(-10);
    let (_, other_key) = pair(30);
    for (case, parts, expected) in [
        ("good", [&*certificate, &*key, &*certificate], None),
        ("no certificate", ["", &key, &certificate], Some("tls.crt has no certificate: expected PEM")),
        ("no key", [&certificate, &certificate, &certificate], Some("tls.key has no key: expected PEM")),
        ("no authority", [&certificate, &key, &key], Some("ca.crt has no certificate")),
        (
            "garbage",
            ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, &certificate],
            Some("tls.crt: "),
        ),
        ("a cut", [&certificate[..certificate.len() / 2], &key, &certificate], Some("tls.crt")),
        (
            "another's key",
            [&certificate, &other_key, &certificate],
            Some("does not belong to the certificate in"),
        ),
        ("expired", [&expired, &expired_key, &certificate], Some("expired on")),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in ["tls.crt", "tls.key", "ca.crt"].into_iter().zip(parts) {
            write(folder.path(), name, text);
        }
        let files = files(folder.path());
        let error = FileSnapshot::read(&files).build(&files).err().map(|error| error.to_string());
        match (error, expected) {
            (None, None) => {}
            (Some(error), Some(expected)) if error.contains(expected) => {}
            (error, expected) => panic!("{case}: {error:?} instead of {expected:?}"),
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path());
    let error = FileSnapshot::read(&files).build(&files).expect_err("nothing there").to_string();
    assert!(error.contains("cannot read") && error.contains("tls.crt"), "{error}");
}

/// Updates a volume as the kubelet does: a folder of files, and a link to the current folder.
fn swap(volume: &Path, version: &str, parts: [&str; 3]) {
    let folder = volume.join(version);
    fs::create_dir(&folder).expect("a folder");
    for (name, text) in ["tls.crt", "tls.key", "ca.crt"].into_iter().zip(parts) {
        write(&folder, name, text);
    }
    std::os::unix::fs::symlink(version, volume.join("..data_tmp")).expect("a link");
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("renamed");
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test]
async fn changed_files_are_reloaded() {
    let volume = tempfile::tempdir().expect("a folder");
    let (first, first_key) = pair(30);
    let (second, second_key) = pair(31);
    swap(volume.path(), "..1", [&first, &first_key, &first]);
    let tls = ServerTls::load_and_watch(files(&volume.path().join("..data"))).expect("good files");
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (began, previous) = (tls.certificate_expiry(), tls.xds());
    swap(volume.path(), "..2", [&second, &first_key, &first]);
    until("the broken pair to be seen", || count(&tls.counters().failures) == 1).await;
    assert_eq!(tls.certificate_expiry(), began, "a broken pair is in force");
    assert!(Arc::ptr_eq(&previous, &tls.xds()));
    swap(volume.path(), "..3", [&second, &second_key, &first]);
    until("the new pair to be in force", || count(&tls.counters().reloads) == 1).await;
    assert!(tls.certificate_expiry() > began);
    fs::remove_file(volume.path().join("..data")).expect("removed");
    until("the loss to be seen", || count(&tls.counters().failures) == 2).await;
    assert!(tls.certificate_expiry() > began, "what was lost is not in force");
}
