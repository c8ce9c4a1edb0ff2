//! Messages to nf_tables: tables, chains, rules and their expressions (linux/netfilter/nf_tables.h).

use std::net::IpAddr;

use egress_inject::interception::{Condition, RuleSpec, Target};
use ipnet::IpNet;

use super::attribute::{Attribute, number, text};

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;

/// Attribute of chains and rules: their table.
pub(super) const TABLE: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// Register for values, of 16 bytes.
const REGISTER: u32 = 1;
/// Register for verdicts.
const VERDICT_REGISTER: u32 = 0;
const META_IN_INTERFACE: u32 = 6;
const META_OUT_INTERFACE: u32 = 7;
const META_SOCKET_UID: u32 = 10;
const META_PROTOCOL: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const TCP: u8 = 6;
const ACCEPT: i32 = 1;
const JUMP: i32 = -3;
const RETURN: i32 = -5;
/// Length of an interface name in the kernel, with zero bytes after it.
const INTERFACE_LENGTH: usize = 16;
/// Priority of destination NAT, as iptables' table `nat` has it.
const NAT_PRIORITY: i32 = -100;

/// Builds a table.
pub(super) fn table(name: &str) -> Vec<Attribute> {
    vec![text(TABLE_NAME, name)]
}

/// Builds a chain; with a hook it is called by the kernel.
pub(super) fn chain(table: &str, name: &str, hook: Option<u32>) -> Vec<Attribute> {
    let mut attributes = vec![text(TABLE, table), text(CHAIN_NAME, name)];
    if let Some(hook) = hook {
        let priority = Attribute::Value(HOOK_PRIORITY, NAT_PRIORITY.to_be_bytes().to_vec());
        attributes.push(Attribute::Nested(CHAIN_HOOK, vec![number(HOOK_NUMBER, hook), priority]));
        attributes.push(Attribute::Value(CHAIN_POLICY, ACCEPT.to_be_bytes().to_vec()));
        attributes.push(text(CHAIN_TYPE, "nat"));
    }
    attributes
}

/// Builds the rules of nf_tables for one rule: a list of ports becomes a rule for each.
pub(super) fn rules(table: &str, spec: &RuleSpec) -> Vec<Vec<Attribute>> {
    let mut specs = vec![RuleSpec { conditions: Vec::new(), ..spec.clone() }];
    for condition in &spec.conditions {
        let choices = if let Condition::Ports(ports) = condition {
            ports.iter().map(|port| Condition::Port(*port)).collect()
        } else {
            vec![condition.clone()]
        };
        let with = |spec: &RuleSpec, choice: &Condition| {
            let mut spec = spec.clone();
            spec.conditions.push(choice.clone());
            spec
        };
        specs = specs.iter().flat_map(|spec| choices.iter().map(|choice| with(spec, choice))).collect();
    }
    specs.iter().map(|spec| rule(table, spec)).collect()
}

fn rule(table: &str, spec: &RuleSpec) -> Vec<Attribute> {
    let mut expressions: Vec<Attribute> = spec.conditions.iter().flat_map(condition).collect();
    expressions.extend(target(&spec.target));
    vec![text(TABLE, table), text(RULE_CHAIN, spec.chain), Attribute::Nested(RULE_EXPRESSIONS, expressions)]
}

fn expression(name: &str, data: Vec<Attribute>) -> Attribute {
    let data = Attribute::Nested(EXPRESSION_DATA, data);
    Attribute::Nested(LIST_ELEMENT, vec![text(EXPRESSION_NAME, name), data])
}

/// Loads a fact about the packet into the register.
fn meta(key: u32) -> Attribute {
    expression("meta", vec![number(1, REGISTER), number(2, key)])
}

/// Loads bytes of a header into the register.
fn payload(header: u32, offset: u32, length: u32) -> Attribute {
    let data = vec![number(1, REGISTER), number(2, header), number(3, offset), number(4, length)];
    expression("payload", data)
}

