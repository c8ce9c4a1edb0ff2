use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{FlowDatabase, FlowWriter};
use crate::suggest::Suggestion;
use crate::table::{FlowQuery, FlowTable, PageLimit};
use crate::{Flow, Observation};

fn new_table(max_per_identity: usize) -> FlowTable {
    FlowTable::new(NonZeroUsize::new(max_per_identity).expect("not zero"))
}

fn record(table: &FlowTable, identity: &str, name: &str) {
    let destination = "192.0.2.1:443".parse().expect("an address");
    let decision = "deny sni-not-allowed - -".parse().expect("a decision");
    let observation = Observation::from_connection(decision, destination, None, Some(name));
    table.record(&identity.parse().expect("an identity"), "p", Timestamp::now(), vec![Some(observation)]);
}

fn list(table: &FlowTable) -> Vec<Flow> {
    table.list_page(&FlowQuery { limit: PageLimit::MAX, ..FlowQuery::default() }).flows
}

/// Opens a file as a control plane does, and restores its flows.
fn open(path: &Path, max_per_identity: usize) -> (FlowDatabase, FlowTable) {
    let table = new_table(max_per_identity);
    let mut database = FlowDatabase::open(path).expect("it opens");
    database.restore_into(&table).expect("it is read");
    (database, table)
}

fn count_rows(path: &Path) -> i64 {
    let connection = Connection::open(path).expect("it opens");
    connection.query_row("SELECT count(*) FROM flows", [], |row| row.get(0)).expect("a number")
}

fn temporary_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("flows.db");
    (folder, path)
}

#[test]
fn saved_flows_are_restored() {
    let (_folder, path) = temporary_file();
    let (mut database, before) = open(&path, 100);
    let destination = "[2001:db8::1]:80".parse().expect("an address");
    let hostile = "\u{1b}[2J\u{202e}<b>\r\n- evil";
    let request = |path| {
        Observation::from_request(
            "allow audit - - host-not-allowed".parse().ok(),
            destination,
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
        vec![Some(Observation::from_connection(
            "deny no-rule - -".parse().expect("a decision"),
            destination,
            None,
            None,
        ))],
    );
    record(&before, "shop/app", "a.org");
    database.save(&before).expect("it is written");
    let expected = list(&before);
    assert_eq!(expected.len(), 3);
    drop(database);

    let (mut database, after) = open(&path, 100);
    assert_eq!(list(&after), expected);
    let suggested = |table: &FlowTable| Suggestion::for_identity(&app, &list(table)).to_yaml();
    assert_eq!(suggested(&after), suggested(&before));
    // Counts and sequence numbers go on, also beyond changes that were not saved.
    let last = before.sequence();
    record(&before, "shop/app", "lost.org");
    record(&after, "shop/app", "a.org");
    let changed = after.list_page(&FlowQuery { after: last + 1, ..FlowQuery::default() }).flows;
    assert_eq!(
        changed.iter().map(|flow| (flow.name.as_deref(), flow.count)).collect::<Vec<_>>(),
        [(Some("a.org"), 2)]
    );
    database.save(&after).expect("it is written");
    drop(database);
    assert_eq!(list(&open(&path, 100).1), list(&after));
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[test]
fn evicted_flows_are_deleted_from_the_database() {
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 10);
    for round in 0..5 {
        for number in 0..30 {
            record(&table, "shop/app", &format!("n{}.org", round * 7 + number));
        }
        database.save(&table).expect("it is written");
    }
    let expected = list(&table);
    drop(database);
    assert_eq!(count_rows(&path), 10);
    let (mut database, table) = open(&path, 10);
    assert_eq!(list(&table), expected);
    // A lower limit applies to the file too.
    drop((database, table));
    let (lower, fewer) = open(&path, 3);
    assert_eq!(list(&fewer), expected[7..]);
    assert_eq!(fewer.counters.dropped.load(Ordering::Relaxed), 7);
    database = lower;
    database.save(&fewer).expect("it is written");
    drop(database);
    assert_eq!(count_rows(&path), 3);
}

/// More flows are evicted between two writes than the list of evicted rows holds.
#[test]
fn too_many_evictions_rewrite_the_database() {
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 5);
    record(&table, "shop/other", "stays.org");
    for number in 0..10 {
        record(&table, "shop/app", &format!("n{number}.org"));
    }
    database.save(&table).expect("it is written");
    for number in 0..100_100 {
        record(&table, "shop/app", &format!("n{}.org", 20 + number));
    }
    database.save(&table).expect("it is written");
    drop(database);
    assert_eq!(list(&open(&path, 5).1), list(&table));
    assert_eq!(count_rows(&path), 6);
}

