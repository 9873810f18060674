//! Everything a call can fail with, and how CNI says it: `{cniVersion, code, msg, details}` on stdout.
//!
//! ```text
//!    0..99  the specification's numbers (and 8, which Go's library added for a bad namespace)
//!      100  the VRF does not admit the pod          103  no address, label or port is left
//!      101  the agent knows no such VRF             104  CHECK: what ADD made is not there any more
//!      102  a name or address is another's          105  the delegated IPAM plugin failed and said no code
//!      999  the kernel or the agent refused in a way that only a person can judge
//! ```
//! containerd shows a person `msg` and `details` only, never the code: what to do stands in them. Failures of DEL avoid
//! the words that runtimes take for success.

use std::io;
use std::path::PathBuf;

use agent_api::client::{ClientError, ProtocolError};
use agent_api::{ApiError, ErrorKind};
use serde_json::{Value, json};

use crate::conf::{SUPPORTED, Version};
use crate::ipam::IpamError;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("required env variables [{}] missing", .0.join(","))]
    MissingEnv(Vec<&'static str>),
    #[error("invalid {name} {value:?}: {reason}")]
    InvalidEnv { name: &'static str, value: String, reason: &'static str },
    #[error("unknown CNI_COMMAND {0:?}")]
    UnknownCommand(String),
    #[error("cannot read the network configuration from stdin: {0}")]
    Stdin(#[source] io::Error),
    #[error("the network configuration on stdin cannot be decoded: {0}")]
    Decode(String),
    #[error("incompatible CNI versions")]
    Version(String),
    #[error("CNI_COMMAND {verb} needs cniVersion {since} or later, but the configuration says {asked}")]
    TooOld { verb: &'static str, since: &'static str, asked: &'static str },
    #[error("invalid network configuration: {0}")]
    Conf(String),
    #[error("cannot use the network namespace {}: {reason}", path.display())]
    Netns { path: PathBuf, reason: String },
    #[error("the container has an interface {0:?} already")]
    NameTaken(String),
    #[error("{doing}: {source}")]
    Kernel { doing: String, source: io::Error },
    #[error("{0}")]
    Agent(#[from] ClientError),
    #[error("the agent's answer is unusable: {0}")]
    Answer(String),
    #[error("the agent is not ready")]
    NotReady(Vec<String>),
    #[error("the agent does not answer, and pods have no network without it")]
    Away(String),
    #[error("{0}")]
    Ipam(#[from] IpamError),
    #[error("cannot leave the removal for the agent to do later: {0}")]
    Spool(#[source] io::Error),
    #[error("CHECK: {0}")]
    Check(String),
}

impl Error {
    /// What the kernel refused, and while doing what.
    pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Kernel { doing, source }
    }

    /// The number that CNI gives it.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Error::Version(_) | Error::TooOld { .. } => 1,
            Error::MissingEnv(_) | Error::InvalidEnv { .. } | Error::UnknownCommand(_) => 4,
            Error::Stdin(_) => 5,
            Error::Decode(_) => 6,
            Error::Conf(_) => 7,
            Error::Netns { .. } => 8,
            Error::Spool(_) => 11,
            Error::NotReady(_) => 50,
            Error::Away(_) => 51,
            Error::NameTaken(_) => 102,
            Error::Check(_) => 104,
            Error::Ipam(error) => error.code(),
            Error::Agent(ClientError::Refused(refusal)) => refusal_code(refusal),
            Error::Agent(ClientError::Unreachable { .. } | ClientError::Timeout(_)) => 11,
            // It broke off: it was stopped or restarted while it worked for us.
            Error::Agent(ClientError::Protocol(ProtocolError::Closed | ProtocolError::Io(_))) => 11,
            Error::Agent(ClientError::Protocol(_)) | Error::Answer(_) | Error::Kernel { .. } => 999,
        }
    }

    /// What a person can do about it.
    fn details(&self) -> Option<String> {
        let list = || SUPPORTED.map(Version::text).join(", ");
        match self {
            Error::Version(asked) => Some(format!("config is {asked:?}, plugin supports [{}]", list())),
            Error::UnknownCommand(_) => Some("known are ADD, CHECK, DEL, GC, STATUS and VERSION".to_owned()),
            Error::NotReady(problems) => Some(problems.join("; ")),
            Error::Away(reason) => Some(reason.clone()),
            Error::NameTaken(_) => Some("choose another CNI_IFNAME, or remove that interface".to_owned()),
            Error::Ipam(error) => error.details(),
            Error::Agent(ClientError::Unreachable { .. }) => Some(
                "is vrouter-agent running, and is \"socket\" in the CNI configuration its socket?".to_owned(),
            ),
            Error::Agent(ClientError::Timeout(_)) => Some("the call can be repeated".to_owned()),
            Error::Agent(ClientError::Refused(refusal)) => advice(refusal.kind).map(str::to_owned),
            _ => None,
        }
    }

    /// The object for stdout.
    pub(crate) fn to_json(&self, version: Version) -> Value {
        let mut object =
            json!({ "cniVersion": version.text(), "code": self.code(), "msg": self.to_string() });
        if let Some(details) = self.details() {
            object["details"] = Value::String(details);
        }
        object
    }
}

fn refusal_code(refusal: &ApiError) -> u32 {
    match refusal.kind {
        ErrorKind::BadRequest | ErrorKind::TooLarge => 7,
        ErrorKind::NotAdmitted => 100,
        ErrorKind::NotFound => 101,
        ErrorKind::Conflict => 102,
        ErrorKind::Exhausted => 103,
        ErrorKind::Unavailable => 11,
        ErrorKind::Internal => 999,
    }
}

fn advice(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotAdmitted => Some("see `namespaces` of the VRF in the agent's configuration"),
        ErrorKind::NotFound => Some("see the annotation vrouter.dev/vrf and `vrouterctl show vrfs`"),
        ErrorKind::Exhausted => Some("see `vrouterctl show vrfs` for what is in use"),
        ErrorKind::Conflict => Some("see `vrouterctl show ports`"),
        ErrorKind::BadRequest | ErrorKind::TooLarge | ErrorKind::Unavailable | ErrorKind::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_variable_is_in_one_message() {
        let json = Error::MissingEnv(vec!["CNI_CONTAINERID", "CNI_NETNS"]).to_json(Version::V1_0);
        assert_eq!(
            json,
            json!({ "cniVersion": "1.0.0", "code": 4,
                    "msg": "required env variables [CNI_CONTAINERID,CNI_NETNS] missing" })
        );
    }

    #[test]
    fn incompatible_versions_list_what_is_supported() {
        let json = Error::Version("9.9.9".to_owned()).to_json(Version::V1_1);
        assert_eq!(json["code"], 1);
        assert_eq!(json["details"], "config is \"9.9.9\", plugin supports [0.3.1, 0.4.0, 1.0.0, 1.1.0]");
    }

    #[test]
    fn refusals_of_the_agent_have_codes_and_the_agents_words() {
        let refused = |kind| Error::Agent(ClientError::Refused(ApiError::new(kind, "words")));
        for (kind, code) in [
            (ErrorKind::NotAdmitted, 100),
            (ErrorKind::NotFound, 101),
            (ErrorKind::Conflict, 102),
            (ErrorKind::Exhausted, 103),
            (ErrorKind::Unavailable, 11),
        ] {
            assert_eq!((refused(kind).code(), refused(kind).to_string()), (code, "words".to_owned()));
        }
    }
}
