//! The flow database: a copy of the flow table in SQLite, which survives a restart. Queries are answered from the table.

#[cfg(test)]
mod tests;
mod writer;

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use egress_policy::Identity;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

pub use self::writer::FlowWriter;
use super::table::{Evicted, FlowTable};
use super::{DecisionRecord, Flow, RequestSample};

/// The schema version of the database (`PRAGMA user_version`).
const SCHEMA_VERSION: i64 = 1;
/// The application id of a flow database (`PRAGMA application_id`): "egrs".
const APPLICATION_ID: i64 = 0x6567_7273;
/// The time to wait for the lock of another process: a control plane that is stopping releases it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of flows that are copied at once under the table's lock.
const COPY_BATCH_SIZE: usize = 1_000;
/// The limit of sequence numbers and rows: JSON readers that use doubles count exactly up to here.
const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// The database file.
#[derive(Debug)]
pub struct FlowDatabase {
    path: PathBuf,
    /// The open file; `None` between two attempts to make it again after it has disappeared.
    file: Option<OpenFile>,
    /// The sequence number of the last change in the file; `None` if its content is not known.
    saved_sequence: Option<u64>,
}

/// The connection to a database file.
#[derive(Debug)]
struct OpenFile {
    connection: Connection,
    /// Device and inode. If the file was moved away, SQLite goes on writing to it, and no restart reads it.
    file_id: (u64, u64),
}

impl FlowDatabase {
    /// Opens or creates the file, and restores its flows into the table. A damaged file is moved aside and replaced: lost
    /// flows must not keep a control plane from serving policy.
    ///
    /// # Errors
    /// Fails when the file is no flow database, is in use, or cannot be written.
    pub fn open_and_restore(path: &Path, table: &FlowTable) -> Result<Self> {
        let restore = || -> Result<Self> {
            let mut database = Self::open(path)?;
            database.restore_into(table)?;
            Ok(database)
        };
        let error = match restore() {
            Err(error) if error.is::<Damaged>() => error,
            result => return result,
        };
        let aside = move_aside(path).with_context(|| format_failure(path))?;
        tracing::warn!(error = format!("{error:#}"), moved_to = %aside.display(), "the flow database is damaged and was moved away; flows start empty");
        restore()
    }

    /// Opens or creates the file, and locks it until this value is dropped.
    ///
    /// # Errors
    /// Fails when the file is no flow database, is damaged or in use, or cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        // SQLite gives some names that are no absolute paths a meaning of their own.
        let path = std::path::absolute(path).with_context(|| format_failure(path))?;
        let file = OpenFile::open(&path).with_context(|| format_failure(&path))?;
        Ok(Self { path, file: Some(file), saved_sequence: None })
    }

    /// Restores the flows of the file into the table.
    ///
    /// # Errors
    /// Fails when the file is damaged.
    pub fn restore_into(&mut self, table: &FlowTable) -> Result<()> {
        let rows = self.read_rows().with_context(|| format_failure(&self.path))?;
        self.saved_sequence = Some(table.restore(rows));
        Ok(())
    }

    /// Saves the changes since the last call.
    ///
    /// # Errors
    /// Fails when the file cannot be written. The next call saves these changes too.
    pub fn save(&mut self, table: &FlowTable) -> Result<()> {
        let evicted = table.take_evicted();
        let result = self.write_changes(table, &evicted);
        if result.is_err() {
            table.put_back_evicted(evicted);
        }
        result.with_context(|| format_failure(&self.path))
    }

    fn read_rows(&self) -> Result<Vec<(u64, Flow)>> {
        let connection = &self.file.as_ref().context("the file is not open")?.connection;
        let mut statement = connection.prepare("SELECT id, flow FROM flows").map_err(with_remedy)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(with_remedy)?;
        let mut flows = Vec::new();
        for row in rows {
            let (id, text): (i64, String) = row.map_err(with_remedy)?;
            let row = u64::try_from(id).ok().filter(|row| *row < MAX_SAFE_INTEGER);
            let row = row.with_context(|| format!("row {id} is out of range")).context(Damaged)?;
            let flow = parse_flow(&text).with_context(|| format!("row {id} is no flow")).context(Damaged)?;
            flows.push((row, flow));
        }
        flows.sort_by_key(|(_, flow)| flow.sequence);
        Ok(flows)
    }

    fn write_changes(&mut self, table: &FlowTable, evicted: &Evicted) -> Result<()> {
        if self.file.as_ref().is_none_or(|file| file_id(&self.path) != Some(file.file_id)) {
            // Close the old file first: closing removes its journal, which has the name of the new one's.
            self.file = None;
            self.saved_sequence = None;
            self.file = Some(OpenFile::open(&self.path)?);
        }
        let Some(OpenFile { connection, .. }) = &mut self.file else { bail!("the file is not open") };
        let until = table.sequence();
        let saved = if evicted.is_overflow { None } else { self.saved_sequence };
        if saved == Some(until) && evicted.rows.is_empty() {
            return Ok(());
        }
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(with_remedy)?;
        if saved.is_none() {
            transaction.execute("DELETE FROM flows", []).map_err(with_remedy)?;
        }
        {
            let mut delete = transaction.prepare("DELETE FROM flows WHERE id = ?1").map_err(with_remedy)?;
            for row in &evicted.rows {
                delete.execute(params![row_id(*row)?]).map_err(with_remedy)?;
            }
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO flows (id, flow) VALUES (?1, ?2)")
                .map_err(with_remedy)?;
            let mut after = saved.unwrap_or(0);
            // Changes after `until` are saved by the next call.
            while after < until {
                let changed = table.changed_since(after, COPY_BATCH_SIZE);
                let Some((_, last)) = changed.last() else { break };
                after = last.sequence;
                for (row, flow) in &changed {
                    insert
                        .execute(params![row_id(*row)?, serde_json::to_string(flow)?])
                        .map_err(with_remedy)?;
                }
            }
        }
        transaction.commit().map_err(with_remedy)?;
        self.saved_sequence = Some(until);
        Ok(())
    }
}

