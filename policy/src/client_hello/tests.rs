#![allow(clippy::wildcard_enum_match_arm, reason = "what a test does not expect fails it")]

use proptest::prelude::*;

use super::*;

/// A hello made by hand: what each test changes, the rest as a client would send it.
struct Made {
    extensions: Vec<(u16, Vec<u8>)>,
    tail: Vec<u8>,
}

impl Made {
    fn new() -> Self {
        // GREASE, supported_versions and one that nobody knows.
        Self { extensions: vec![(0x0a0a, vec![]), (43, vec![2, 3, 4]), (0xabcd, vec![1])], tail: vec![] }
    }

    fn named(name: &[u8]) -> Self {
        Self::new().with(0, sni(&[(0, name)]))
    }

    fn with(mut self, kind: u16, data: Vec<u8>) -> Self {
        self.extensions.push((kind, data));
        self
    }

    fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 4, 0x1a, 0x1a, 0x13, 0x01, 1, 0]);
        let mut list = vec![];
        for (kind, data) in &self.extensions {
            list.extend(kind.to_be_bytes());
            list.extend(vector16(data));
        }
        body.extend(vector16(&list));
        body.extend(&self.tail);
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        records(&self.message(), usize::MAX)
    }
}

fn vector16(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).expect("short").to_be_bytes(), data].concat()
}

fn sni(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [vec![*kind], vector16(name)].concat()).collect();
    vector16(&list)
}

/// Cuts a message into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size.min(MAX_FRAGMENT_LENGTH))
        .flat_map(|part| [vec![22, 3, 1], vector16(part)].concat())
        .collect()
}

fn read(bytes: &[u8]) -> Progress {
    Reader::default().feed(bytes)
}

fn read_in(bytes: &[u8], step: usize) -> Progress {
    let mut reader = Reader::default();
    for part in bytes.chunks(step) {
        match reader.feed(part) {
            Progress::More => {}
            answer => {
                assert_eq!(reader.feed(b"more"), answer, "the answer stays");
                return answer;
            }
        }
    }
    Progress::More
}

fn name_of(progress: &Progress) -> Option<&str> {
    match progress {
        Progress::Hello(hello) => hello.server_name.as_deref(),
        other => panic!("{other:?}"),
    }
}

/// The hello that rustls sends.
fn real(name: &'static str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name).expect("valid");
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("valid");
    let mut bytes = vec![];
    client.write_tls(&mut bytes).expect("to memory");
    bytes
}

#[test]
fn a_real_hello() {
    let Progress::Hello(hello) = read(&real("HTTPBIN.org")) else { panic!("no hello") };
    assert_eq!(hello.server_name.as_deref(), Some("httpbin.org"));
    assert_eq!(hello.alpn, [b"h2".as_slice().into(), b"http/1.1".as_slice().into()] as [Box<[u8]>; 2]);
    assert!(!hello.encrypted);
    assert_eq!(name_of(&read(&real("10.0.0.1"))), None);
}

#[test]
fn any_segmentation_gives_the_same_answer() {
    let made = Made::named(b"httpbin.org");
    for size in 1..made.message().len() + 1 {
        let bytes = records(&made.message(), size);
        for step in [1, 2, 3, 5, 7, 100, bytes.len()] {
            assert_eq!(
                name_of(&read_in(&bytes, step)),
                Some("httpbin.org"),
                "records of {size}, reads of {step}"
            );
        }
    }
}

/// The content of a record is not the beginning of a connection, even when its header came alone.
#[test]
fn a_record_in_a_record_is_no_hello() {
    let bytes = records(&Made::named(b"a.org").bytes(), usize::MAX);
    for cut in 0..bytes.len() {
        let mut reader = Reader::default();
        let (first, second) = bytes.split_at(cut);
        reader.feed(first);
        assert_eq!(reader.feed(second), malformed("not a ClientHello"), "cut after {cut} bytes");
    }
}

#[test]
fn a_part_is_never_an_answer() {
    for bytes in [real("httpbin.org"), records(&Made::named(b"httpbin.org").message(), 10)] {
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), Progress::More, "{length} of {}", bytes.len());
        }
    }
}

#[test]
fn what_is_not_tls() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0", b"\x80\x2e\x01\x03\x01", b"\x16\x02", b"\x15\x03\x01", b"\0"]
    {
        assert_eq!(read(bytes), Progress::NotTls, "{bytes:?}");
    }
    assert_eq!(read(b""), Progress::More);
    assert_eq!(read(b"\x16"), Progress::More);
}

