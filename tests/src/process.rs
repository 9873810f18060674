//! Processes inside namespaces: daemons with a log file, and commands that run to their end. A daemon ends when it is
//! dropped; if that happens because a test failed, the end of its log is printed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::netns::Namespace;
use crate::sys;

/// How many lines of a daemon's log a failed test prints.
const LOG_TAIL: usize = 60;

/// A daemon in a namespace.
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a command in a namespace; what it prints goes to `log`, after what is there already.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn start(namespace: &Namespace, name: &str, mut command: Command, log: &Path) -> Daemon {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let errors = file.try_clone().unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = namespace.run(|| command.spawn());
        let child = child.unwrap_or_else(|error| panic!("start {}: {error}", named(&command)));
        Daemon { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it the way a crash does (SIGKILL), and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits; after five seconds it is killed. Answers how it ended.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        self.end_with(libc::SIGTERM)
    }

    /// Like [`Daemon::stop`], with another signal.
    pub fn end_with(&mut self, signal: i32) -> io::Result<ExitStatus> {
        sys::kill(self.pid(), signal)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let had_ended = !self.is_running();
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default().join("\n");
            let ended = if had_ended { " (had ended by itself)" } else { "" };
            eprintln!("---- end of the log of {}{ended}:\n{tail}\n----", self.name);
        }
    }
}

/// Runs a command in a namespace to its end.
///
/// # Panics
/// When the program cannot be started.
pub fn run(namespace: &Namespace, command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    let output = namespace.run(|| command.output());
    output.unwrap_or_else(|error| panic!("start {}: {error}", named(command)))
}

/// Runs a command in a namespace and returns what it printed.
///
/// # Panics
/// When it fails, with its own words.
pub fn run_ok(namespace: &Namespace, command: &mut Command) -> String {
    let output = run(namespace, command);
    assert!(
        output.status.success(),
        "{} in {}: {}\n{}{}",
        named(command),
        namespace.name(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command from a program and its arguments.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn named(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
