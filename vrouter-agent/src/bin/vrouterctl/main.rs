//! `vrouterctl`: what the agent knows, in tables for people and in JSON for scripts; and VM ports.
//!
//! It asks the agent's local API and decides nothing. With `--json` it prints the API's reply as it is. Exit codes:
//! 0 done, 1 the agent said no, 2 usage, 3 the agent cannot be reached.
#![forbid(unsafe_code)]

mod args;
mod render;
mod table;

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agent_api::path::{self, Target};
use agent_api::{AttachPort, Client, ClientError, DetachPort, PortKey, PortKind, RouteFilter, TraceRequest};
use clap::Parser;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use args::{Bgp, Cli, Command, Port, PortAdd, RouteArgs, Show};

const REFUSED: u8 = 1;
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = Cli::parse();
    match run(&cli) {
        Ok(text) => print(&text),
        Err(error) => {
            eprintln!("vrouterctl: {}", explain(&error, &cli.socket));
            match error {
                ClientError::Refused(_) => ExitCode::from(REFUSED),
                _ => ExitCode::from(UNREACHABLE),
            }
        }
    }
}

/// The agent, and how its replies are printed.
struct Asker {
    client: Client,
    json: bool,
}

impl Asker {
    fn get<R: DeserializeOwned>(
        &mut self,
        target: &str,
        render: fn(&R) -> String,
    ) -> Result<String, ClientError> {
        if self.json { Ok(pretty(&self.client.get(target)?)) } else { Ok(render(&self.client.get(target)?)) }
    }

    fn post<R: DeserializeOwned>(
        &mut self,
        target: &str,
        body: &impl Serialize,
        render: impl FnOnce(&R) -> String,
    ) -> Result<String, ClientError> {
        if self.json {
            Ok(pretty(&self.client.post(target, body)?))
        } else {
            Ok(render(&self.client.post(target, body)?))
        }
    }
}

fn run(cli: &Cli) -> Result<String, ClientError> {
    let client = Client::connect(&cli.socket, Duration::from_secs(cli.timeout))?;
    let mut ask = Asker { client, json: cli.json };
    match &cli.command {
        Command::Show(show) => run_show(&mut ask, show),
        Command::Trace(trace) => {
            let request = TraceRequest { vrf: trace.vrf.clone(), src: trace.source, dst: trace.destination };
            ask.post(path::TRACE, &request, render::trace)
        }
        Command::Port(Port::Add(add)) => {
            ask.post(path::ATTACH, &attachment(add), |reply| render::attached(&add.interface, reply))
        }
        Command::Port(Port::Delete(delete)) => {
            let request = DetachPort { key: tap_key(&delete.interface) };
            ask.post(path::DETACH, &request, |reply| render::detached(&delete.interface, reply))
        }
    }
}

fn run_show(ask: &mut Asker, show: &Show) -> Result<String, ClientError> {
    match show {
        Show::Status => ask.get(path::STATUS, render::status),
        Show::Bgp(Bgp::Summary) => ask.get(path::BGP_SUMMARY, render::bgp::summary),
        Show::Bgp(Bgp::Neighbors { address }) => {
            let target = Target::new(path::BGP_NEIGHBORS).with("address", *address);
            ask.get(target.as_str(), render::bgp::neighbors)
        }
        Show::Bgp(Bgp::Routes(args)) => {
            ask.get(Target::bgp_routes(&filter(args)).as_str(), render::bgp::routes)
        }
        Show::Vrfs => ask.get(path::VRFS, render::vrfs),
        Show::Routes { vrf, prefix } => {
            let target = Target::new(path::ROUTES).with("vrf", vrf.as_ref()).with("prefix", *prefix);
            ask.get(target.as_str(), render::routes)
        }
        Show::Ports => ask.get(path::PORTS, render::ports),
        Show::Labels => ask.get(path::LABELS, render::labels),
        Show::Tunnels => ask.get(path::TUNNELS, render::tunnels),
        Show::Drops { all: true } => ask.get(path::DROPS, render::drops_all),
        Show::Drops { all: false } => ask.get(path::DROPS, render::drops),
    }
}

fn filter(args: &RouteArgs) -> RouteFilter {
    RouteFilter {
        family: args.family.clone(),
        rd: args.rd,
        rt: args.rt,
        neighbor: args.neighbor,
        // Neither flag: what is held from the neighbor.
        received: if args.advertised { Some(false) } else { args.received.then_some(true) },
        prefix: args.prefix,
    }
}

/// A tap is called by its own name, inside and out.
fn tap_key(interface: &str) -> PortKey {
    PortKey { container: interface.to_owned(), interface: interface.to_owned() }
}

fn attachment(add: &PortAdd) -> AttachPort {
    AttachPort {
        key: tap_key(&add.interface),
        kind: PortKind::Tap,
        host_interface: add.interface.clone(),
        mac: add.mac,
        netns: None,
        namespace: None,
        name: add.name.clone(),
        vrf: Some(add.vrf.clone()),
        configured_vrf: None,
        addresses: add.addresses.clone(),
        prefixes: add.prefixes.clone(),
        mtu: add.mtu,
    }
}

fn pretty(reply: &Value) -> String {
    format!("{reply:#}\n")
}

fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("vrouterctl: cannot write: {error}");
            ExitCode::from(REFUSED)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What went wrong, and what to do about it.
fn explain(error: &ClientError, socket: &Path) -> String {
    let advice = match error {
        ClientError::Refused(_) => return error.to_string(),
        ClientError::Unreachable { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "only root may use this socket: run vrouterctl as root".to_owned()
        }
        ClientError::Unreachable { .. } => format!(
            "is vrouter-agent running? Start it (systemctl start vrouter-agent), or name the `socket` of its \
             configuration: vrouterctl --socket PATH (now {})",
            socket.display()
        ),
        ClientError::Timeout(_) => {
            "it is busy or stopped: look at its log, or wait longer with --timeout SECONDS".to_owned()
        }
        ClientError::Protocol(_) => {
            "something else listens on this socket, or the agent is of another version than vrouterctl"
                .to_owned()
        }
    };
    format!("{error}\n{advice}")
}
