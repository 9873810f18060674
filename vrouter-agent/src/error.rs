//! What ends the agent.

use std::io;
use std::path::PathBuf;

/// Why the agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(crate::config::ConfigErrors),
    /// The configuration could not be read.
    #[error("read {path}: {source} (name the file with --config)", path = path.display())]
    ReadConfig {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file or socket of ours could not be used.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What we were doing: `read`, `create` …
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent uses the same state directory.
    #[error("{path} is locked: another vrouter-agent uses this state directory", path = .0.display())]
    Locked(PathBuf),
    /// The dataplane did not start.
    #[error("start the dataplane: {0} (the agent needs root, or CAP_NET_ADMIN and CAP_NET_RAW)")]
    Dataplane(String),
    /// The BGP speaker did not start.
    #[error("start BGP: {0}")]
    Bgp(String),
    /// The API's socket could not be had.
    #[error("{0}")]
    Socket(String),
    /// Netlink did not answer.
    #[error("netlink: {0}")]
    Netlink(String),
    /// The runtime did not start.
    #[error("start the runtime: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// The exit status: what to look at first.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::ReadConfig { .. } => 2,
            Error::Locked(_) | Error::Socket(_) => 3,
            Error::Dataplane(_) | Error::Netlink(_) => 4,
            Error::Bgp(_) => 5,
            Error::Io { .. } | Error::Runtime(_) => 1,
        }
    }
}