impl OpenFile {
    fn open(path: &Path) -> Result<Self> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                ensure!(fs::metadata(path)?.is_file(), "it is not a regular file: name another file");
                // By name: opening and closing the file would release a lock that this process may hold on it.
                fs::set_permissions(path, Permissions::from_mode(0o600))
                    .context("its mode cannot be set to 0600, so others could read it")?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("its folder does not exist: create it, or name another file")
            }
            Err(error) => bail!("it cannot be created ({error}): name a file in a writable folder"),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(with_remedy)?;
        configure(&connection).map_err(with_remedy)?;
        check_schema(&connection)?;
        let file_id = file_id(path).context("it disappeared while it was opened")?;
        Ok(Self { connection, file_id })
    }
}

/// The device and inode of a file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Configures a connection, and locks the file.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Set before the journal mode: then the file stays locked while it is open, and WAL needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A crash of this process loses no commit; a crash of the machine may lose the last ones.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", 1 << 20, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // This takes the lock.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
}

/// Creates the schema in an empty database, and refuses a database of another program or of a newer version.
fn check_schema(connection: &Connection) -> Result<()> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) =
        (pragma("user_version").map_err(with_remedy)?, pragma("application_id").map_err(with_remedy)?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(with_remedy)?;
    if (version, application, tables) == (0, 0, 0) {
        return connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE flows (id INTEGER PRIMARY KEY, flow TEXT NOT NULL) STRICT;
                 PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = {SCHEMA_VERSION};
                 COMMIT"
            ))
            .map_err(with_remedy);
    }
    ensure!(application == APPLICATION_ID, "it is the database of another program: name another file");
    ensure!(
        version <= SCHEMA_VERSION,
        "a newer osm-egress wrote it (schema version {version}; this version reads up to {SCHEMA_VERSION}): use that \
         version, or name another file"
    );
    let damage: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(with_remedy)?;
    if damage != "ok" {
        return Err(anyhow!("{}", damage.lines().next().unwrap_or_default()).context(Damaged));
    }
    Ok(())
}

fn row_id(row: u64) -> Result<i64> {
    i64::try_from(row).context("there are no row numbers left")
}

/// Parses a stored flow, and checks it: its text is shown to users without another check.
fn parse_flow(text: &str) -> Result<Flow> {
    let flow: Flow = serde_json::from_str(text)?;
    flow.identity.parse::<Identity>()?;
    ensure!(text_fields(&flow).all(is_plain), "it contains characters that no flow contains");
    ensure!(flow.name.is_some() || flow.addresses.len() == 1, "it has neither a name nor one address");
    ensure!(flow.sequence < MAX_SAFE_INTEGER, "its sequence is too high");
    Ok(flow)
}

/// The text that workloads and users chose.
fn text_fields(flow: &Flow) -> impl Iterator<Item = &str> {
    let DecisionRecord { reason, policy, rule, would_refuse, verdict: _ } = &flow.decision;
    let optional = [Some(reason), policy.as_ref(), rule.as_ref(), would_refuse.as_ref(), flow.name.as_ref()];
    let requests = flow.requests.iter().flat_map(|RequestSample { method, path, upgrade, count: _ }| {
        [Some(method), Some(path), upgrade.as_ref()].into_iter().flatten()
    });
    optional.into_iter().flatten().chain(&flow.nodes).chain(requests).map(String::as_str)
}

/// Returns true if a text is as [`egress_core::sanitize`] leaves it.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '…')
}

/// The error of a flow database with invalid content.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the file is damaged: move it away to start with no flows")]
struct Damaged;

/// Moves a damaged file and its journal aside.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let named = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let aside = named(".damaged");
    match fs::rename(named("-wal"), named(".damaged-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn format_failure(path: &Path) -> String {
    format!("cannot keep flows in {}", path.display())
}

/// Adds the remedy to an error of SQLite.
fn with_remedy(error: rusqlite::Error) -> anyhow::Error {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is not a database: name another file",
        Some(ErrorCode::DatabaseCorrupt) => return anyhow::Error::new(error).context(Damaged),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process uses it: each control plane needs its own file"
        }
        Some(ErrorCode::DiskFull) => "the disk is full: free some space",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "it cannot be written: name a file in a writable folder on a local disk"
        }
        _ => return anyhow::Error::new(error),
    };
    anyhow::Error::new(error).context(advice)
}
