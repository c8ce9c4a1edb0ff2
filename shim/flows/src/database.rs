//! The file in which flows survive a restart: a copy of the memory, which stays what answers are made of.

mod keeper;
#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use egress_policy::Identity;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, params};

pub use self::keeper::Keeper;
use super::memory::{Gone, Memory};
use super::{Decided, Flow, Sample};

/// The version of the schema, as the file has it.
const SCHEMA: i64 = 1;
/// What marks a database as one of flows: "egrs".
const APPLICATION: i64 = 0x6567_7273;
/// How long another process may hold the file: one that is just stopping lets go of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many flows are copied at once under the memory's lock.
const BATCH: usize = 1_000;
/// Sequences and rows are lower: whoever counts further than this cannot say so in JSON.
const HIGHEST: u64 = 1 << 53;

/// The file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` between two attempts, where the file is gone.
    open: Option<Open>,
    /// The last change that it holds; `None`: what it holds is not known.
    saved: Option<u64>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    /// Device and inode: a file that was moved away is written to no end, and read by nobody.
    file: (u64, u64),
}

impl Store {
    /// Opens the file, or makes it, and gives the memory what it holds. A damaged one is put aside, and another begun:
    /// what is only remembered must not keep a control plane from serving policy.
    ///
    /// # Errors
    /// When it is no database of flows, is in use, or cannot be written.
    pub fn restored(path: &Path, memory: &Memory) -> Result<Self> {
        let restore = || -> Result<Self> {
            let mut store = Self::open(path)?;
            store.load(memory)?;
            Ok(store)
        };
        let error = match restore() {
            Err(error) if error.is::<Damaged>() => error,
            result => return result,
        };
        let aside = put_aside(path).with_context(|| failed(path))?;
        tracing::warn!(error = format!("{error:#}"), moved_to = %aside.display(), "flows are learnt anew");
        restore()
    }

    /// Opens the file, or makes it. No other process can until this is dropped.
    ///
    /// # Errors
    /// When it is no database of flows, is damaged or in use, or cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        // SQLite has a meaning for some names that are no paths.
        let path = std::path::absolute(path).with_context(|| failed(path))?;
        let open = Open::new(&path).with_context(|| failed(&path))?;
        Ok(Self { path, open: Some(open), saved: None })
    }

    /// Gives the memory what the file holds.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn load(&mut self, memory: &Memory) -> Result<()> {
        let rows = self.read().with_context(|| failed(&self.path))?;
        self.saved = Some(memory.restore(rows));
        Ok(())
    }

    /// Writes what changed since the last time.
    ///
    /// # Errors
    /// When it cannot; what was not written is written the next time.
    pub fn save(&mut self, memory: &Memory) -> Result<()> {
        let gone = memory.take_gone();
        let written = self.write(memory, &gone);
        if written.is_err() {
            memory.put_back(gone);
        }
        written.with_context(|| failed(&self.path))
    }

    fn read(&self) -> Result<Vec<(u64, Flow)>> {
        let connection = &self.open.as_ref().context("it is not open")?.connection;
        let mut statement = connection.prepare("SELECT id, flow FROM flows").map_err(explained)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(explained)?;
        let mut flows = Vec::new();
        for row in rows {
            let (id, text): (i64, String) = row.map_err(explained)?;
            let row = u64::try_from(id).ok().filter(|row| *row < HIGHEST);
            let row = row.with_context(|| format!("it has a row {id}")).context(Damaged)?;
            let flow = read(&text).with_context(|| format!("row {id} of it is no flow")).context(Damaged)?;
            flows.push((row, flow));
        }
        flows.sort_by_key(|(_, flow)| flow.sequence);
        Ok(flows)
    }

    fn write(&mut self, memory: &Memory, gone: &Gone) -> Result<()> {
        if self.open.as_ref().is_none_or(|open| identity(&self.path) != Some(open.file)) {
            // The old one first: with its end go the files that belong to this name.
            self.open = None;
            self.saved = None;
            self.open = Some(Open::new(&self.path)?);
        }
        let Some(Open { connection, .. }) = &mut self.open else { bail!("it is not open") };
        let until = memory.sequence();
        let saved = if gone.too_many { None } else { self.saved };
        if saved == Some(until) && gone.rows.is_empty() {
            return Ok(());
        }
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explained)?;
        if saved.is_none() {
            transaction.execute("DELETE FROM flows", []).map_err(explained)?;
        }
        {
            let mut delete = transaction.prepare("DELETE FROM flows WHERE id = ?1").map_err(explained)?;
            for row in &gone.rows {
                delete.execute(params![number(*row)?]).map_err(explained)?;
            }
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO flows (id, flow) VALUES (?1, ?2)")
                .map_err(explained)?;
            let mut after = saved.unwrap_or(0);
            // What changes meanwhile is beyond `until`, and written the next time.
            while after < until {
                let changed = memory.changed(after, BATCH);
                let Some((_, last)) = changed.last() else { break };
                after = last.sequence;
                for (row, flow) in &changed {
                    insert
                        .execute(params![number(*row)?, serde_json::to_string(flow)?])
                        .map_err(explained)?;
                }
            }
        }
        transaction.commit().map_err(explained)?;
        self.saved = Some(until);
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> Result<Self> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                ensure!(fs::metadata(path)?.is_file(), "it is no file");
                // By name: closing the file would give up a lock that this process may hold on it.
                fs::set_permissions(path, Permissions::from_mode(0o600))
                    .context("it may be read by others, and that cannot be changed")?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("its folder does not exist: make it, or name another file")
            }
            Err(error) => bail!("{error}: name a file that can be written"),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(explained)?;
        prepare(&connection).map_err(explained)?;
        check(&connection)?;
        let file = identity(path).context("it is gone")?;
        Ok(Self { connection, file })
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // Before the journal: then the file is locked for as long as it is open, and needs no shared memory.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A crash of this process loses nothing that was committed; one of the machine may.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", 1 << 20, |_| Ok(()))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Takes the lock.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
}