#[test]
fn fields_of_a_hello_are_read() {
    for (case, made, name, encrypted) in [
        ("no name", Made::new(), None, false),
        ("upper case", Made::named(b"A.Org"), Some("a.org"), false),
        ("ECH", Made::named(b"a.org").with(0xfe0d, vec![0]), Some("a.org"), true),
        ("draft ESNI", Made::named(b"a.org").with(0xffce, vec![0]), None, true),
        ("draft ECH", Made::named(b"a.org").with(0xfe0a, vec![0]), None, true),
        ("a trailing dot", Made::named(b"A.org."), Some("a.org"), false),
        ("two trailing dots", Made::named(b"a.org.."), Some("a.org.."), false),
        ("an IPv4 literal", Made::named(b"10.0.0.1"), Some("10.0.0.1"), false),
        ("a short IPv4 literal", Made::named(b"127.1"), Some("127.1"), false),
        ("an IPv6 literal", Made::named(b"2001:db8::1"), Some("2001:db8::1"), false),
        ("a wildcard", Made::named(b"*.a.org"), Some("*.a.org"), false),
        ("a zero byte", Made::named(b"a.org\0.b.org"), Some("a.org?.b.org"), false),
        ("not ASCII", Made::named("bücher.example".as_bytes()), Some("b??cher.example"), false),
        ("not UTF-8", Made::named(b"\xff.org"), Some("?.org"), false),
        (
            "more GREASE",
            Made::named(b"a.org").with(0x1a1a, vec![0]).with(0xfafa, vec![]),
            Some("a.org"),
            false,
        ),
    ] {
        let Progress::Hello(hello) = read(&made.bytes()) else { panic!("{case}") };
        assert_eq!((hello.server_name.as_deref(), hello.encrypted), (name, encrypted), "{case}");
    }
}

/// Nothing that is kept of a name which is none may be read as one.
#[test]
fn an_unreadable_name_stays_one() {
    for name in [&b"a.org.."[..], b".", b"127.1", b"a b", b"a\xff", &b"a.".repeat(128), &b"a.".repeat(4000)] {
        let Progress::Hello(hello) = read(&Made::named(name).bytes()) else { panic!("{name:?}") };
        let shown = hello.server_name.expect("a name");
        assert!(crate::Host::canonical(&shown).is_err(), "{shown}");
        assert!(shown.len() <= 256, "{shown}");
    }
}

#[test]
fn what_is_malformed() {
    for (case, made) in [
        ("two names", Made::new().with(0, sni(&[(0, b"a.org"), (0, b"b.org")]))),
        ("a name of another type", Made::new().with(0, sni(&[(1, b"a.org")]))),
        ("no name in the list", Made::new().with(0, sni(&[]))),
        ("an empty extension", Made::new().with(0, vec![])),
        ("an empty name", Made::named(b"")),
        ("the name twice", Made::named(b"a.org").with(0, sni(&[(0, b"a.org")]))),
        ("an unknown extension twice", Made::new().with(0xabcd, vec![])),
        ("bytes behind the list", Made::new().with(0, [sni(&[(0, b"a.org")]), vec![0]].concat())),
        ("an empty protocol", Made::new().with(16, vec![0, 1, 0])),
        ("no protocol", Made::new().with(16, vec![0, 0])),
        ("bytes behind the extensions", Made { tail: vec![0], ..Made::new() }),
    ] {
        assert!(matches!(read(&made.bytes()), Progress::Malformed(HelloError::Malformed(_))), "{case}");
    }
    let message = Made::named(b"a.org").message();
    let split = |at: usize, between: &[u8]| {
        let (a, b) = message.split_at(at);
        [records(a, usize::MAX), between.to_vec(), records(b, usize::MAX)].concat()
    };
    assert_eq!(name_of(&read(&split(9, &[]))), Some("a.org"));
    for (case, bytes) in [
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("an empty record between", split(9, &[22, 3, 1, 0, 0])),
        ("an alert between", split(9, &[21, 3, 1, 0, 2, 1, 0])),
        ("another handshake message", records(&[2, 0, 0, 0], usize::MAX)),
        ("a huge record", vec![22, 3, 1, 0xff, 0xff]),
    ] {
        assert!(matches!(read(&bytes), Progress::Malformed(HelloError::Malformed(_))), "{case}");
    }
}

#[test]
fn the_limit_is_16_kib() {
    let padded = |padding: usize| Made::named(b"a.org").with(21, vec![0; padding]);
    let rest = padded(0).message().len();
    let most = MAX_HELLO_LENGTH - rest;
    assert_eq!(name_of(&read(&padded(most).bytes())), Some("a.org"));
    assert_eq!(read(&padded(most + 1).bytes()), Progress::Malformed(HelloError::Oversize));
    // The length says so before the bytes are there.
    assert_eq!(read(&[22, 3, 1, 0, 10, 1, 0xff, 0, 0]), Progress::Malformed(HelloError::Oversize));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1_usize..50) {
        let mut bytes = bytes;
        read_in(&bytes, step);
        // And some that get further.
        let mut hello = Made::named(b"a.org").bytes();
        for (at, byte) in bytes.drain(..).enumerate().step_by(7) {
            let at = (at * 31 + usize::from(byte)) % hello.len();
            hello[at] = byte;
        }
        prop_assert_eq!(read_in(&hello, step), read_in(&hello, usize::MAX));
    }
}
