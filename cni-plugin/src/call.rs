//! What the runtime asks for: the `CNI_*` environment, checked, and the configuration behind it.
//!
//! Which variables a verb needs is the specification's table (CNI 1.1.0, "Parameters"); all that are missing are named in
//! one message. VERSION looks at none of them: libcni fills them with dummies.

use std::collections::BTreeMap;

use agent_api::PortKey;

use crate::conf::{Conf, Version};
use crate::error::Error;

/// CNI_COMMAND.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Verb {
    /// What the variable says.
    pub(crate) fn parse(text: &str) -> Result<Verb, Error> {
        Ok(match text {
            "ADD" => Verb::Add,
            "CHECK" => Verb::Check,
            "DEL" => Verb::Del,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            _ => return Err(Error::UnknownCommand(text.chars().take(64).collect())),
        })
    }

    /// The first version of the specification that has it.
    pub(crate) fn since(self) -> (&'static str, Version) {
        match self {
            Verb::Add => ("ADD", Version::V0_3),
            Verb::Check => ("CHECK", Version::V0_4),
            Verb::Del => ("DEL", Version::V0_3),
            Verb::Gc => ("GC", Version::V1_1),
            Verb::Status => ("STATUS", Version::V1_1),
            Verb::Version => ("VERSION", Version::V0_3),
        }
    }

    fn required(self) -> &'static [&'static str] {
        match self {
            Verb::Add | Verb::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Verb::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Verb::Gc => &["CNI_PATH"],
            Verb::Status | Verb::Version => &[],
        }
    }
}

/// The environment of one call. Text that a verb does not need may be empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    /// Directories with plugins, for delegation.
    pub(crate) path: String,
    /// CNI_ARGS.
    pub(crate) args: BTreeMap<String, String>,
    /// CNI_NETNS may be the namespace that we run in.
    pub(crate) own_netns_allowed: bool,
}

/// One call, checked.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) env: Env,
    pub(crate) conf: Conf,
}

impl Call {
    /// What the port is called.
    pub(crate) fn key(&self) -> PortKey {
        PortKey { container: self.env.container.clone(), interface: self.env.ifname.clone() }
    }

    /// Whether the pod's default route goes through this interface.
    pub(crate) fn is_default(&self) -> bool {
        self.conf.is_default.unwrap_or(self.env.ifname == "eth0")
    }
}

impl Env {
    /// Reads and checks what `verb` needs.
    pub(crate) fn read(verb: Verb, lookup: impl Fn(&str) -> Option<String>) -> Result<Env, Error> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let missing: Vec<_> = verb.required().iter().copied().filter(|name| set(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(Error::MissingEnv(missing));
        }
        let text = |name: &str| set(name).unwrap_or_default();
        let env = Env {
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            path: text("CNI_PATH"),
            args: if verb == Verb::Version { BTreeMap::new() } else { parse_args(&text("CNI_ARGS"))? },
            own_netns_allowed: matches!(text("CNI_NETNS_OVERRIDE").as_str(), "1" | "true" | "TRUE" | "True"),
        };
        if matches!(verb, Verb::Add | Verb::Check | Verb::Del) {
            env.check_names()?;
        }
        Ok(env)
    }

    fn check_names(&self) -> Result<(), Error> {
        let refuse = |name, value: &str, reason| {
            Err(Error::InvalidEnv { name, value: value.chars().take(64).collect(), reason })
        };
        if !is_identifier(&self.container) {
            return refuse(
                "CNI_CONTAINERID",
                &self.container,
                "must start with a letter or digit; then letters, digits, '.', '_' and '-'",
            );
        }
        if let Some(reason) = interface_fault(&self.ifname) {
            return refuse("CNI_IFNAME", &self.ifname, reason);
        }
        Ok(())
    }
}

/// Whether it can be a container ID or a network's name.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What the kernel would not like about an interface's name.
fn interface_fault(name: &str) -> Option<&'static str> {
    if name.len() > 15 {
        Some("must not be longer than 15 octets")
    } else if matches!(name, "." | "..") {
        Some("must not be . or ..")
    } else if name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control()) {
        Some("must not contain '/', ':' or white space")
    } else {
        None
    }
}

/// `K=V;K=V`. Unknown keys are ignored, whether or not IgnoreUnknown says so.
fn parse_args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::InvalidEnv {
                name: "CNI_ARGS",
                value: pair.chars().take(64).collect(),
                reason: "must be KEY=VALUE pairs with ';' between them",
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verb: Verb, vars: &[(&str, &str)]) -> Result<Env, Error> {
        Env::read(verb, |name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 3] = [("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];

    #[test]
    fn each_verb_names_all_that_it_misses() {
        for (verb, want) in [
            (Verb::Add, "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"),
            (Verb::Check, "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]"),
            (Verb::Del, "[CNI_CONTAINERID,CNI_IFNAME]"),
            (Verb::Gc, "[CNI_PATH]"),
        ] {
            let error = read(verb, &[("CNI_NETNS", ""), ("CNI_IFNAME", "")]).unwrap_err();
            assert_eq!((error.code(), error.to_string().contains(want)), (4, true), "{verb:?}: {error}");
        }
        assert!(read(Verb::Status, &[]).is_ok());
    }

    #[test]
    fn version_does_not_look_at_dummies() {
        let dummies = [("CNI_NETNS", "dummy"), ("CNI_IFNAME", "../.."), ("CNI_ARGS", "nonsense")];
        assert!(read(Verb::Version, &dummies).is_ok());
    }

    #[test]
    fn del_needs_no_namespace() {
        let env = read(Verb::Del, &[("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")]);
        assert_eq!(env.unwrap().netns, "");
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "..", "a/b", "a:b", "a b", "a\tb", "sixteencharacter", "a\u{7}"] {
            let vars = [("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/n"), ("CNI_IFNAME", name)];
            assert_eq!(read(Verb::Add, &vars).unwrap_err().code(), 4, "{name:?}");
        }
        for id in ["-c", ".c", "a/b", "c1\n", "ü"] {
            let vars = [("CNI_CONTAINERID", id), ("CNI_NETNS", "/n"), ("CNI_IFNAME", "eth0")];
            assert_eq!(read(Verb::Del, &vars).unwrap_err().code(), 4, "{id:?}");
        }
        assert_eq!(read(Verb::Add, &ADD).unwrap().ifname, "eth0");
    }

    #[test]
    fn args_are_pairs() {
        let args = parse_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=city;X=a=b;").unwrap();
        assert_eq!((args["K8S_POD_NAMESPACE"].as_str(), args["X"].as_str()), ("city", "a=b"));
        assert!(parse_args("").unwrap().is_empty());
        assert_eq!(parse_args("K8S_POD_NAMESPACE").unwrap_err().code(), 4);
    }

    #[test]
    fn unknown_command_is_code_4() {
        assert_eq!(Verb::parse("add").unwrap_err().code(), 4);
        assert_eq!(Verb::parse("VERSION").unwrap(), Verb::Version);
    }
}
