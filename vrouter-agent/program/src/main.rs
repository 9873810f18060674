//! `vrouter-agent`: flags, logging, run.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use vrouter_agent::config::Config;
use vrouter_agent::install::{self, Places};
use vrouter_agent::journal::{self, Journal};
use vrouter_agent::service::{Manager, hand_over};
use vrouter_agent::{Error, agent};

const EXAMPLES: &str = "\
Examples:
  vrouter-agent --config /etc/vrouter/agent.toml
      Run. Stops cleanly on SIGTERM; workloads stay attached for the next start. SIGHUP reads the file again;
      SIGUSR2 stops for a restart: neighbors that know graceful restart keep our routes meanwhile.
  vrouter-agent --config agent.toml --check-config
      Say whether the file is good, every mistake with its line, and exit with 0 or 2.
  vrouter-agent --config agent.toml --log debug
      Say every event and what it led to.
  vrouter-agent --config agent.toml --log warn,bgp_peer=debug
      Say little, but all about BGP.

  vrouter-agent install
      Put this program, its neighbors, the systemd unit and a configuration to begin with where they belong.

Exit codes: 0 stopped as told, 1 could not go on (a file of its own, the runtime), 2 a mistake in the configuration or
on the command line, 3 another agent has the state directory or the socket, 4 no right to what forwarding needs
(CAP_NET_ADMIN, CAP_NET_RAW, /dev/net/tun) or a kernel without it, 5 BGP could not start (its listen address).";

/// The agent of a vrouter node: L3VPN for pods and virtual machines, over any IP network.
#[derive(Debug, Parser)]
#[command(name = "vrouter-agent", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/vrouter/agent.toml")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check_config: bool,
    /// What to log: error, warn, info, debug or trace, also by module. Default: RUST_LOG, or else info.
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    errand: Option<Errand>,
}

/// What is done instead of running.
#[derive(Debug, Subcommand)]
enum Errand {
    /// Put programs, the systemd unit and a configuration to begin with in their places, and start the service
    #[command(
        after_help = "Examples:\n  vrouter-agent install\n  vrouter-agent install --prefix /usr --root /mnt/image\n\n\
                            Run it again to upgrade: what has not changed stays, the configuration always, and a running\n\
                            agent is restarted without losing a packet. Exit codes: 0 done, 1 not."
    )]
    Install {
        #[command(flatten)]
        places: Places,
        /// Leave the service as it is.
        #[arg(long)]
        no_start: bool,
    },
    /// Take away what install put there, but for configuration and state
    #[command(after_help = "Example:\n  vrouter-agent uninstall\n\nExit codes: 0 done, 1 not.")]
    Uninstall {
        #[command(flatten)]
        places: Places,
    },
    /// For the unit's ExecStop=: lets neighbors keep our routes if systemd restarts the unit
    #[command(hide = true)]
    HandOver {
        /// The agent.
        pid: u32,
        /// Its unit.
        unit: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(errand) = &arguments.errand {
        return run_errand(errand).unwrap_or_else(|error| {
            eprintln!("vrouter-agent: {error}");
            ExitCode::FAILURE
        });
    }
    let manager = Manager::from_environment();
    let directives = arguments.log.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let filter: Targets = match directives.as_deref().unwrap_or("info").parse() {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("vrouter-agent: --log or RUST_LOG: {error}");
            return ExitCode::from(2);
        }
    };
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    if journal::is_there() {
        registry.with(log.with_ansi(false).event_format(Journal)).init();
    } else {
        registry.with(log.with_ansi(std::io::stderr().is_terminal())).init();
    }
    let result = Config::load(&arguments.config).and_then(|config| {
        if arguments.check_config {
            print!("configuration ok\n{config}");
            return Ok(());
        }
        run(config, arguments.config.clone(), manager)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Config(errors)) => {
            eprintln!("{errors}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("vrouter-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_errand(errand: &Errand) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut say = |line: &str| println!("{line}");
    match errand {
        Errand::Install { places, no_start } => {
            let own = std::env::current_exe()?;
            let from = own.parent().ok_or("this program has no directory")?;
            install::install(places, from, *no_start, &mut say)?;
        }
        Errand::Uninstall { places } => install::uninstall(places, &mut say)?,
        Errand::HandOver { pid, unit } => say(hand_over(*pid, unit)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// One thread for control; the dataplane has its own, and the disk gets one when it is needed.
fn run(config: Config, file: PathBuf, manager: Manager) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(agent::run(config, file, manager))
}
