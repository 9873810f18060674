//! What outlives the process: ports, the label cursor, and DELs that came while the agent was away.
//!
//! ```text
//!  <state-dir>                      locked by the agent that uses it
//!  <state-dir>/labels.json          {"version":2,"cursor":80,"check":…}
//!  <state-dir>/routes.json          {"version":2,"staleMsec":0,"vrfs":[…],"check":…}: what was imported, for a start without uplink
//!  <state-dir>/ports/<number>.json  {"version":2,"port":3,"label":19,…,"request":{…},"check":…}
//!  <state-dir>/security-groups/<name>.json
//!  <state-dir>/rested.log           {"vrf":"…","address":"…"}: what pods gave back lately
//!  <state-dir>/deletes/*.json       {"container":"…","interface":"eth0"}: written by vrouter-cni
//! ```
//! A file is written under another name, synchronised, renamed, and its directory synchronised: after a crash it is
//! the old one or the new one, and what was acknowledged is the new one. A file that cannot be read, or whose check says
//! that it is damaged, is renamed to `*.bad` and stands in the status until somebody has looked at it and deleted it; it is
//! evidence, and no reason not to start. Version 1 had no check.
//!
//! A directory that cannot be written is no reason not to start either: what is on disk is served, and whoever wants a
//! change is told why there is none.

mod disk;
mod groups;
mod last_stop;
mod lock;
mod openstack;
mod rested;
mod sync;

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_api::PortKey;
use agent_api::sealed::Unsealed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use vrouter_types::{Label, PortId};

use crate::Error;
use crate::event::{SavedPort, SavedVrf};
pub use last_stop::LastStop;
use lock::Lock;

/// The version that is written.
const VERSION: u32 = 2;
/// The one before, without a check, which is read too.
const UNCHECKED: u32 = 1;
/// No file of ours is larger. What is was not written by us.
const MAX_FILE: u64 = 256 << 10;
/// Imported routes that are kept at most, and the size of their file, which that fits well.
pub const MAX_ROUTES: usize = 16_384;
const MAX_ROUTES_FILE: u64 = 32 << 20;
/// Spooled DELs read at a time; the rest follows when these are done.
const MAX_SPOOLED: usize = 256;
/// Files that the status names; of more it says how many.
const MAX_NAMED: usize = 8;

/// A state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: Lock,
    found: Mutex<Found>,
}

/// What a person should know.
#[derive(Debug, Default)]
struct Found {
    /// Files that were put aside, or could not be.
    bad: Vec<String>,
    /// Why nothing can be written.
    unwritable: Option<String>,
}

/// What a state directory held.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// The ports, by number.
    pub ports: Vec<SavedPort>,
    /// Where labels go on.
    pub label_cursor: Option<Label>,
    /// What the last run had imported.
    pub routes: SavedRoutes,
    /// Addresses that pods gave back lately, with the name of the VRF.
    pub rested: Vec<(String, IpAddr)>,
}

/// Imported routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedRoutes {
    /// How long they had been stale when they were written, in milliseconds.
    pub stale_msec: u64,
    /// By VRF.
    pub vrfs: Vec<SavedVrf>,
}

/// A DEL that was left on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// The file's name, which begins with that of the port's host interface.
    pub file: String,
    /// The port that is to go; `Err`: the file cannot be read, and why.
    pub key: Result<PortKey, String>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize, Deserialize)]
struct Labels {
    cursor: Label,
}

