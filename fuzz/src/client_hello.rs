//! The ClientHello reader on any bytes, or on a hello made of choices, in any segmentation.

use egress_policy::Host;
use egress_policy::client_hello::{ClientHello, MAX_HELLO_LENGTH, Progress, Reader};

use super::input::Input;

/// Reads an input: the number of cuts, the cuts, and a byte that tells whether the rest is a stream (even) or choices of
/// which one is made.
pub fn client_hello(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = input.below(8);
    let cuts: Vec<usize> = input.take(cuts).iter().map(|cut| usize::from(*cut)).collect();
    if input.byte().is_multiple_of(2) {
        check(input.rest(), &cuts);
    } else {
        let made = Made::new(&mut input);
        let answer = check(&made.stream, &cuts);
        match made.expected {
            Some(Ok(expected)) => assert_eq!(answer, Progress::Hello(expected)),
            Some(Err(())) => assert!(matches!(answer, Progress::Malformed(_)), "{answer:?}"),
            None => {}
        }
    }
}

/// Reads a stream in several segmentations, which must give one result.
fn check(stream: &[u8], cuts: &[usize]) -> Progress {
    let mut reader = Reader::default();
    let answer = reader.feed(stream);
    assert_eq!(reader.consumed(), stream.len());
    if answer != Progress::More {
        assert_eq!(reader.feed(b"\x16\x03\x01more"), answer, "the answer stays");
    }

    let needed = if stream.len() <= 2048 { byte_by_byte(stream, &answer) } else { by_halves(stream) };
    assert_eq!(needed.is_none(), answer == Progress::More);
    if let Some(needed) = needed {
        assert!(needed <= 2 * MAX_HELLO_LENGTH * 5, "the reader wants more and more: {needed}");
        assert_eq!(Reader::default().feed(&stream[..needed]), answer, "what follows does not matter");
        assert_eq!(
            Reader::default().feed(&stream[..needed - 1]),
            Progress::More,
            "no answer before its time"
        );
    }

    // In the given pieces, over and over.
    let mut reader = Reader::default();
    let mut rest = stream;
    let mut turn = cuts.iter().copied().cycle();
    let all_empty = cuts.iter().all(|cut| *cut == 0);
    while !rest.is_empty() {
        let length = turn.next().filter(|_| !all_empty).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(length.min(rest.len()));
        rest = after;
        let progress = reader.feed(piece);
        let fed = stream.len() - rest.len();
        assert_eq!(reader.consumed(), fed);
        if progress != Progress::More {
            assert_eq!(progress, answer, "in pieces");
            assert!(
                needed.is_some_and(|needed| fed >= needed && fed - piece.len() < needed),
                "too late or too early"
            );
            break;
        }
        assert!(needed.is_none_or(|needed| fed < needed), "an answer is there");
    }

    if let Progress::Hello(hello) = &answer {
        if let Some(name) = &hello.server_name {
            // A name that is not a host name is kept as text that is not one either.
            match Host::canonical(name) {
                Ok(host) => assert_eq!(host.as_str(), &**name, "a name in an answer is in normal form"),
                Err(_) => assert!(name.len() <= 256 && name.bytes().all(|byte| byte.is_ascii_graphic())),
            }
        }
        assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
        as_rustls_reads_it(stream, hello);
    }
    answer
}

/// Counts the bytes that the result needs, one after the other.
fn byte_by_byte(stream: &[u8], answer: &Progress) -> Option<usize> {
    let mut reader = Reader::default();
    for (at, byte) in stream.iter().enumerate() {
        let progress = reader.feed(&[*byte]);
        assert_eq!(reader.consumed(), at + 1);
        if progress != Progress::More {
            assert_eq!(progress, *answer, "byte by byte");
            return Some(at + 1);
        }
    }
    None
}

/// Counts the same for a long stream.
fn by_halves(stream: &[u8]) -> Option<usize> {
    let answers = |length: &usize| Reader::default().feed(&stream[..*length]) != Progress::More;
    let (mut without, mut with) = (0, Some(stream.len()).filter(answers)?);
    while without + 1 < with {
        let middle = without.midpoint(with);
        *if answers(&middle) { &mut with } else { &mut without } = middle;
    }
    Some(with)
}

/// Compares with rustls: a server that accepts this hello must read the same name, or the decision would be about another
/// name than the one that is served.
fn as_rustls_reads_it(stream: &[u8], hello: &ClientHello) {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut bytes = stream;
    while !bytes.is_empty() {
        if !matches!(acceptor.read_tls(&mut bytes), Ok(read) if read > 0) {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Err(_) => return,
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello();
                let name = theirs.server_name().map(str::to_ascii_lowercase);
                let name = name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
                let ours = hello.server_name.as_deref();
                // Of a draft of ECH the visible name does not count, and what is no host name rustls may leave out.
                let is_left_out = ours.is_none_or(|name| Host::canonical(name).is_err());
                let is_clear = !(is_left_out && (hello.encrypted || ours.is_some()));
                assert!(!is_clear || name == ours, "rustls reads {name:?}, not {ours:?}");
                let protocols: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
                let ours: Vec<&[u8]> = hello.alpn.iter().map(|protocol| &**protocol).collect();
                assert_eq!(protocols, ours, "rustls reads other protocols");
                return;
            }
        }
    }
}

/// A hello made of choices, and its expected result where that is clear.
struct Made {
    stream: Vec<u8>,
    expected: Option<Result<ClientHello, ()>>,
}

