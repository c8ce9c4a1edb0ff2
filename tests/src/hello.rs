//! ClientHellos, byte by byte: well-formed, odd and malformed ones.

/// The extension that carries server names (RFC 6066 §3).
pub const SERVER_NAME: u16 = 0;
/// An encrypted ClientHello (RFC 9849).
pub const ECH: u16 = 0xfe0d;
/// The extension of ECH's early drafts.
pub const ESNI: u16 = 0xffce;
/// The content type of handshake records.
pub const HANDSHAKE: u8 = 22;
/// The content type of alerts.
pub const ALERT: u8 = 21;

/// The parts of a ClientHello. Nothing is checked: that is the receiver's job.
#[derive(Debug, Clone)]
pub struct Hello {
    /// `legacy_version`.
    pub version: u16,
    /// `legacy_session_id`.
    pub session: Vec<u8>,
    /// The cipher suites.
    pub suites: Vec<u16>,
    /// The compression methods.
    pub compressions: Vec<u8>,
    /// The extensions in order; `None` leaves the field out.
    pub extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Hello {
    /// A present-day client's hello for a name: TLS 1.3 and 1.2, with a key share, so that a server answers
    /// with a ServerHello.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::with_names(&[name.as_bytes()])
    }

    /// The same hello without a name.
    #[must_use]
    pub fn nameless() -> Self {
        Self {
            version: 0x0303,
            session: vec![7; 32],
            suites: vec![0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f],
            compressions: vec![0],
            extensions: Some(vec![
                // supported_groups: x25519, secp256r1.
                (10, vec![0, 4, 0, 0x1d, 0, 0x17]),
                // ec_point_formats: uncompressed.
                (11, vec![1, 0]),
                // signature_algorithms: ECDSA and RSA-PSS with SHA-256, Ed25519.
                (13, vec![0, 6, 4, 3, 8, 4, 8, 7]),
                // extended_master_secret.
                (23, vec![]),
                // supported_versions: 1.3 and 1.2.
                (43, vec![4, 3, 4, 3, 3]),
                // key_share: x25519. Any 32 bytes but a few are a public key.
                (51, [vec![0, 36, 0, 0x1d, 0, 32], vec![9; 32]].concat()),
            ]),
        }
    }

    /// A TLS 1.0 client's hello, which ends before the extensions.
    #[must_use]
    pub fn ancient() -> Self {
        Self {
            version: 0x0301,
            session: vec![],
            suites: vec![0x002f],
            compressions: vec![0],
            extensions: None,
        }
    }

    /// A hello with several server names, or with a malformed one.
    #[must_use]
    pub fn with_names(names: &[&[u8]]) -> Self {
        let mut hello = Self::nameless();
        hello.extensions.get_or_insert_default().insert(0, (SERVER_NAME, server_names(names)));
        hello
    }

    /// Appends an extension.
    #[must_use]
    pub fn extension(mut self, kind: u16, data: &[u8]) -> Self {
        self.extensions.get_or_insert_default().push((kind, data.to_vec()));
        self
    }

    /// Adds GREASE values wherever they are allowed (RFC 8701).
    #[must_use]
    pub fn greased(mut self) -> Self {
        self.suites.insert(0, 0x0a0a);
        let extensions = self.extensions.get_or_insert_default();
        for (kind, data) in extensions.iter_mut() {
            match *kind {
                10 => *data = vec![0, 6, 0x2a, 0x2a, 0, 0x1d, 0, 0x17],
                43 => *data = vec![6, 0x3a, 0x3a, 3, 4, 3, 3],
                _ => {}
            }
        }
        extensions.insert(0, (0x1a1a, vec![]));
        extensions.push((0x4a4a, vec![0]));
        self
    }

    /// Adds an encrypted hello, or GREASE that looks the same.
    #[must_use]
    pub fn encrypted(self) -> Self {
        // ClientHelloOuter, HKDF-SHA256 with AES-128-GCM, a configuration, a key and a sealed hello.
        let key = vector16(&[3; 32]);
        let sealed = vector16(&[5; 144]);
        self.extension(ECH, &[vec![0, 0, 1, 0, 1, 42], key, sealed].concat())
    }

    /// The handshake message.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([1; 32]);
        body.extend(vector8(&self.session));
        body.extend(vector16(&self.suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<_>>()));
        body.extend(vector8(&self.compressions));
        if let Some(extensions) = &self.extensions {
            let all = extensions
                .iter()
                .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vector16(data)].concat());
            body.extend(vector16(&all.collect::<Vec<_>>()));
        }
        message(1, &body)
    }

    /// The hello in one record.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }

    /// The hello in records of at most this many bytes each.
    #[must_use]
    pub fn records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size.max(1)).flat_map(|part| record(HANDSHAKE, part)).collect()
    }
}

/// Encodes a handshake message.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// Encodes a TLS record.
#[must_use]
pub fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [vec![kind, 3, 1], vector16(fragment)].concat()
}

/// Encodes the content of the server name extension.
#[must_use]
pub fn server_names(names: &[&[u8]]) -> Vec<u8> {
    vector16(&names.iter().flat_map(|name| [vec![0], vector16(name)].concat()).collect::<Vec<_>>())
}

/// Encodes a list with a one-byte length.
#[must_use]
pub fn vector8(data: &[u8]) -> Vec<u8> {
    [&[u8::try_from(data.len()).unwrap_or(u8::MAX)], data].concat()
}

/// Encodes a list with a two-byte length.
#[must_use]
pub fn vector16(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes(), data].concat()
}

#[cfg(test)]
mod tests {
    use egress_policy::client_hello::{Progress, Reader};

    use super::*;

    /// Checks against an independent reader that the well-formed hellos are well formed.
    #[test]
    fn well_formed_hellos_parse() {
        for (case, bytes, name, encrypted) in [
            ("plain", Hello::named("a.org").bytes(), Some("a.org"), false),
            ("no name", Hello::nameless().bytes(), None, false),
            ("no extensions", Hello::ancient().bytes(), None, false),
            ("GREASE", Hello::named("a.org").greased().bytes(), Some("a.org"), false),
            ("ECH", Hello::named("a.org").encrypted().bytes(), Some("a.org"), true),
            ("ESNI", Hello::named("a.org").extension(ESNI, &[0; 9]).bytes(), None, true),
            ("records", Hello::named("a.org").records(7), Some("a.org"), false),
        ] {
            let Progress::Hello(hello) = Reader::default().feed(&bytes) else { panic!("{case}: no hello") };
            assert_eq!((hello.server_name.as_deref(), hello.encrypted), (name, encrypted), "{case}");
        }
    }

    #[test]
    fn malformed_hellos_do_not_parse() {
        for (case, hello) in [
            ("two names", Hello::with_names(&[b"a.org", b"b.org"])),
            ("twice", Hello::named("a.org").extension(SERVER_NAME, &server_names(&[b"b.org"]))),
        ] {
            let progress = Reader::default().feed(&hello.bytes());
            assert!(matches!(progress, Progress::Malformed(_)), "{case}: {progress:?}");
        }
    }
}