impl StateDir {
    /// Makes the directories where they are missing, and locks them against another agent.
    pub fn open(root: &Path) -> Result<StateDir, Error> {
        let io = |action| move |source| Error::Io { action, path: root.to_owned(), source };
        match disk::make_dir(root) {
            // A disk that is full or read-only still holds what it holds.
            Err(_) if root.is_dir() => {}
            made => drop(made.map_err(io("create"))?),
        }
        let dir = File::open(root).map_err(io("open"))?;
        let lock = Lock::take(dir).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked(root.to_owned()),
            _ => Error::Io { action: "lock", path: root.to_owned(), source },
        })?;
        let state = StateDir { root: root.to_owned(), _lock: lock, found: Mutex::default() };
        for name in [PORTS, DELETES] {
            match disk::make_dir(&root.join(name)) {
                Ok(aside) => aside.into_iter().for_each(|_| state.note_bad(name, "it was no directory")),
                Err(error) => state.note_writing(&Err(error)),
            }
        }
        state.note_old();
        // Said before anybody asks for a change that would fail.
        let _ = state.probe();
        Ok(state)
    }

    /// Reads everything but the spool. What cannot be read is put aside.
    pub fn load(&self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        let dir = self.root.join(PORTS);
        // Without its ports the agent would give their addresses to others.
        for path in disk::files(&dir, JSON).map_err(|source| Error::Io {
            action: "read",
            path: dir.clone(),
            source,
        })? {
            if let Some(port) = self.read::<SavedPort>(&path, MAX_FILE) {
                if path == self.port_file(port.port) {
                    loaded.ports.push(port);
                } else {
                    self.put_aside(&path, "its name is not its port's number");
                }
            }
        }
        loaded.ports.sort_by_key(|port| port.port);
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        let labels = self.root.join(LABELS);
        if exists(&labels) {
            loaded.label_cursor = self.read::<Labels>(&labels, MAX_FILE).map(|file| file.cursor);
            if loaded.label_cursor.is_none() && loaded.ports.is_empty() {
                // Nothing says which labels may still be known out there: begin where probably none was.
                loaded.label_cursor = anywhere();
            }
        }
        loaded.rested = rested::read(&self.root.join(RESTED));
        let routes = self.root.join(ROUTES);
        if exists(&routes) {
            loaded.routes = self.read(&routes, MAX_ROUTES_FILE).unwrap_or_default();
        }
        Ok(loaded)
    }

    /// The port is on disk when this returns.
    pub fn save_port(&self, port: &SavedPort) -> io::Result<()> {
        self.write(&self.port_file(port.port), port)
    }

    /// The port is not on disk when this returns.
    pub fn forget_port(&self, port: PortId) -> io::Result<()> {
        if let Ok(saved) = disk::read::<SavedPort>(&self.port_file(port), MAX_FILE) {
            // Not to be reused at once is a wish; that the port is gone is a promise.
            let _ = rested::note(&self.root.join(RESTED), &saved.content);
        }
        disk::remove(&self.port_file(port))
    }

    /// The cursor is on disk when this returns.
    pub fn save_labels(&self, cursor: Label) -> io::Result<()> {
        self.write(&self.root.join(LABELS), &Labels { cursor })
    }

    /// The imported routes are on disk when this returns; no file where there are none.
    pub fn save_routes(&self, routes: &SavedRoutes) -> io::Result<()> {
        let path = self.root.join(ROUTES);
        if routes.vrfs.is_empty() {
            return if path.exists() { disk::remove(&path) } else { Ok(()) };
        }
        self.write_long(&path, routes, MAX_ROUTES_FILE)
    }

    /// DELs that are waiting, oldest name first.
    pub fn spooled(&self) -> Vec<Spooled> {
        let mut paths = disk::files(&self.root.join(DELETES), JSON).unwrap_or_default();
        paths.sort_unstable();
        let spooled = |path: PathBuf| {
            let key = disk::read::<PortKey>(&path, MAX_FILE).map(|read| read.content);
            Some(Spooled { file: path.file_name()?.to_str()?.to_owned(), key })
        };
        paths.into_iter().filter_map(spooled).take(MAX_SPOOLED).collect()
    }

    /// A spooled DEL is done.
    pub fn remove_spooled(&self, file: &str) -> io::Result<()> {
        disk::remove(&self.root.join(DELETES).join(file))
    }

    /// A spooled DEL says nothing that could be done.
    pub fn put_spooled_aside(&self, file: &str, why: &str) {
        self.put_aside(&self.root.join(DELETES).join(file), why);
    }

    /// What a person should know, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let found = self.found();
        let mut problems: Vec<String> = found.bad.iter().take(MAX_NAMED).cloned().collect();
        if found.bad.len() > MAX_NAMED {
            problems.push(format!("{} more state files could not be read", found.bad.len() - MAX_NAMED));
        }
        problems.extend(found.unwritable.as_ref().map(|why| {
            format!(
                "the state directory {} cannot be written ({why}): nothing can be added",
                self.root.display()
            )
        }));
        problems
    }

    /// Whether what callers ask for could be made durable, as far as is known.
    pub fn is_writable(&self) -> bool {
        self.found().unwritable.is_none()
    }

    /// Tries to write, and remembers whether that is possible.
    pub fn probe(&self) -> io::Result<()> {
        let outcome = disk::probe(&self.root);
        self.note_writing(&outcome);
        outcome
    }

    /// What earlier runs put aside is still there to be looked at; what they left unfinished is not.
    fn note_old(&self) {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let inside = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path());
        let inside = inside.filter(|path| path.extension().is_none());
        for dir in std::iter::once(self.root.clone()).chain(inside) {
            if let Err(error) = disk::sweep(&dir, disk::NEW).and_then(|()| disk::sweep(&dir, DRAFT)) {
                self.note_writing(&Err(error));
            }
            for path in disk::files(&dir, BAD).unwrap_or_default() {
                let name = path.strip_prefix(&self.root).unwrap_or(&path).display();
                self.found()
                    .bad
                    .push(format!("the state file {name} was put aside; look at it, then delete it"));
            }
        }
    }

    fn note_bad(&self, name: &str, why: &str) {
        warn!(file = name, why, "state file unreadable");
        self.found()
            .bad
            .push(format!("the state file {name} could not be read ({why}) and is renamed to *.bad"));
    }

    fn note_writing(&self, outcome: &io::Result<()>) {
        let why = outcome.as_ref().err().map(ToString::to_string);
        let mut found = self.found();
        if found.unwritable.is_some() != why.is_some() {
            match &why {
                Some(why) => warn!(why, "the state directory cannot be written"),
                None => info!("the state directory can be written again"),
            }
        }
        found.unwritable = why;
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port_file(&self, port: PortId) -> PathBuf {
        self.root.join(PORTS).join(format!("{port}.json"))
    }

    fn write<T: Serialize>(&self, path: &Path, content: &T) -> io::Result<()> {
        self.write_long(path, content, MAX_FILE)
    }

    fn write_long<T: Serialize>(&self, path: &Path, content: &T, most: u64) -> io::Result<()> {
        let written = disk::write(path, &Versioned { version: VERSION, content }, most);
        let is_too_long = |error: &io::Error| error.kind() == io::ErrorKind::FileTooLarge;
        // That is no fault of the directory's.
        if !written.as_ref().is_err_and(is_too_long) {
            self.note_writing(&written);
        }
        written
    }

    fn read<T: DeserializeOwned>(&self, path: &Path, most: u64) -> Option<T> {
        let why = match disk::read::<Versioned<T>>(path, most) {
            Ok(Unsealed { content: file, is_sealed }) => match (file.version, is_sealed) {
                (VERSION, true) | (UNCHECKED, false) => return Some(file.content),
                (VERSION, false) => "its check is missing".to_owned(),
                (version, _) => format!("it is of version {version}, and this agent reads up to {VERSION}"),
            },
            Err(why) => why,
        };
        self.put_aside(path, &why);
        None
    }

    fn put_aside(&self, path: &Path, why: &str) {
        let name = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        match disk::put_aside(path) {
            Ok(_) => self.note_bad(&name, why),
            Err(error) => self.note_bad(&name, &format!("{why}; nor be renamed: {error}")),
        }
    }
}

/// The kernel's name for this boot; empty where it has none.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A label that nobody can guess.
fn anywhere() -> Option<Label> {
    let number = RandomState::new().build_hasher().finish() % 0x8000;
    Label::new(0x4000 + u32::try_from(number).ok()?).ok()
}

const JSON: &str = "json";
const BAD: &str = "bad";
/// What vrouter-cni calls a file of the spool until it is finished.
const DRAFT: &str = "tmp";
const PORTS: &str = "ports";
const LABELS: &str = "labels.json";
const ROUTES: &str = "routes.json";
const RESTED: &str = "rested.log";
const DELETES: &str = "deletes";

#[cfg(test)]
mod tests;