impl Made {
    fn new(input: &mut Input<'_>) -> Self {
        let record = 1 + usize::from(input.number() % 2000);
        let mut valid = true;
        let mut body = vec![3, input.pick(&[3, 1, 4])];
        body.extend([7; 32]);
        let session = input.pick(&[0, 32, 32, 33]);
        valid &= session <= 32;
        vector8(&mut body, &vec![1; session]);
        let suites = input.pick(&[2_usize, 4, 6, 3, 0]);
        valid &= suites > 0 && suites.is_multiple_of(2);
        vector16(&mut body, &vec![0x13; suites]);
        let methods = input.pick(&[1, 1, 2, 0]);
        valid &= methods > 0;
        vector8(&mut body, &vec![0; methods]);

        let mut hello = ClientHello { server_name: None, alpn: vec![], encrypted: false };
        let mut unclear = false;
        let mut is_draft = false;
        let mut seen = std::collections::BTreeSet::new();
        let mut extensions = vec![];
        for _ in 0..input.below(20) {
            let mut data = vec![];
            let kind = match input.below(10) {
                0 => {
                    let name = name(input);
                    let odd = input.pick(&["", "", "", ".", "..", "-", "\0", "ü", " "]);
                    // One name, and for once something odd behind it.
                    let mut list = vec![0];
                    vector16(&mut list, &[name.as_bytes(), odd.as_bytes()].concat());
                    vector16(&mut data, &list);
                    unclear |= !matches!(odd, "" | ".") || name.len() > 253;
                    hello.server_name = Some(name.to_ascii_lowercase().into());
                    0
                }
                1 => {
                    // Names of any number and type: only the invariants hold.
                    let mut list = vec![];
                    for _ in 0..input.below(3) {
                        list.push(input.pick(&[0, 0, 1]));
                        vector16(&mut list, input.bytes());
                    }
                    vector16(&mut data, &list);
                    unclear = true;
                    0
                }
                2 => {
                    let mut list = vec![];
                    hello.alpn.clear();
                    for _ in 0..1 + input.below(3) {
                        let protocol = input.pick(&[&b"h2"[..], b"http/1.1", b"", b"\x00\xff"]);
                        valid &= !protocol.is_empty();
                        vector8(&mut list, protocol);
                        hello.alpn.push(protocol.into());
                    }
                    vector16(&mut data, &list);
                    16
                }
                3 => {
                    data.extend(input.bytes());
                    hello.encrypted = true;
                    0xfe0d
                }
                4 => {
                    (hello.encrypted, is_draft) = (true, true);
                    input.pick(&[0xffce, 0xfe08, 0xfe09, 0xfe0a, 0xfe0b, 0xfe0c])
                }
                5 => input.pick(&[0x0a0a, 0x1a1a, 0xfafa]),
                6 => {
                    // Padding, up to more than there may be.
                    data.resize(usize::from(input.number() % 17_000), 0);
                    21
                }
                7 => {
                    // What rustls wants of a hello: versions, groups, signatures.
                    let (kind, bytes) = input.pick(&[
                        (43, &[2, 3, 4][..]),
                        (43, &[4, 3, 4, 3, 3]),
                        (10, &[0, 2, 0, 29]),
                        (13, &[0, 2, 4, 3]),
                        (51, &[0, 0]),
                        (45, &[1, 1]),
                    ]);
                    data.extend(bytes);
                    kind
                }
                // Anything at all.
                8 => {
                    let kind = input.number();
                    data.extend(input.bytes());
                    unclear |= matches!(kind, 0 | 16 | 0xfe08..=0xfe0d | 0xffce);
                    kind
                }
                _ => {
                    data.extend(input.bytes());
                    0x4000 + u16::from(input.byte())
                }
            };
            valid &= seen.insert(kind);
            extensions.extend(kind.to_be_bytes());
            vector16(&mut extensions, &data);
        }
        // More than the length can say: no hello, and nothing to expect.
        if extensions.len() > usize::from(u16::MAX) {
            extensions.truncate(usize::from(u16::MAX));
            unclear = true;
        }
        if !extensions.is_empty() || input.one_in_four() {
            vector16(&mut body, &extensions);
        }
        if input.byte() % 16 == 15 {
            body.push(0);
            // Where there are no extensions, it is half of their length.
            valid = false;
        }
        let mut message = vec![1];
        message.extend(&u32::try_from(body.len()).expect("short").to_be_bytes()[1..]);
        message.extend(body);
        valid &= message.len() <= MAX_HELLO_LENGTH;
        let mut stream = vec![];
        // Not thousands of records: they take too long, and are nothing new.
        for part in message.chunks(record.max(message.len() / 64)) {
            stream.extend([22, 3, input.pick(&[1, 3, 0, 255])]);
            vector16(&mut stream, part);
        }
        stream.extend(input.rest());
        if is_draft {
            hello.server_name = None;
        }
        let expected = if unclear { None } else { Some(if valid { Ok(hello) } else { Err(()) }) };
        Self { stream, expected }
    }
}

/// Makes a valid host name, unless it is longer than 253.
fn name(input: &mut Input<'_>) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut labels = vec![];
    for _ in 0..input.below(6) {
        let mut label: String =
            input.bytes().iter().take(63).map(|b| char::from(LETTERS[usize::from(b % 64)])).collect();
        if label.is_empty() || label.starts_with('-') || label.ends_with('-') {
            label = "x-1".to_owned();
        }
        labels.push(label);
    }
    // Not a number, so that nobody takes it for an address.
    labels.push(input.pick(&["org", "Example", "xn--p1ai", "a1", "_tcp", "o0x1"]).to_owned());
    labels.join(".")
}

fn vector8(out: &mut Vec<u8>, data: &[u8]) {
    out.push(u8::try_from(data.len()).expect("short"));
    out.extend(data);
}

fn vector16(out: &mut Vec<u8>, data: &[u8]) {
    out.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
    out.extend(data);
}
