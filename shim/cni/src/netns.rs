//! Work in the network namespace of a container.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::environment::invalid;
use crate::error::{CniError, Code};

/// Opens a network namespace; `None` if it does not exist.
pub(crate) fn open(path: &Path) -> Result<Option<File>, CniError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(invalid(format!("CNI_NETNS {}: {error}", path.display()))),
    };
    let id = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    let own = File::open("/proc/self/ns/net").and_then(|own| id(&own));
    // The rules would intercept the node's own connections.
    if own.is_ok_and(|own| id(&file).is_ok_and(|other| other == own)) {
        return Err(invalid(format!("CNI_NETNS {} is the node's own network namespace", path.display())));
    }
    Ok(Some(file))
}

/// The error for a namespace that does not exist.
pub(crate) fn vanished(path: &Path) -> CniError {
    let details = format!("the network namespace {} does not exist", path.display());
    CniError::new(Code::UnknownContainer, "unknown container", details)
}

/// Runs work on a thread that has entered a namespace, so that the other threads stay where they are.
pub(crate) fn run<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> Result<T, CniError> {
    let entered = std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<T, Errno> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join()
    });
    match entered {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(Errno::EINVAL)) => Err(invalid("CNI_NETNS is not a network namespace".to_owned())),
        Ok(Err(error)) => {
            Err(CniError::new(Code::InputOutput, "cannot enter the network namespace", error.to_string()))
        }
        Err(_) => Err(CniError::new(Code::InputOutput, "the plugin failed", "this is a defect: report it")),
    }
}
