use data_encoding::HEXLOWER;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a value's JSON form, and the length of that form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) hash: [u8; 32],
    pub(super) length: usize,
}

impl Digest {
    /// Digests a value.
    pub(super) fn of(value: &impl Serialize) -> Self {
        let mut writer = Writer { hash: Sha256::new(), length: 0 };
        // Writing into a hash cannot fail, and what is written here always has a JSON form.
        let _ = serde_json::to_writer(&mut writer, value);
        Self { hash: writer.hash.finalize().into(), length: writer.length }
    }

    /// Digests parts that are digests themselves. The length is that of a list of the parts.
    pub(super) fn join<'d>(parts: impl IntoIterator<Item = &'d Self>) -> Self {
        let mut hash = Sha256::new();
        let mut length = 2_usize;
        for part in parts {
            hash.update(part.hash);
            length = length.saturating_add(part.length).saturating_add(1);
        }
        Self { hash: hash.finalize().into(), length }
    }

    /// Formats the first 16 hexadecimal digits.
    pub(super) fn version(&self) -> String {
        HEXLOWER.encode(self.hash.first_chunk::<8>().unwrap_or(&[0; 8]))
    }
}

struct Writer {
    hash: Sha256,
    length: usize,
}

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hash.update(bytes);
        self.length = self.length.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
