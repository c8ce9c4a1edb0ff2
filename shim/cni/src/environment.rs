//! The parameters that a runtime passes to the plugin in environment variables.

use std::path::PathBuf;

use crate::config::is_name;
use crate::error::{CniError, Code};

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Check,
    Delete,
    GarbageCollect,
    Status,
    Version,
}

impl Command {
    const ALL: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("CHECK", Self::Check),
        ("DEL", Self::Delete),
        ("GC", Self::GarbageCollect),
        ("STATUS", Self::Status),
        ("VERSION", Self::Version),
    ];

    /// Parses `CNI_COMMAND`.
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, command)| command).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            invalid(format!("CNI_COMMAND is `{text}`: it must be one of {}", names.join(", ")))
        })
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, command)| *command == self).map_or("", |(name, _)| name)
    }

    /// The version of the specification that introduced the command.
    pub(crate) const fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Delete | Self::Version => "0.3.1",
            Self::Check => "0.4.0",
            Self::GarbageCollect | Self::Status => "1.1.0",
        }
    }
}

pub(crate) fn invalid(details: String) -> CniError {
    CniError::new(Code::InvalidEnvironment, "invalid environment variables", details)
}

/// Parameters of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// Path of the network namespace; DEL may lack it.
    pub(crate) netns: Option<PathBuf>,
    /// The pod, if the runtime is Kubernetes'.
    pub(crate) pod: Option<PodRef>,
}

/// A pod, as the runtime names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Uid; older runtimes do not pass it.
    pub(crate) uid: Option<String>,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Attachment {
    /// Reads the parameters. All problems are in one error.
    pub(crate) fn read(
        command: Command,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CniError> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut problems = Vec::new();
        let required = ["CNI_CONTAINERID", "CNI_IFNAME"].into_iter();
        for name in required.chain((command != Command::Delete).then_some("CNI_NETNS")) {
            if get(name).is_none() {
                problems.push(format!("{name} is missing"));
            }
        }
        if let Some(id) = get("CNI_CONTAINERID").filter(|id| !is_name(id)) {
            problems.push(format!("CNI_CONTAINERID `{id}` is not an identifier"));
        }
        if let Some(name) = get("CNI_IFNAME").filter(|name| !is_interface(name)) {
            problems.push(format!("CNI_IFNAME `{name}` is not a network interface name"));
        }
        let pod = pod(&get("CNI_ARGS").unwrap_or_default()).map_err(|problem| problems.push(problem));
        if !problems.is_empty() {
            return Err(invalid(problems.join("; ")));
        }
        Ok(Self { netns: get("CNI_NETNS").map(PathBuf::from), pod: pod.unwrap_or_default() })
    }
}

/// Tests an interface name by the kernel's rules.
fn is_interface(name: &str) -> bool {
    name.len() <= 15
        && ![".", ".."].contains(&name)
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// Reads the pod from `CNI_ARGS`; `None` if the runtime is not Kubernetes'.
fn pod(arguments: &str) -> Result<Option<PodRef>, String> {
    let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
    let get = |key: &str| pairs.clone().find(|(other, _)| *other == key).map(|(_, value)| value.to_owned());
    let known = |key: &str| get(key).filter(|value| !value.is_empty());
    match (known("K8S_POD_NAMESPACE"), known("K8S_POD_NAME")) {
        (None, None) => Ok(None),
        (Some(namespace), Some(name)) if is_object_name(&namespace) && is_object_name(&name) => {
            Ok(Some(PodRef { namespace, name, uid: known("K8S_POD_UID") }))
        }
        (namespace, name) => Err(format!(
            "CNI_ARGS names the pod `{}/{}`: K8S_POD_NAMESPACE and K8S_POD_NAME must be names of Kubernetes",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        )),
    }
}

/// Tests a name of Kubernetes: it becomes part of a URL.
fn is_object_name(text: &str) -> bool {
    text.len() <= 253
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: Command, variables: &[(&str, &str)]) -> Result<Attachment, String> {
        let get =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Attachment::read(command, get).map_err(|error| {
            assert_eq!(error.code, Code::InvalidEnvironment);
            error.details
        })
    }

    #[test]
    fn missing_and_invalid_variables_are_named_together() {
        let all = [("CNI_CONTAINERID", "a1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/a")];
        let with = |more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
            more.iter().chain(&all).copied().collect()
        };
        let netns = Some(PathBuf::from("/run/netns/a"));
        assert_eq!(read(Command::Add, &all), Ok(Attachment { netns: netns.clone(), pod: None }));
        assert_eq!(
            read(Command::Add, &[("CNI_NETNS", "")]),
            Err("CNI_CONTAINERID is missing; CNI_IFNAME is missing; CNI_NETNS is missing".to_owned())
        );
        assert_eq!(read(Command::Delete, &all[..2]), Ok(Attachment::default()));
        assert_eq!(
            read(Command::Add, &with(&[("CNI_CONTAINERID", "../a"), ("CNI_IFNAME", "a/b")])),
            Err("CNI_CONTAINERID `../a` is not an identifier; CNI_IFNAME `a/b` is not a network interface name".to_owned())
        );
        let pod = |uid: Option<&str>| {
            Some(PodRef { namespace: "ns".into(), name: "pod-1".into(), uid: uid.map(Into::into) })
        };
        for (arguments, expected) in [
            ("", Some(None)),
            ("IgnoreUnknown=1;FOO=BAR", Some(None)),
            ("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod-1;K8S_POD_UID=u", Some(pod(Some("u")))),
            ("K8S_POD_NAME=pod-1;K8S_POD_NAMESPACE=ns", Some(pod(None))),
            ("K8S_POD_NAME=pod-1", None),
            ("K8S_POD_NAME=pod-1;K8S_POD_NAMESPACE=../../x", None),
            ("K8S_POD_NAME=pod?x;K8S_POD_NAMESPACE=ns", None),
        ] {
            let found = read(Command::Add, &with(&[("CNI_ARGS", arguments)]));
            assert_eq!(
                found.as_ref().ok().map(|found| found.pod.clone()),
                expected,
                "{arguments}: {found:?}"
            );
        }
    }

    #[test]
    fn commands_are_the_specifications() {
        for (name, command) in Command::ALL {
            assert_eq!(Command::parse(name), Ok(command));
        }
        let error = Command::parse("add").expect_err("a refusal");
        assert!(error.details.contains("CNI_COMMAND is `add`"), "{error}");
    }
}
