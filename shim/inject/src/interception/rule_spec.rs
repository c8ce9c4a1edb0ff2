//! Rules as data: one source for iptables, which reads text, and for nf_tables, which reads messages.

use std::fmt;

use ipnet::IpNet;

/// A rule at the end of a chain of a nat table. All its conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    /// Chain.
    pub chain: &'static str,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Target.
    pub target: Target,
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The protocol is TCP.
    Tcp,
    /// The destination port of a TCP connection.
    Port(u16),
    /// One of these destination ports of a TCP connection.
    Ports(Vec<u16>),
    /// A block of destination addresses, or all but these.
    Destination {
        /// Block.
        block: IpNet,
        /// True for all addresses outside of the block.
        negated: bool,
    },
    /// The interface by which packets leave; a `+` at its end stands for any continuation.
    OutInterface(String),
    /// The interface by which packets arrive; a `+` at its end stands for any continuation.
    InInterface(String),
    /// The uid of the process that opened the connection, or all but this.
    Owner {
        /// Uid.
        uid: u32,
        /// True for all other uids.
        negated: bool,
    },
}

/// A target of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Returns to the chain that jumped here.
    Return,
    /// Ends evaluation without a redirect.
    Accept,
    /// Redirects to a port of this network namespace.
    Redirect(u16),
    /// Continues in another chain.
    Jump(&'static str),
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.conditions.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        write!(f, "{}", self.target)
    }
}

const fn not(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("-p tcp"),
            Self::Port(port) => write!(f, "-m tcp --dport {port}"),
            Self::Ports(ports) => {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                write!(f, "-m multiport --dports {}", ports.join(","))
            }
            Self::Destination { block, negated } => write!(f, "{}-d {block}", not(*negated)),
            Self::OutInterface(name) => write!(f, "-o {name}"),
            Self::InInterface(name) => write!(f, "-i {name}"),
            Self::Owner { uid, negated } => write!(f, "-m owner {}--uid-owner {uid}", not(*negated)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("-j RETURN"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Redirect(port) => write!(f, "-j REDIRECT --to-ports {port}"),
            Self::Jump(chain) => write!(f, "-j {chain}"),
        }
    }
}