/// Makes the table where there is nothing, and refuses what is not ours.
fn check(connection: &Connection) -> Result<()> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) =
        (number("user_version").map_err(explained)?, number("application_id").map_err(explained)?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(explained)?;
    if (version, application, tables) == (0, 0, 0) {
        return connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE flows (id INTEGER PRIMARY KEY, flow TEXT NOT NULL) STRICT;
                 PRAGMA application_id = {APPLICATION};
                 PRAGMA user_version = {SCHEMA};
                 COMMIT"
            ))
            .map_err(explained);
    }
    ensure!(application == APPLICATION, "it is a database of another program: name another file");
    ensure!(
        version <= SCHEMA,
        "a newer osm-egress wrote it (its schema is {version}, this one knows {SCHEMA}): use that one, or name \
         another file"
    );
    let damage: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(explained)?;
    if damage != "ok" {
        return Err(anyhow!("{}", damage.lines().next().unwrap_or_default()).context(Damaged));
    }
    Ok(())
}

fn number(row: u64) -> Result<i64> {
    i64::try_from(row).context("there is no room for more rows")
}

/// Reads a flow as it was written: what is in the file is shown to people without another look.
fn read(text: &str) -> Result<Flow> {
    let flow: Flow = serde_json::from_str(text)?;
    flow.identity.parse::<Identity>()?;
    ensure!(texts(&flow).all(is_plain), "it has characters that no flow has");
    ensure!(flow.name.is_some() || flow.addresses.len() == 1, "it has neither a name nor one address");
    ensure!(flow.sequence < HIGHEST, "its sequence is too high");
    Ok(flow)
}

/// All that workloads and users chose.
fn texts(flow: &Flow) -> impl Iterator<Item = &str> {
    let Decided { reason, policy, rule, would_refuse, verdict: _ } = &flow.decided;
    let perhaps = [Some(reason), policy.as_ref(), rule.as_ref(), would_refuse.as_ref(), flow.name.as_ref()];
    let requests = flow.requests.iter().flat_map(|Sample { method, path, upgrade, count: _ }| {
        [Some(method), Some(path), upgrade.as_ref()].into_iter().flatten()
    });
    perhaps.into_iter().flatten().chain(&flow.nodes).chain(requests).map(String::as_str)
}

/// Whether a text is as [`egress_core::sanitize`] leaves it.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '…')
}

/// What is in the file cannot be believed, though it was ours.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the file is damaged; move it away, and flows are learnt anew")]
struct Damaged;

/// Puts a damaged file out of the way, with the journal that belongs to it.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
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

fn failed(path: &Path) -> String {
    format!("cannot keep flows in {}", path.display())
}

/// What SQLite says, with how to mend it.
fn explained(error: rusqlite::Error) -> anyhow::Error {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "it is no database: name another file",
        Some(ErrorCode::DatabaseCorrupt) => return anyhow::Error::new(error).context(Damaged),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process has it: each control plane needs a file of its own"
        }
        Some(ErrorCode::DiskFull) => "the disk is full: make room",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "it cannot be written: name a file in a folder that can be, on a disk of this machine"
        }
        _ => return anyhow::Error::new(error),
    };
    anyhow::Error::new(error).context(advice)
}
