//! Netlink attributes: encoded for the kernel, and compared with what the kernel returns.

/// Bit of an attribute's type that marks nested attributes.
const NESTED: u16 = 0x8000;
/// Bits of an attribute's type that are its number.
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// Bytes.
    Value(u16, Vec<u8>),
    /// Other attributes.
    Nested(u16, Vec<Attribute>),
}

/// Builds an attribute with a number in network byte order, as nf_tables has them.
pub(super) fn number(kind: u16, value: u32) -> Attribute {
    Attribute::Value(kind, value.to_be_bytes().to_vec())
}

/// Builds an attribute with a text, which ends with a zero byte.
pub(super) fn text(kind: u16, value: &str) -> Attribute {
    Attribute::Value(kind, value.bytes().chain([0]).collect())
}

impl Attribute {
    fn kind(&self) -> u16 {
        match self {
            Self::Value(kind, _) | Self::Nested(kind, _) => *kind,
        }
    }

    /// Appends the encoded attribute.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend([0; HEADER]);
        let kind = match self {
            Self::Value(kind, bytes) => {
                to.extend(bytes);
                *kind
            }
            Self::Nested(kind, attributes) => {
                attributes.iter().for_each(|attribute| attribute.encode(to));
                kind | NESTED
            }
        };
        // The rules of a pod are far below 64 KB each, and the kernel refuses a wrong length.
        let length = u16::try_from(to.len() - start).unwrap_or(u16::MAX);
        to[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        to[start + 2..start + HEADER].copy_from_slice(&kind.to_ne_bytes());
        to.resize(to.len().next_multiple_of(4), 0);
    }
}

/// Splits bytes into attributes. A malformed rest is left out, so that a comparison fails.
pub(super) fn split(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = bytes {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let Some(value) = bytes.get(HEADER..length) else { break };
        found.push((u16::from_ne_bytes([*c, *d]) & TYPE_MASK, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Returns true if the kernel's attributes contain the expected ones: as many of each type, in the same order within a
/// type. The kernel adds attributes with defaults, and has an order of its own between types.
pub(super) fn contains(actual: &[u8], expected: &[Attribute]) -> bool {
    let actual = split(actual);
    expected.iter().map(Attribute::kind).all(|kind| {
        let found: Vec<_> = actual.iter().filter(|(other, _)| *other == kind).collect();
        let wanted: Vec<_> = expected.iter().filter(|attribute| attribute.kind() == kind).collect();
        found.len() == wanted.len()
            && found.iter().zip(wanted).all(|((_, bytes), attribute)| match attribute {
                Attribute::Value(_, value) => bytes == value,
                Attribute::Nested(_, attributes) => contains(bytes, attributes),
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(attributes: &[Attribute]) -> Vec<u8> {
        let mut bytes = Vec::new();
        attributes.iter().for_each(|attribute| attribute.encode(&mut bytes));
        bytes
    }

    #[test]
    fn attributes_are_padded_and_nested() {
        let bytes = encoded(&[Attribute::Nested(4, vec![text(1, "ab"), number(2, 7)])]);
        let expected: Vec<u8> = [
            &20u16.to_ne_bytes()[..],
            &0x8004u16.to_ne_bytes(),
            &7u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"ab\0\0",
            &8u16.to_ne_bytes(),
            &2u16.to_ne_bytes(),
            &[0, 0, 0, 7],
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(split(&bytes), [(4, &expected[4..])]);
    }

    #[test]
    fn a_comparison_ignores_additions_and_finds_differences() {
        let rule = |port: u32| {
            Attribute::Nested(
                4,
                vec![Attribute::Nested(1, vec![number(2, port)]), Attribute::Nested(1, vec![text(1, "x")])],
            )
        };
        let mut kernel = vec![number(9, 9), text(3, "other")];
        kernel.push(Attribute::Nested(
            4,
            vec![
                Attribute::Nested(1, vec![number(7, 7), number(2, 80)]),
                Attribute::Nested(1, vec![text(1, "x")]),
            ],
        ));
        assert!(contains(&encoded(&kernel), &[rule(80)]));
        assert!(!contains(&encoded(&kernel), &[rule(81)]));
        assert!(!contains(&encoded(&kernel), &[text(5, "missing")]));
        // One expression more, or none.
        kernel.push(rule(80));
        assert!(!contains(&encoded(&kernel), &[rule(80)]));
        assert!(!contains(&[], &[rule(80)]));
        assert!(!contains(&[1, 0, 3], &[rule(80)]));
    }

    #[test]
    fn malformed_bytes_end_the_list() {
        for bytes in [&[3u8, 0, 1, 0][..], &[0; 4], &[255, 255, 1, 0, 1], &[8, 0, 1, 0, 1]] {
            assert_eq!(split(bytes), [], "{bytes:?}");
        }
    }
}
