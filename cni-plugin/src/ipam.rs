//! The delegated IPAM plugin: found in CNI_PATH, given our environment and the whole configuration, and bounded in time.
//!
//! Addresses, DNS and the destinations of routes in its result are used; the gateway is the same for every pod (see `veth`).

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use vrouter_types::Prefix;

use crate::call::Call;
use crate::conf::{RouteKeys, parse_address, parse_route};
use crate::error::Error;

/// For one call of it. containerd and kubelet give all of ADD two minutes or more.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 1 << 20;

/// What the IPAM plugin gave.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    /// IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) routes: Vec<Prefix>,
    pub(crate) dns: Option<Map<String, Value>>,
}

/// Why the IPAM plugin did not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpamError {
    #[error("the IPAM plugin {plugin:?} is in none of the directories of CNI_PATH ({path})")]
    Absent { plugin: String, path: String },
    #[error("cannot run the IPAM plugin {plugin:?}: {reason}")]
    Broken { plugin: String, reason: String },
    #[error("the IPAM plugin {plugin:?} did not answer within {} ms", after.as_millis())]
    Timeout { plugin: String, after: Duration },
    #[error("{plugin}: {msg}")]
    Said { plugin: String, code: u32, msg: String, details: String },
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct IpamResult {
    #[serde(default)]
    ips: Vec<IpamAddress>,
    routes: Option<Vec<RouteKeys>>,
    dns: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct IpamAddress {
    address: String,
}

impl IpamError {
    /// Its own number, where it said one.
    pub(crate) fn code(&self) -> u32 {
        match self {
            IpamError::Absent { .. } | IpamError::Broken { .. } => 105,
            IpamError::Timeout { .. } => 11,
            IpamError::Said { code: 0, .. } => 105,
            IpamError::Said { code, .. } => *code,
        }
    }

    /// Its own words.
    pub(crate) fn details(&self) -> Option<String> {
        match self {
            IpamError::Said { details, .. } if !details.is_empty() => Some(details.clone()),
            _ => None,
        }
    }
}

/// Asks it for addresses.
pub(crate) fn add(call: &Call, plugin: &str) -> Result<Leased, Error> {
    let output = run(call, plugin, "ADD", TIMEOUT)?;
    let broken = |reason: String| IpamError::Broken { plugin: plugin.to_owned(), reason };
    let result: IpamResult = serde_json::from_slice(&output)
        .map_err(|error| broken(format!("its result is unusable: {error}")))?;
    let unusable = |error: Error| broken(format!("its result is unusable: {error}"));
    let addresses: Result<Vec<_>, _> = result.ips.iter().map(|ip| parse_address(&ip.address)).collect();
    let mut addresses = addresses.map_err(unusable)?;
    let routes = result.routes.unwrap_or_default();
    let routes: Result<Vec<_>, _> = routes.iter().map(|route| parse_route(&route.dst)).collect();
    let routes = routes.map_err(unusable)?;
    if addresses.is_empty() {
        return Err(broken("it gave no address".to_owned()).into());
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(Leased { addresses, routes, dns: result.dns.filter(|dns| !dns.is_empty()) })
}

/// Passes a verb on, if there is a delegate.
pub(crate) fn forward(call: &Call, verb: &str, timeout: Duration) -> Result<(), Error> {
    match &call.conf.ipam {
        Some(plugin) => Ok(run(call, plugin, verb, timeout).map(drop)?),
        None => Ok(()),
    }
}

fn run(call: &Call, plugin: &str, verb: &str, timeout: Duration) -> Result<Vec<u8>, IpamError> {
    let broken =
        |error: std::io::Error| IpamError::Broken { plugin: plugin.to_owned(), reason: error.to_string() };
    let mut command = Command::new(find(plugin, &call.env.path)?);
    command.env("CNI_COMMAND", verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(broken)?;
    let (sender, receiver) = mpsc::channel();
    talk(&mut child, call.conf.bytes.clone(), sender);
    let Ok(output) = receiver.recv_timeout(timeout) else {
        // It may be gone already; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
        return Err(IpamError::Timeout { plugin: plugin.to_owned(), after: timeout });
    };
    let status = child.wait().map_err(broken)?;
    let output = output.map_err(broken)?;
    if status.success() { Ok(output) } else { Err(refusal(plugin, &output, status.to_string())) }
}

/// Feeds it and reads it on a thread, since a plugin that hangs would hold us up for ever. The thread ends with us.
fn talk(child: &mut Child, input: Vec<u8>, sender: mpsc::Sender<std::io::Result<Vec<u8>>>) {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    std::thread::spawn(move || {
        // A plugin that does not read what it is told is free to do so.
        let _ = stdin.map(|mut pipe| pipe.write_all(&input));
        let mut output = Vec::new();
        let read = stdout.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT).read_to_end(&mut output));
        // Nobody listens any more when the time is over.
        let _ = sender.send(read.map(|_| output));
    });
}

fn refusal(plugin: &str, output: &[u8], status: String) -> IpamError {
    match serde_json::from_slice::<Refusal>(output) {
        Ok(said) if !said.msg.is_empty() => IpamError::Said {
            plugin: plugin.to_owned(),
            code: said.code,
            msg: said.msg,
            details: said.details,
        },
        _ => IpamError::Broken {
            plugin: plugin.to_owned(),
            reason: format!("it failed ({status}) without a word"),
        },
    }
}

fn find(plugin: &str, path: &str) -> Result<PathBuf, IpamError> {
    let mut candidates = std::env::split_paths(path).map(|directory| directory.join(plugin));
    let found = candidates.find(|file| file.is_file());
    found.ok_or_else(|| IpamError::Absent { plugin: plugin.to_owned(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::call::Env;
    use crate::conf::{Conf, Version};

    /// A call whose IPAM plugin is this shell script.
    fn call(script: &str) -> (tempfile::TempDir, Call) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("canned");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = Env { path: format!("/nowhere:{}", dir.path().display()), ..Env::default() };
        let conf = serde_json::json!({ "cniVersion": "1.0.0", "name": "n", "ipam": { "type": "canned" } });
        let bytes = conf.to_string().into_bytes();
        (dir, Call { env, conf: Conf::parse(Version::V1_0, conf, bytes).unwrap() })
    }

    #[test]
    fn addresses_come_ipv4_first() {
        let (_dir, call) = call(
            r#"grep -q '"name":"n"' && test $CNI_COMMAND = ADD && echo '{"ips":[{"address":"fd00::5/64"},{"address":"10.0.0.5/24","gateway":"10.0.0.1"}],"dns":{}}'"#,
        );
        let leased = add(&call, "canned").unwrap();
        assert_eq!(
            leased.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.5", "fd00::5"]
        );
        assert!(leased.dns.is_none());
    }

    #[test]
    fn a_refusal_keeps_its_number_and_words() {
        let (_dir, call) =
            call(r#"cat >/dev/null; echo '{"code":11,"msg":"no address left","details":"d"}'; exit 1"#);
        let error = add(&call, "canned").unwrap_err();
        let json = error.to_json(Version::V1_0);
        assert_eq!(
            (json["code"].as_u64(), json["msg"].as_str(), json["details"].as_str()),
            (Some(11), Some("canned: no address left"), Some("d"))
        );
    }

    #[test]
    fn nonsense_and_absence_are_named() {
        for script in ["echo nonsense", "echo '{}'", "exit 3", r#"echo '{"ips":[{"address":"x"}]}'"#] {
            let (_dir, call) = call(script);
            let error = add(&call, "canned").unwrap_err();
            assert_eq!(
                (error.code(), error.to_string().contains("canned")),
                (105, true),
                "{script}: {error}"
            );
            assert_eq!(add(&call, "absent").unwrap_err().code(), 105);
        }
    }

    #[test]
    fn a_plugin_that_hangs_is_left_behind() {
        let (_dir, call) = call("exec sleep 600");
        let error = run(&call, "canned", "STATUS", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.code(), 11);
    }
}