/// Compares the register; ends the rule if the comparison fails.
fn compare(operator: u32, value: Vec<u8>) -> Attribute {
    let data = Attribute::Nested(3, vec![Attribute::Value(DATA_VALUE, value)]);
    expression("cmp", vec![number(1, REGISTER), number(2, operator), data])
}

fn condition(condition: &Condition) -> Vec<Attribute> {
    let operator = |negated: bool| if negated { NOT_EQUAL } else { EQUAL };
    match condition {
        Condition::Tcp => vec![meta(META_PROTOCOL), compare(EQUAL, vec![TCP])],
        Condition::Port(port) => {
            vec![payload(TRANSPORT_HEADER, 2, 2), compare(EQUAL, port.to_be_bytes().to_vec())]
        }
        // Split before.
        Condition::Ports(ports) => {
            ports.iter().flat_map(|port| self::condition(&Condition::Port(*port))).collect()
        }
        Condition::Destination { block, negated } => destination(block, operator(*negated)),
        Condition::OutInterface(name) => vec![meta(META_OUT_INTERFACE), interface(name)],
        Condition::InInterface(name) => vec![meta(META_IN_INTERFACE), interface(name)],
        Condition::Owner { uid, negated } => {
            vec![meta(META_SOCKET_UID), compare(operator(*negated), uid.to_ne_bytes().to_vec())]
        }
    }
}

/// Compares with a name, or with its beginning if a `+` follows.
fn interface(name: &str) -> Attribute {
    let mut value = name.as_bytes().to_vec();
    match name.strip_suffix('+') {
        Some(beginning) => value.truncate(beginning.len()),
        None => value.resize(INTERFACE_LENGTH, 0),
    }
    compare(EQUAL, value)
}

fn destination(block: &IpNet, operator: u32) -> Vec<Attribute> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Places of the destination in the headers of IPv4 and IPv6.
    let (offset, length) = match block {
        IpNet::V4(_) => (16, 4),
        IpNet::V6(_) => (24, 16),
    };
    let mut expressions = vec![payload(NETWORK_HEADER, offset, length)];
    if block.prefix_len() < block.max_prefix_len() {
        let data = |kind, value| Attribute::Nested(kind, vec![Attribute::Value(DATA_VALUE, value)]);
        let mask = bytes(block.netmask());
        let zero = vec![0; mask.len()];
        let parts =
            vec![number(1, REGISTER), number(2, REGISTER), number(3, length), data(4, mask), data(5, zero)];
        expressions.push(expression("bitwise", parts));
    }
    expressions.push(compare(operator, bytes(block.network())));
    expressions
}

fn target(target: &Target) -> Vec<Attribute> {
    let verdict = |code: i32, chain: Option<&str>| {
        let mut parts = vec![Attribute::Value(VERDICT_CODE, code.to_be_bytes().to_vec())];
        parts.extend(chain.map(|chain| text(VERDICT_CHAIN, chain)));
        let data = Attribute::Nested(2, vec![Attribute::Nested(DATA_VERDICT, parts)]);
        vec![expression("immediate", vec![number(1, VERDICT_REGISTER), data])]
    };
    match target {
        Target::Return => verdict(RETURN, None),
        Target::Accept => verdict(ACCEPT, None),
        Target::Jump(chain) => verdict(JUMP, Some(chain)),
        Target::Redirect(port) => {
            let port = Attribute::Value(DATA_VALUE, port.to_be_bytes().to_vec());
            let load = vec![number(1, REGISTER), Attribute::Nested(2, vec![port])];
            vec![expression("immediate", load), expression("redir", vec![number(1, REGISTER)])]
        }
    }
}

/// The attributes that say which chain a rule is in.
pub(super) fn rule_place(table: &str, chain: &str) -> Vec<Attribute> {
    vec![text(TABLE, table), text(RULE_CHAIN, chain)]
}
