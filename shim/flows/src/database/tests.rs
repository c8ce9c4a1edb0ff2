use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{Keeper, Store};
use crate::memory::{Filter, Limit, Memory};
use crate::suggest::Suggestion;
use crate::{Flow, Observation};

fn memory(per_identity: usize) -> Memory {
    Memory::new(NonZeroUsize::new(per_identity).expect("not zero"))
}

fn see(memory: &Memory, whose: &str, name: &str) {
    let to = "192.0.2.1:443".parse().expect("an address");
    let seen = Observation::connection("deny sni-not-allowed - -", to, None, Some(name));
    assert!(seen.is_some());
    memory.record(&whose.parse().expect("an identity"), "p", Timestamp::now(), vec![seen]);
}

fn all(memory: &Memory) -> Vec<Flow> {
    memory.flows(&Filter { limit: Limit::MOST, ..Filter::default() }).flows
}

fn names(memory: &Memory) -> Vec<(String, u64)> {
    all(memory).into_iter().map(|flow| (flow.name.unwrap_or_default(), flow.count)).collect()
}

/// A file as a control plane opens it, and what it remembers then.
fn opened(path: &Path, per_identity: usize) -> (Store, Memory) {
    let memory = memory(per_identity);
    let mut store = Store::open(path).expect("it opens");
    store.load(&memory).expect("it is read");
    (store, memory)
}

fn rows(path: &Path) -> i64 {
    let connection = Connection::open(path).expect("it opens");
    connection.query_row("SELECT count(*) FROM flows", [], |row| row.get(0)).expect("a number")
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("flows.db");
    (folder, path)
}

#[test]
fn what_is_written_comes_back() {
    let (_folder, path) = file();
    let (mut store, before) = opened(&path, 100);
    let to = "[2001:db8::1]:80".parse().expect("an address");
    let hostile = "\u{1b}[2J\u{202e}<b>\r\n- evil";
    let request = |path| {
        Observation::request(
            Some("allow audit - - host-not-allowed"),
            to,
            hostile,
            ("GET", path, Some(hostile)),
            None,
        )
    };
    let app = "shop/app".parse().expect("an identity");
    for path in ["/a", "/b", hostile, "/d", "/e"] {
        before.record(&app, hostile, Timestamp::now(), vec![request(path)]);
    }
    before.record(
        &app,
        "p",
        Timestamp::now(),
        vec![Observation::connection("deny no-rule - -", to, None, None)],
    );
    see(&before, "shop/app", "a.org");
    store.save(&before).expect("it is written");
    let expected = all(&before);
    assert_eq!(expected.len(), 3);
    drop(store);

    let (mut store, after) = opened(&path, 100);
    assert_eq!(all(&after), expected);
    let suggested = |memory: &Memory| Suggestion::of(&app, &all(memory)).yaml();
    assert_eq!(suggested(&after), suggested(&before));
    // Counts and numbers go on, also beyond those that were not written.
    let last = before.sequence();
    see(&before, "shop/app", "lost.org");
    see(&after, "shop/app", "a.org");
    let news = after.flows(&Filter { after: last + 1, ..Filter::default() }).flows;
    assert_eq!(
        news.iter().map(|flow| (flow.name.as_deref(), flow.count)).collect::<Vec<_>>(),
        [(Some("a.org"), 2)]
    );
    store.save(&after).expect("it is written");
    drop(store);
    assert_eq!(all(&opened(&path, 100).1), all(&after));
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_is_forgotten_is_deleted() {
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 10);
    for round in 0..5 {
        for number in 0..30 {
            see(&memory, "shop/app", &format!("n{}.org", round * 7 + number));
        }
        store.save(&memory).expect("it is written");
    }
    let expected = all(&memory);
    drop(store);
    assert_eq!(rows(&path), 10);
    let (mut store, memory) = opened(&path, 10);
    assert_eq!(all(&memory), expected);
    // With a lower bound the file follows.
    drop((store, memory));
    let (lower, fewer) = opened(&path, 3);
    assert_eq!(all(&fewer), expected[7..]);
    assert_eq!(fewer.counts.dropped.load(Ordering::Relaxed), 7);
    store = lower;
    store.save(&fewer).expect("it is written");
    drop(store);
    assert_eq!(rows(&path), 3);
}

