//! `vrouterctl`: what the agent knows, in tables for people and in JSON for scripts; and VM ports.
//!
//! It asks the agent's local API and decides nothing. With `--json` it prints the API's reply as it is. Exit codes:
//! 0 done, 1 the agent said no (`status`: something is wrong), 2 usage, 3 the agent cannot be reached.
#![forbid(unsafe_code)]

mod args;
mod capture;
mod groups;
mod machine;
mod reach;
mod render;
mod table;

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use agent_api::path::{self, Target};
use agent_api::{
    AttachPort, BgpClear, BgpClearKind, Client, ClientError, DetachPort, PortKey, PortKind, ProtocolError,
    RouteFilter, Status, TraceRequest,
};
use clap::Parser;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use args::{Bgp, Clear, Cli, Command, Monitor, Port, PortAdd, RouteArgs, Show, Soft};

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Monitor(Monitor::Bgp) => monitor(&cli, path::BGP_MONITOR),
        Command::Capture(args) => capture::run(&cli, args),
        Command::Show(show) if watched(show).is_some() => watch(&cli, show),
        _ => run(&cli).map(|(text, verdict)| print(&text).unwrap_or(verdict)),
    };
    done.unwrap_or_else(|error| {
        eprintln!("vrouterctl: {}", explain(&error, &cli.socket));
        match error {
            ClientError::Refused(_) => ExitCode::from(REFUSED),
            _ => ExitCode::from(UNREACHABLE),
        }
    })
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

    /// The only view that is also a verdict.
    fn status(&mut self) -> Result<(String, ExitCode), ClientError> {
        let reply: Value = self.client.get(path::STATUS)?;
        let status: Status = serde_json::from_value(reply.clone())
            .map_err(|source| ProtocolError::Json { status: 200, source })?;
        let text = if self.json { pretty(&reply) } else { render::status(&status) };
        let is_healthy = status.ready && status.problems.is_empty();
        Ok((text, if is_healthy { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }))
    }
}

fn run(cli: &Cli) -> Result<(String, ExitCode), ClientError> {
    let client = Client::connect(&cli.socket, Duration::from_secs(cli.timeout))?;
    let mut ask = Asker { client, json: cli.json };
    let text = match &cli.command {
        Command::Status => return ask.status(),
        Command::Show(show) => run_show(&mut ask, show),
        Command::Reload => ask.post(path::RELOAD, &Value::Null, render::reloaded),
        Command::Clear(Clear::Bgp { address, soft }) => {
            let request = BgpClear { address: *address, kind: clear_kind(soft.as_ref()) };
            ask.post(path::BGP_CLEAR, &request, render::bgp::cleared)
        }
        Command::Explain(it) => {
            let target =
                Target::new(path::EXPLAIN).with("vrf", Some(&it.vrf)).with("prefix", Some(it.prefix));
            ask.get(target.as_str(), render::explain::explanation)
        }
        // Never comes here.
        Command::Monitor(_) | Command::Capture(_) => Ok(String::new()),
        Command::Trace(trace) => {
            let request = TraceRequest { vrf: trace.vrf.clone(), src: trace.source, dst: trace.destination };
            ask.post(path::TRACE, &request, render::trace)
        }
        Command::SecurityGroup(group) => groups::run(&mut ask, group),
        Command::Port(Port::Add(add)) => {
            ask.post(path::ATTACH, &attachment(add), |reply| render::attached(&add.interface, reply))
        }
        Command::Port(Port::Delete(delete)) => {
            let request = DetachPort { key: tap_key(&delete.interface, delete.vlan) };
            ask.post(path::DETACH, &request, |reply| render::detached(&delete.interface, reply))
        }
    }?;
    Ok((text, ExitCode::SUCCESS))
}

