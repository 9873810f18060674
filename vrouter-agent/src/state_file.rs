//! What outlives the process: ports, the label cursor, and DELs that came while the agent was away.
//!
//! ```text
//!  <state-dir>/lock                 held by the agent that uses it
//!  <state-dir>/labels.json          {"version":1,"cursor":80}
//!  <state-dir>/routes.json          {"version":1,"staleMsec":0,"vrfs":[…]}: what was imported, for a start without uplink
//!  <state-dir>/ports/<number>.json  {"version":1,"port":3,"label":19,…,"request":{…}}
//!  <state-dir>/deletes/*.json       {"container":"…","interface":"eth0"}: written by vrouter-cni
//! ```
//! A file is written under another name, synchronised, renamed, and its directory synchronised: after a crash it is
//! the old one or the new one, and what was acknowledged is the new one. A file that cannot be read is renamed to
//! `*.bad` and said so once; it is evidence, and no reason not to start.

mod lock;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_api::PortKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;
use vrouter_types::{Label, PortId};

use crate::Error;
use crate::event::{SavedPort, SavedVrf};
use lock::Lock;

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// No file of ours is larger. What is was not written by us.
const MAX_FILE: u64 = 256 << 10;
/// Imported routes that are kept at most, and the size of their file, which that fits well.
pub const MAX_ROUTES: usize = 16_384;
const MAX_ROUTES_FILE: u64 = 32 << 20;
/// Spooled DELs read at a time; the rest follows when these are done.
const MAX_SPOOLED: usize = 256;

/// A state directory, locked.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: Lock,
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
    /// The file's name.
    pub file: String,
    /// The port that is to go.
    pub key: PortKey,
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
        for dir in [root.to_owned(), root.join(PORTS), root.join(DELETES)] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|source| Error::Io { action: "create", path: dir, source })?;
        }
        let path = root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
        let lock = Lock::take(file).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked(path.clone()),
            _ => Error::Io { action: "lock", path: path.clone(), source },
        })?;
        Ok(StateDir { root: root.to_owned(), _lock: lock })
    }

    /// Reads everything but the spool. What cannot be read is put aside.
    pub fn load(&self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        let dir = self.root.join(PORTS);
        for path in files(&dir).map_err(|source| Error::Io { action: "read", path: dir.clone(), source })? {
            if let Some(port) = self.read::<SavedPort>(&path, MAX_FILE) {
                if path == self.port_file(port.port) {
                    loaded.ports.push(port);
                } else {
                    put_aside(&path, "its name is not its port's number");
                }
            }
        }
        loaded.ports.sort_by_key(|port| port.port);
        let labels = self.root.join(LABELS);
        loaded.label_cursor =
            labels.exists().then(|| self.read::<Labels>(&labels, MAX_FILE)).flatten().map(|file| file.cursor);
        let routes = self.root.join(ROUTES);
        let saved = routes.exists().then(|| self.read::<SavedRoutes>(&routes, MAX_ROUTES_FILE)).flatten();
        loaded.routes = saved.unwrap_or_default();
        Ok(loaded)
    }

    /// The port is on disk when this returns.
    pub fn save_port(&self, port: &SavedPort) -> io::Result<()> {
        write(&self.port_file(port.port), &Versioned { version: VERSION, content: port })
    }

    /// The port is not on disk when this returns.
    pub fn forget_port(&self, port: PortId) -> io::Result<()> {
        remove(&self.port_file(port))
    }

    /// The cursor is on disk when this returns.
    pub fn save_labels(&self, cursor: Label) -> io::Result<()> {
        write(&self.root.join(LABELS), &Versioned { version: VERSION, content: Labels { cursor } })
    }

    /// The imported routes are on disk when this returns; no file where there are none.
    pub fn save_routes(&self, routes: &SavedRoutes) -> io::Result<()> {
        let path = self.root.join(ROUTES);
        if routes.vrfs.is_empty() {
            return if path.exists() { remove(&path) } else { Ok(()) };
        }
        write(&path, &Versioned { version: VERSION, content: routes })
    }

    /// DELs that are waiting, oldest name first. What cannot be read is put aside.
    pub fn spooled(&self) -> Vec<Spooled> {
        let mut paths = files(&self.root.join(DELETES)).unwrap_or_default();
        paths.sort_unstable();
        let spooled = |path: PathBuf| {
            let key = parse::<PortKey>(&path, MAX_FILE).map_err(|why| put_aside(&path, &why)).ok()?;
            Some(Spooled { file: path.file_name()?.to_str()?.to_owned(), key })
        };
        paths.into_iter().filter_map(spooled).take(MAX_SPOOLED).collect()
    }

    /// A spooled DEL is done.
    pub fn remove_spooled(&self, file: &str) -> io::Result<()> {
        remove(&self.root.join(DELETES).join(file))
    }

    fn port_file(&self, port: PortId) -> PathBuf {
        self.root.join(PORTS).join(format!("{port}.json"))
    }

    fn read<T: DeserializeOwned>(&self, path: &Path, most: u64) -> Option<T> {
        match parse::<Versioned<T>>(path, most) {
            Ok(file) if file.version == VERSION => Some(file.content),
            Ok(file) => {
                put_aside(
                    path,
                    &format!("it is of version {}, and this agent reads {VERSION}", file.version),
                );
                None
            }
            Err(why) => {
                put_aside(path, &why);
                None
            }
        }
    }
}

/// The kernel's name for this boot; empty where it has none.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

const PORTS: &str = "ports";
const LABELS: &str = "labels.json";
const ROUTES: &str = "routes.json";
const DELETES: &str = "deletes";

/// The `*.json` files of a directory. Others are being written, were put aside, or are not ours.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn parse<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T, String> {
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(most + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > most {
        return Err(format!("it is larger than {most} octets"));
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    let new = path.with_extension("new");
    let written = write_new(&new, &text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // A full disk is no better for half a file.
        let _ = fs::remove_file(&new);
    }
    written?;
    sync_dir(path)
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_dir(path),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn put_aside(path: &Path, why: &str) {
    let mut name = path.as_os_str().to_owned();
    name.push(".bad");
    match fs::rename(path, &name) {
        Ok(()) => warn!(file = %path.display(), why, "state file unreadable, renamed to *.bad"),
        Err(error) => warn!(file = %path.display(), why, %error, "state file unreadable, and not renamed"),
    }
}

#[cfg(test)]
mod tests;