/// More is forgotten between two times of writing than is worth a list.
#[test]
fn everything_anew() {
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 5);
    see(&memory, "shop/other", "stays.org");
    for number in 0..10 {
        see(&memory, "shop/app", &format!("n{number}.org"));
    }
    store.save(&memory).expect("it is written");
    for number in 0..100_100 {
        see(&memory, "shop/app", &format!("n{}.org", 20 + number));
    }
    store.save(&memory).expect("it is written");
    drop(store);
    assert_eq!(all(&opened(&path, 5).1), all(&memory));
    assert_eq!(rows(&path), 6);
}

fn refused(path: &Path) -> String {
    let opened = Store::open(path).and_then(|mut store| store.load(&memory(10)));
    format!("{:#}", opened.expect_err("it is refused"))
}

/// A database of flows that was changed by hand.
fn changed(sql: &str) -> String {
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 10);
    see(&memory, "shop/app", "a.org");
    store.save(&memory).expect("it is written");
    drop(store);
    Connection::open(&path).and_then(|connection| connection.execute_batch(sql)).expect("it can be changed");
    refused(&path)
}

#[test]
fn no_file_of_flows() {
    let (folder, path) = file();
    fs::write(&path, "flows: none\n".repeat(1000)).expect("a file");
    let said = refused(&path);
    assert!(said.contains("flows.db: it is no database: name another file"), "{said}");
    // Nothing was done to it.
    assert!(fs::read_to_string(&path).expect("a file").starts_with("flows: none\n"));
    let said = refused(folder.path());
    assert!(said.contains("it is no file"), "{said}");
    let said = refused(&folder.path().join("missing/flows.db"));
    assert!(said.contains("its folder does not exist"), "{said}");
    // Where nobody can make a file, whoever he is.
    let said = refused(Path::new("/proc/self/flows.db"));
    assert!(said.contains("cannot keep flows in /proc/self/flows.db"), "{said}");
    std::os::unix::fs::symlink(&path, folder.path().join("link")).expect("a link");
    let said = refused(&folder.path().join("link"));
    assert!(said.contains("cannot keep flows"), "{said}");
    let other = folder.path().join("other.db");
    Connection::open(&other)
        .and_then(|connection| connection.execute_batch("CREATE TABLE flows (id INTEGER)"))
        .expect("a database");
    let said = refused(&other);
    assert!(said.contains("it is a database of another program"), "{said}");
}

#[test]
fn a_file_that_cannot_be_believed() {
    for (sql, expected) in [
        ("PRAGMA user_version = 2", "a newer osm-egress wrote it (its schema is 2, this one knows 1)"),
        (
            "UPDATE flows SET flow = '{}'",
            "the file is damaged; move it away, and flows are learnt anew: row 1 of it",
        ),
        ("UPDATE flows SET id = -1", "it has a row -1"),
        (
            "UPDATE flows SET flow = json_set(flow, '$.sequence', 9007199254740992)",
            "its sequence is too high",
        ),
        ("UPDATE flows SET flow = json_set(flow, '$.identity', 'x')", "namespace/service-account"),
        (
            "UPDATE flows SET flow = json_set(flow, '$.name', char(27) || '[2J')",
            "characters that no flow has",
        ),
        (
            "UPDATE flows SET flow = json_set(flow, '$.name', NULL, '$.addresses', json('[]'))",
            "neither a name",
        ),
        ("DROP TABLE flows", "no such table"),
    ] {
        let said = changed(sql);
        assert!(said.contains(expected), "{sql}: {said}");
    }
    // Damage below SQLite.
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 10_000);
    for number in 0..2_000 {
        see(&memory, "shop/app", &format!("n{number}.org"));
    }
    store.save(&memory).expect("it is written");
    drop(store);
    let mut bytes = fs::read(&path).expect("a file");
    assert!(bytes.len() > 100_000, "{} bytes", bytes.len());
    for byte in bytes.iter_mut().skip(20_000).take(40_000) {
        *byte = 0xa5;
    }
    fs::write(&path, &bytes).expect("a file");
    let said = refused(&path);
    assert!(said.contains("the file is damaged; move it away"), "{said}");
    // Cut off.
    bytes.truncate(50_000);
    fs::write(&path, &bytes).expect("a file");
    let said = refused(&path);
    assert!(said.contains("the file is damaged; move it away"), "{said}");
}