/// The error of opening a file.
fn open_error(path: &Path) -> String {
    let result = FlowDatabase::open(path).and_then(|mut database| database.restore_into(&new_table(10)));
    format!("{:#}", result.expect_err("it is refused"))
}

/// The error of opening a flow database after an SQL statement has changed it.
fn error_after_change(sql: &str) -> String {
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 10);
    record(&table, "shop/app", "a.org");
    database.save(&table).expect("it is written");
    drop(database);
    Connection::open(&path).and_then(|connection| connection.execute_batch(sql)).expect("it can be changed");
    open_error(&path)
}

#[test]
fn a_file_that_is_no_flow_database_is_refused_and_not_changed() {
    let (folder, path) = temporary_file();
    fs::write(&path, "flows: none\n".repeat(1000)).expect("a file");
    let message = open_error(&path);
    assert!(message.contains("flows.db: it is not a database: name another file"), "{message}");
    // The file is not changed.
    assert!(fs::read_to_string(&path).expect("a file").starts_with("flows: none\n"));
    let message = open_error(folder.path());
    assert!(message.contains("it is not a regular file"), "{message}");
    let message = open_error(&folder.path().join("missing/flows.db"));
    assert!(message.contains("its folder does not exist"), "{message}");
    // No user can create a file here, not even root.
    let message = open_error(Path::new("/proc/self/flows.db"));
    assert!(message.contains("cannot keep flows in /proc/self/flows.db"), "{message}");
    std::os::unix::fs::symlink(&path, folder.path().join("link")).expect("a link");
    let message = open_error(&folder.path().join("link"));
    assert!(message.contains("cannot keep flows"), "{message}");
    let other = folder.path().join("other.db");
    Connection::open(&other)
        .and_then(|connection| connection.execute_batch("CREATE TABLE flows (id INTEGER)"))
        .expect("a database");
    let message = open_error(&other);
    assert!(message.contains("it is the database of another program"), "{message}");
}

#[test]
fn a_damaged_file_is_refused_with_the_reason() {
    for (sql, expected) in [
        (
            "PRAGMA user_version = 2",
            "a newer osm-egress wrote it (schema version 2; this version reads up to 1)",
        ),
        (
            "UPDATE flows SET flow = '{}'",
            "the file is damaged: move it away to start with no flows: row 1 is no flow",
        ),
        ("UPDATE flows SET id = -1", "row -1 is out of range"),
        (
            "UPDATE flows SET flow = json_set(flow, '$.sequence', 9007199254740992)",
            "its sequence is too high",
        ),
        ("UPDATE flows SET flow = json_set(flow, '$.identity', 'x')", "namespace/service-account"),
        (
            "UPDATE flows SET flow = json_set(flow, '$.name', char(27) || '[2J')",
            "characters that no flow contains",
        ),
        (
            "UPDATE flows SET flow = json_set(flow, '$.name', NULL, '$.addresses', json('[]'))",
            "neither a name",
        ),
        ("DROP TABLE flows", "no such table"),
    ] {
        let message = error_after_change(sql);
        assert!(message.contains(expected), "{sql}: {message}");
    }
    // Overwritten pages.
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 10_000);
    for number in 0..2_000 {
        record(&table, "shop/app", &format!("n{number}.org"));
    }
    database.save(&table).expect("it is written");
    drop(database);
    let mut bytes = fs::read(&path).expect("a file");
    assert!(bytes.len() > 100_000, "{} bytes", bytes.len());
    for byte in bytes.iter_mut().skip(20_000).take(40_000) {
        *byte = 0xa5;
    }
    fs::write(&path, &bytes).expect("a file");
    let message = open_error(&path);
    assert!(message.contains("the file is damaged: move it away"), "{message}");
    // A truncated file.
    bytes.truncate(50_000);
    fs::write(&path, &bytes).expect("a file");
    let message = open_error(&path);
    assert!(message.contains("the file is damaged: move it away"), "{message}");
}

