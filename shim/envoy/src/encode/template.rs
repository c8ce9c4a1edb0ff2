//! Messages with places for what is not the same in each: messages in messages, whose lengths count what is in them.

use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::FieldDescriptor;

use crate::snapshot::Part as ResourcePart;

/// A part of a message.
#[derive(Debug)]
pub(super) enum Part {
    /// Fields, encoded.
    Bytes(Vec<u8>),
    /// A field that holds a message, text or bytes.
    Nested(u32, Vec<Part>),
    /// The place of the placeholder with this number.
    Hole(usize),
}

impl Part {
    pub(super) fn nested(field: &FieldDescriptor, content: Vec<Self>) -> Self {
        Self::Nested(field.number(), content)
    }
}

/// A message whose holes are filled for each resource, by the numbers of the placeholders.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self(parts)
    }

    /// The message with these parts in its holes. What is constant between two holes is one part.
    pub(crate) fn fill(&self, holes: &[ResourcePart]) -> Vec<ResourcePart> {
        let mut filled = Vec::new();
        let mut constant = Vec::new();
        fill(&self.0, holes, &mut constant, &mut filled);
        flush(&mut constant, &mut filled);
        filled
    }
}

fn fill(parts: &[Part], holes: &[ResourcePart], constant: &mut Vec<u8>, filled: &mut Vec<ResourcePart>) {
    for part in parts {
        match part {
            Part::Bytes(bytes) => constant.extend_from_slice(bytes),
            Part::Nested(number, content) => {
                let length = length(content, &|hole| holes.get(hole).map_or(0, ResourcePart::len));
                head(*number, length, constant);
                fill(content, holes, constant, filled);
            }
            Part::Hole(number) => {
                flush(constant, filled);
                filled.extend(holes.get(*number).cloned());
            }
        }
    }
}

fn flush(constant: &mut Vec<u8>, filled: &mut Vec<ResourcePart>) {
    if !constant.is_empty() {
        filled.push(ResourcePart::Constant(Bytes::from(std::mem::take(constant))));
    }
}

fn head(number: u32, length: usize, out: &mut impl BufMut) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn length(parts: &[Part], hole: &impl Fn(usize) -> usize) -> usize {
    let length = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Nested(number, content) => {
            let length = length(content, hole);
            let mut start = Vec::new();
            head(*number, length, &mut start);
            start.len() + length
        }
        Part::Hole(number) => hole(*number),
    };
    parts.iter().map(length).sum()
}

/// The bytes of parts without holes.
pub(super) fn encode(parts: &[Part]) -> Vec<u8> {
    let (mut bytes, mut filled) = (Vec::new(), Vec::new());
    fill(parts, &[], &mut bytes, &mut filled);
    bytes
}

/// The number of times that a hole is there.
pub(super) fn count(parts: &[Part], hole: usize) -> usize {
    let count = |part: &Part| match part {
        Part::Bytes(_) => 0,
        Part::Nested(_, content) => count(content, hole),
        Part::Hole(number) => usize::from(*number == hole),
    };
    parts.iter().map(count).sum()
}

/// Text with holes in the place of placeholders.
pub(super) fn split(text: &str, placeholders: &[&str]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    let next = |rest: &str| {
        let found = placeholders.iter().enumerate();
        found.filter_map(|(hole, text)| Some((rest.find(text)?, hole, text.len()))).min()
    };
    while let Some((at, hole, length)) = next(rest) {
        parts.extend([Part::Bytes(rest[..at].into()), Part::Hole(hole)]);
        rest = &rest[at + length..];
    }
    parts.push(Part::Bytes(rest.into()));
    parts
}
