//! `vrouter-cni`: answers one CNI call (specification 0.3.1, 0.4.0, 1.0.0, 1.1.0), then exits.
//!
//! ```text
//!   runtime ──env, stdin──▶ vrouter-cni ──AttachPort──▶ vrouter-agent      (Unix socket)
//!           ◀──stdout─────      │
//!                               └──netlink──▶ veth pair, pod's namespace   (the agent never enters one)
//! ```
//! One file per verb: `add`, `check`, `del`, `gc`, `status`. The plugin keeps nothing: names follow from the call, and what has
//! to last is the agent's. The one exception is a DEL that the agent could not take, which waits for it in a spool.
//!
//! Without CNI_COMMAND it is a person's program: `vrouter-cni install` puts it where runtimes look.
//!
//! This file, and the installer, are the only ones that print to stdout. Results and errors go to stdout as one JSON object, since libcni reads errors
//! there first; hints for a person go to stderr. There is no unsafe code and no async runtime.
#![forbid(unsafe_code)]

mod add;
mod call;
mod check;
mod conf;
mod del;
mod detach;
mod error;
mod gc;
mod install;
mod ipam;
mod name;
mod netlink;
mod netns;
mod offload;
mod result;
mod shape;
mod status;
mod undo;
mod veth;
mod wishes;

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;

use crate::call::{Call, Env, Verb};
use crate::conf::{Conf, Version};
use crate::error::Error;

fn main() -> ExitCode {
    let Some(command) = lookup("CNI_COMMAND").filter(|command| !command.is_empty()) else {
        // A person, not a runtime.
        if let Some(code) = install::run(std::env::args().skip(1)) {
            return code;
        }
        // The specification's way to ask what this is.
        let versions = conf::SUPPORTED.map(Version::text).join(", ");
        eprintln!("vrouter-cni {}", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {versions}");
        return ExitCode::SUCCESS;
    };
    // What an error says before the configuration's version is known.
    let mut version = Version::V1_1;
    match run(&command, &mut version) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => print(&result, ExitCode::SUCCESS),
        Err(error) => print(&error.to_json(version), ExitCode::FAILURE),
    }
}

fn run(command: &str, version: &mut Version) -> Result<Option<Value>, Error> {
    let verb = Verb::parse(command)?;
    let env = Env::read(verb, lookup)?;
    let bytes = conf::read(std::io::stdin().lock())?;
    let (value, asked) = conf::decode(&bytes)?;
    if verb == Verb::Version {
        return Ok(Some(result::versions(&asked)));
    }
    *version = Version::parse(&asked)?;
    conf::require(verb, *version)?;
    let call = Call { env, conf: Conf::parse(*version, value, bytes)? };
    match verb {
        Verb::Add => add::add(&call).map(Some),
        Verb::Check => check::check(&call).map(|()| None),
        Verb::Del => del::del(&call).map(|()| None),
        Verb::Gc => gc::gc(&call).map(|()| None),
        Verb::Status => status::status(&call).map(|()| None),
        Verb::Version => Ok(None),
    }
}

fn lookup(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn print(json: &Value, code: ExitCode) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{json}").and_then(|()| stdout.flush()) {
        Ok(()) => code,
        // The runtime has gone. It takes the silence for a failure and calls DEL.
        Err(_) => ExitCode::FAILURE,
    }
}