/// A control plane starts in spite of a damaged file, which stays there for inspection.
#[test]
fn a_damaged_file_is_moved_aside() {
    for damage in
        ["UPDATE flows SET flow = '{}'", "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 99"]
    {
        let (folder, path) = temporary_file();
        let (mut database, before) = open(&path, 10);
        record(&before, "shop/app", "a.org");
        database.save(&before).expect("it is written");
        drop(database);
        Connection::open(&path)
            .and_then(|connection| connection.execute_batch(damage))
            .expect("it can be changed");
        let after = new_table(10);
        let mut database = FlowDatabase::open_and_restore(&path, &after).expect("it is created again");
        assert!(after.is_empty());
        record(&after, "shop/app", "b.org");
        database.save(&after).expect("it is written");
        drop(database);
        assert_eq!(count_rows(&path), 1);
        assert!(folder.path().join("flows.db.damaged").is_file());
    }
    // A file of another program stays where it is.
    let (_folder, path) = temporary_file();
    fs::write(&path, "flows: none\n".repeat(1000)).expect("a file");
    FlowDatabase::open_and_restore(&path, &new_table(10)).expect_err("it is no database");
    assert!(path.is_file());
}

#[test]
fn a_second_control_plane_cannot_open_the_file() {
    let (_folder, path) = temporary_file();
    let (database, _memory) = open(&path, 10);
    let message = open_error(&path);
    assert!(message.contains("another process uses it: each control plane needs its own file"), "{message}");
    drop(database);
    open(&path, 10);
}

/// Flows that could not be saved are saved as soon as there is space.
#[test]
fn a_full_disk_loses_no_flow() {
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 1_000);
    record(&table, "shop/app", "first.org");
    database.save(&table).expect("it is written");
    let limit = |database: &FlowDatabase, pages: i64| {
        let connection = &database.file.as_ref().expect("it is open").connection;
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a limit");
    };
    limit(&database, 3);
    for number in 0..1_500 {
        record(&table, "shop/app", &format!("n{number}.org"));
    }
    for _ in 0..2 {
        let message = format!("{:#}", database.save(&table).expect_err("it is full"));
        assert!(message.contains("flows.db: the disk is full: free some space"), "{message}");
    }
    assert_eq!(list(&table).len(), 1_000);
    limit(&database, 1 << 20);
    database.save(&table).expect("it is written");
    drop(database);
    assert_eq!(list(&open(&path, 1_000).1), list(&table));
}

/// A file that is deleted or moved away is created again, with all flows of the table.
#[test]
fn a_file_that_disappears_is_written_again() {
    let (folder, path) = temporary_file();
    let (mut database, table) = open(&path, 10);
    record(&table, "shop/app", "a.org");
    database.save(&table).expect("it is written");
    fs::remove_file(&path).expect("it goes");
    database.save(&table).expect("it is written again");
    fs::rename(folder.path(), folder.path().with_extension("moved")).expect("it moves");
    record(&table, "shop/app", "b.org");
    let message = format!("{:#}", database.save(&table).expect_err("there is no folder"));
    assert!(message.contains("its folder does not exist"), "{message}");
    fs::create_dir(folder.path()).expect("a folder");
    database.save(&table).expect("it is written again");
    drop(database);
    fs::remove_dir_all(folder.path().with_extension("moved")).expect("it goes");
    assert_eq!(list(&open(&path, 10).1), list(&table));
}

#[test]
fn the_writer_saves_when_it_stops() {
    let (_folder, path) = temporary_file();
    let (database, table) = open(&path, 100);
    let table = Arc::new(table);
    let writer = FlowWriter::start(database, Arc::clone(&table)).expect("a thread");
    record(&table, "shop/app", "a.org");
    assert!(writer.stop(std::time::Duration::from_secs(20)));
    assert_eq!(list(&open(&path, 100).1), list(&table));
    // A failure at the end is counted.
    let (database, table) = open(&path, 100);
    let table = Arc::new(table);
    fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).expect("a folder in its place");
    let writer = FlowWriter::start(database, Arc::clone(&table)).expect("a thread");
    assert!(writer.stop(std::time::Duration::from_secs(20)));
    assert_eq!(table.counters.db_errors.load(Ordering::Relaxed), 1);
}

#[test]
fn changes_during_a_write_are_saved_by_the_next() {
    let (_folder, path) = temporary_file();
    let (mut database, table) = open(&path, 500);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for number in 0..20_000_u64 {
                record(&table, "shop/app", &format!("n{}.org", number * 7_919 % 1_301));
            }
        });
        while !changes.is_finished() {
            database.save(&table).expect("it is written");
        }
    });
    database.save(&table).expect("it is written");
    drop(database);
    assert_eq!(count_rows(&path), 500);
    assert_eq!(list(&open(&path, 500).1), list(&table));
}
