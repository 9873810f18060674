//! `vrouter-agent`: flags, logging, run.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use vrouter_agent::config::Config;
use vrouter_agent::service::Manager;
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

Exit codes: 0 stopped as told, 1 could not go on, 2 a mistake in the configuration or on the command line.";

/// The agent of a vrouter node: L3VPN for pods and virtual machines, over any IP network.
#[derive(Debug, Parser)]
#[command(name = "vrouter-agent", version, after_help = EXAMPLES)]
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let manager = Manager::from_environment();
    let directives = arguments.log.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let filter = match EnvFilter::try_new(directives.as_deref().unwrap_or("info")) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("vrouter-agent: --log or RUST_LOG: {error}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
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