/// Prints lines as they come. Ends with Ctrl-C, when the agent stops, or when nobody reads any more.
fn monitor(cli: &Cli, target: &str) -> Result<ExitCode, ClientError> {
    let client = Client::connect(&cli.socket, Duration::from_secs(cli.timeout))?;
    on_interrupt(|| eprintln!("\nThat is all; the agent goes on."));
    let mut out = io::stdout().lock();
    let mut is_read = true;
    client.stream(target, |line| {
        let text = if cli.json { line.to_owned() } else { render::monitored(line) };
        is_read = writeln!(out, "{text}").and_then(|()| out.flush()).is_ok();
        is_read
    })?;
    if is_read {
        eprintln!("The agent has stopped; there is nothing more to see until it is back.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Every how many seconds a view is to be shown.
fn watched(show: &Show) -> Option<Duration> {
    let seconds = match show {
        Show::Ports(it) | Show::Tunnels(it) => it.watch,
        Show::Drops { watch, .. } => watch.watch,
        _ => None,
    };
    seconds.map(Duration::from_secs)
}

/// Shows a view again and again; on a terminal, always at the same place.
fn watch(cli: &Cli, show: &Show) -> Result<ExitCode, ClientError> {
    const CLEAR: &str = "\x1b[H\x1b[2J";
    on_interrupt(|| {});
    let client = Client::connect(&cli.socket, Duration::from_secs(cli.timeout))?;
    let mut ask = Asker { client, json: cli.json };
    let clear = if io::stdout().is_terminal() && !cli.json { CLEAR } else { "" };
    loop {
        let text = run_show(&mut ask, show)?;
        let written = write!(io::stdout().lock(), "{clear}{text}").and_then(|()| io::stdout().flush());
        if written.is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(watched(show).unwrap_or(Duration::from_secs(2)));
    }
}

fn run_show(ask: &mut Asker, show: &Show) -> Result<String, ClientError> {
    match show {
        Show::Status => ask.get(path::STATUS, render::status),
        Show::Flows { vrf, port, limit } => {
            let target = Target::new(path::FLOWS).with("vrf", vrf.as_ref()).with("port", port.as_ref());
            ask.get(target.with("limit", *limit).as_str(), render::flows)
        }
        Show::Memory => ask.get(path::MEMORY, render::agent::memory),
        Show::Openstack => ask.get(path::OPENSTACK, render::openstack),
        Show::Bgp(Bgp::Rtc) => ask.get(path::BGP_RTC, render::bgp::rtc),
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
        Show::Ports(_) => ask.get(path::PORTS, render::ports),
        Show::Labels => ask.get(path::LABELS, render::labels),
        Show::Tunnels(_) => ask.get(path::TUNNELS, render::tunnels),
        Show::Drops { all: true, .. } => ask.get(path::DROPS, render::drops_all),
        Show::Drops { all: false, .. } => ask.get(path::DROPS, render::drops),
    }
}

fn clear_kind(soft: Option<&Soft>) -> BgpClearKind {
    match soft {
        None => BgpClearKind::Hard,
        Some(Soft::Soft { direction }) if direction == "in" => BgpClearKind::SoftIn,
        Some(Soft::Soft { .. }) => BgpClearKind::SoftOut,
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
/// Sub-ports of a tap are told apart by their tag.
fn tap_key(interface: &str, vlan: Option<u16>) -> PortKey {
    let name = vlan.map_or_else(|| interface.to_owned(), |vlan| format!("vlan{vlan}"));
    PortKey { container: interface.to_owned(), interface: name }
}

fn attachment(add: &PortAdd) -> AttachPort {
    let port = AttachPort {
        name: add.name.clone(),
        vrf: Some(add.vrf.clone()),
        addresses: add.addresses.clone(),
        prefixes: add.prefixes.clone(),
        mtu: add.mtu,
        vlan: add.vlan,
        vm: add.machine.services(),
        ..AttachPort::new(tap_key(&add.interface, add.vlan), PortKind::Tap, add.interface.clone(), add.mac)
    };
    add.reach.put(port)
}

fn pretty(reply: &Value) -> String {
    format!("{reply:#}\n")
}

/// From here on Ctrl-C is the usual end: what there is left to do, and exit code 0.
fn on_interrupt(last: impl FnOnce() + Send + 'static) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async move {
            let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return };
            drop(ready);
            interrupt.recv().await;
            last();
            std::process::exit(0);
        });
    });
    // Nothing is ever sent: it ends once Ctrl-C is taken care of, or cannot be.
    let _: Result<(), _> = is_ready.recv();
}

/// `Some`: it could not be printed.
fn print(text: &str) -> Option<ExitCode> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("vrouterctl: cannot write: {error}");
            Some(ExitCode::from(REFUSED))
        }
        _ => None,
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