/// A control plane starts all the same, and what was there is still there to be looked at.
#[test]
fn a_damaged_file_is_put_aside() {
    for damage in
        ["UPDATE flows SET flow = '{}'", "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 99"]
    {
        let (folder, path) = file();
        let (mut store, before) = opened(&path, 10);
        see(&before, "shop/app", "a.org");
        store.save(&before).expect("it is written");
        drop(store);
        Connection::open(&path)
            .and_then(|connection| connection.execute_batch(damage))
            .expect("it can be changed");
        let after = memory(10);
        let mut store = Store::restored(&path, &after).expect("it is made anew");
        assert!(after.is_empty());
        see(&after, "shop/app", "b.org");
        store.save(&after).expect("it is written");
        drop(store);
        assert_eq!(rows(&path), 1);
        assert!(folder.path().join("flows.db.damaged").is_file());
    }
    // What is not ours stays where it is.
    let (_folder, path) = file();
    fs::write(&path, "flows: none\n".repeat(1000)).expect("a file");
    Store::restored(&path, &memory(10)).expect_err("it is no database");
    assert!(path.is_file());
}

#[test]
fn one_control_plane_only() {
    let (_folder, path) = file();
    let (store, _memory) = opened(&path, 10);
    let said = refused(&path);
    assert!(said.contains("another process has it: each control plane needs a file of its own"), "{said}");
    drop(store);
    opened(&path, 10);
}

/// On a full disk nothing is lost but time; what could not be written is written when there is room.
#[test]
fn a_full_disk() {
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 1_000);
    see(&memory, "shop/app", "first.org");
    store.save(&memory).expect("it is written");
    let limit = |store: &Store, pages: i64| {
        let connection = &store.open.as_ref().expect("it is open").connection;
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a limit");
    };
    limit(&store, 3);
    for number in 0..1_500 {
        see(&memory, "shop/app", &format!("n{number}.org"));
    }
    for _ in 0..2 {
        let said = format!("{:#}", store.save(&memory).expect_err("it is full"));
        assert!(said.contains("flows.db: the disk is full: make room"), "{said}");
    }
    assert_eq!(names(&memory).len(), 1_000);
    limit(&store, 1 << 20);
    store.save(&memory).expect("it is written");
    drop(store);
    assert_eq!(all(&opened(&path, 1_000).1), all(&memory));
}

/// A file that is moved away under a control plane is made again, with all that is remembered.
#[test]
fn a_file_that_goes_away() {
    let (folder, path) = file();
    let (mut store, memory) = opened(&path, 10);
    see(&memory, "shop/app", "a.org");
    store.save(&memory).expect("it is written");
    fs::remove_file(&path).expect("it goes");
    store.save(&memory).expect("it is written again");
    fs::rename(folder.path(), folder.path().with_extension("moved")).expect("it moves");
    see(&memory, "shop/app", "b.org");
    let said = format!("{:#}", store.save(&memory).expect_err("there is no folder"));
    assert!(said.contains("its folder does not exist"), "{said}");
    fs::create_dir(folder.path()).expect("a folder");
    store.save(&memory).expect("it is written again");
    drop(store);
    fs::remove_dir_all(folder.path().with_extension("moved")).expect("it goes");
    assert_eq!(all(&opened(&path, 10).1), all(&memory));
}

#[test]
fn a_thread_that_writes() {
    let (_folder, path) = file();
    let (store, memory) = opened(&path, 100);
    let memory = Arc::new(memory);
    let keeper = Keeper::start(store, Arc::clone(&memory)).expect("a thread");
    see(&memory, "shop/app", "a.org");
    assert!(keeper.stop(std::time::Duration::from_secs(20)));
    assert_eq!(all(&opened(&path, 100).1), all(&memory));
    // What cannot be written at the end is said, and counted.
    let (store, memory) = opened(&path, 100);
    let memory = Arc::new(memory);
    fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("a folder in its place");
    let keeper = Keeper::start(store, Arc::clone(&memory)).expect("a thread");
    assert!(keeper.stop(std::time::Duration::from_secs(20)));
    assert_eq!(memory.counts.db_errors.load(Ordering::Relaxed), 1);
}

/// Flows change while they are written.
#[test]
fn written_while_it_changes() {
    let (_folder, path) = file();
    let (mut store, memory) = opened(&path, 500);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for number in 0..20_000_u64 {
                see(&memory, "shop/app", &format!("n{}.org", number * 7_919 % 1_301));
            }
        });
        while !changes.is_finished() {
            store.save(&memory).expect("it is written");
        }
    });
    store.save(&memory).expect("it is written");
    drop(store);
    assert_eq!(rows(&path), 500);
    assert_eq!(all(&opened(&path, 500).1), all(&memory));
}
