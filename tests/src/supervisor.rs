//! A service manager as small as it gets: systemd's protocol for readiness, watchdog and descriptors over a restart,
//! without systemd.
//!
//! ```text
//!  agent ──FDSTORE=1 FDNAME=… + descriptor──▶ notify.sock ─▶ reader thread ─▶ held: name → descriptor
//!        ──READY=1, STATUS=…, WATCHDOG=1────▶                                     │
//!  next run ◀── LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID, descriptors from 3 on ────┘
//! ```
//! As systemd does, it holds a descriptor until it is told to let go, also over the end of the process and after it
//! has handed it to the next one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sys::handover;
use crate::wait::{PATIENCE, wait_until};

/// Sets the process number that sd_listen_fds(3) wants to see, which is known only to the process itself.
const SHELL: &str = "LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$@\"";

/// What a service has told.
#[derive(Debug, Default)]
struct Told {
    held: Vec<(String, OwnedFd)>,
    /// The last value of each key.
    last: BTreeMap<String, String>,
    ready: u64,
    watchdogs: Vec<Instant>,
    barriers: u64,
}

/// The manager of one service.
#[derive(Debug)]
pub struct Supervisor {
    path: PathBuf,
    told: Arc<Mutex<Told>>,
    barriers: AtomicU64,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Listens in this directory. `watchdog`: how long the service may be silent.
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn new(directory: &Path, watchdog: Option<Duration>) -> Supervisor {
        let path = directory.join("notify.sock");
        let socket = UnixDatagram::bind(&path);
        let socket = socket.unwrap_or_else(|error| panic!("listen on {}: {error}", path.display()));
        let timed = socket.set_read_timeout(Some(Duration::from_millis(50)));
        timed.unwrap_or_else(|error| panic!("set up {}: {error}", path.display()));
        let (told, ended) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
        let (for_reader, is_over) = (Arc::clone(&told), Arc::clone(&ended));
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while !is_over.load(Ordering::Relaxed) {
                match handover::receive_with_fds(&socket, &mut buffer) {
                    Ok((length, fds)) => hold(&for_reader).take(&buffer[..length], fds),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("receive notifications: {error}"),
                }
            }
        });
        Supervisor { path, told, barriers: AtomicU64::new(0), ended, reader: Some(reader), watchdog }
    }

    /// The same command under this manager, with all that it holds.
    ///
    /// # Panics
    /// When the descriptors cannot be handed over.
    pub fn supervise(&self, command: &Command) -> Command {
        self.settle();
        let mut told = hold(&self.told);
        told.ready = 0;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(SHELL).arg("sh").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            shell.env(key, value.map_or_else(OsString::new, OsString::from));
        }
        shell.env("NOTIFY_SOCKET", &self.path);
        match self.watchdog {
            Some(limit) => shell.env("WATCHDOG_USEC", limit.as_micros().to_string()),
            None => shell.env_remove("WATCHDOG_USEC"),
        };
        if !told.held.is_empty() {
            let names: Vec<&str> = told.held.iter().map(|(name, _)| name.as_str()).collect();
            shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            let fds: Vec<_> = told.held.iter().map(|(_, fd)| fd.as_fd()).collect();
            handover::hand_over(&mut shell, &fds).unwrap_or_else(|error| panic!("hand over: {error}"));
        }
        shell
    }

    /// Names of what it holds, in order.
    pub fn held(&self) -> Vec<String> {
        self.settle();
        let mut names: Vec<String> = hold(&self.told).held.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What is written in the file that it holds under this name.
    pub fn read(&self, name: &str) -> Option<String> {
        self.settle();
        let told = hold(&self.told);
        let (_, fd) = told.held.iter().find(|(held, _)| held == name)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::read_to_string(path).ok()
    }

    /// Holds something under this name, as if a service had given it.
    pub fn plant(&self, name: &str, fd: OwnedFd) {
        self.settle();
        hold(&self.told).held.push((name.to_owned(), fd));
    }

    /// Lets go of everything, as systemd does when a unit is stopped.
    pub fn lose_all(&self) {
        self.settle();
        hold(&self.told).held.clear();
    }

    /// Waits until the service has said that it is ready, since it was last started.
    pub fn wait_ready(&self) {
        wait_until("the service to be ready", PATIENCE, || hold(&self.told).ready > 0);
    }

    /// The last value of a key that the service has sent, as `STATUS`.
    pub fn last(&self, key: &str) -> Option<String> {
        self.settle();
        hold(&self.told).last.get(key).cloned()
    }

    /// When the service said that all is well.
    pub fn watchdogs(&self) -> Vec<Instant> {
        self.settle();
        hold(&self.told).watchdogs.clone()
    }

    /// Waits until all that has been sent is read.
    fn settle(&self) {
        let number = self.barriers.fetch_add(1, Ordering::Relaxed) + 1;
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"X_BARRIER=1\n", &self.path));
        sent.unwrap_or_else(|error| panic!("send to {}: {error}", self.path.display()));
        // Whoever waits here is often in the middle of a pause that is measured.
        let deadline = Instant::now() + PATIENCE;
        while hold(&self.told).barriers < number {
            assert!(Instant::now() < deadline, "notifications are not read");
            thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

impl Told {
    fn take(&mut self, text: &[u8], mut fds: Vec<OwnedFd>) {
        let text = String::from_utf8_lossy(text);
        let pairs: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let name = pairs.get("FDNAME").copied().unwrap_or("stored");
        if pairs.contains_key("FDSTOREREMOVE") {
            self.held.retain(|(held, _)| held != name);
        } else if pairs.contains_key("FDSTORE") {
            self.held.extend(fds.drain(..).map(|fd| (name.to_owned(), fd)));
        }
        self.ready += u64::from(pairs.get("READY") == Some(&"1"));
        self.barriers += u64::from(pairs.contains_key("X_BARRIER"));
        if pairs.get("WATCHDOG") == Some(&"1") {
            self.watchdogs.push(Instant::now());
        }
        self.last.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    }
}

fn hold(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_held_is_handed_over_by_name_until_it_is_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new(directory.path(), None);
        for (name, text) in [("one", "first"), ("two", "second")] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            supervisor.plant(name, file.into());
        }
        let look = "test $LISTEN_PID = $$ && echo $LISTEN_FDNAMES $LISTEN_FDS && readlink /proc/self/fd/4 | \
                    grep -c deleted";
        let mut command = Command::new("sh");
        command.args(["-c", look]);
        let output = supervisor.supervise(&command).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one:two 2\n1\n");
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"FDSTOREREMOVE=1\nFDNAME=one\n", &supervisor.path).unwrap();
        assert_eq!(supervisor.held(), ["two"]);
    }
}
