//! What OpenStack said, on disk: its own files where its clients look for them, ours beside our other state.
//!
//! ```text
//!  <ports-dir>/<uuid>                  the incumbent's file of one port, as its own clients write it too
//!  <state-dir>/vrfs/<number>.json      a VPN instance
//!  <state-dir>/attachments/<n>.json    one attachment of it
//!  <state-dir>/awaited/<uuid>.json     a port that /syncports waits for
//!  <state-dir>/vpn-api.json            the number that /ping answers
//! ```
//! Many files are written as one: all under other names, one synchronisation of the file system, all renamed, one
//! synchronisation of each directory. Whoever is told "done" is told so after that; a crash before leaves some of the new
//! files, of which nobody was told anything. What a file of the incumbent's says is as good as it is: one that cannot be
//! read is skipped and said, but not touched, since it is another's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agent_api::sealed;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{MAX_FILE, StateDir, VERSION, Versioned, disk};
use crate::openstack::plug::{Plug, Source};
use crate::openstack::{Attachment, Instance, LIMITS, Records, Uuid, Write};

const INSTANCES: &str = "vrfs";
const ATTACHMENTS: &str = "attachments";
const AWAITED: &str = "awaited";
const PING: &str = "vpn-api.json";
const JSON: &str = "json";
/// A port's file has a tenth of that.
const MAX_PLUG: u64 = 16 << 10;
/// So few are synchronised one by one: the rest of the file system may have much to write.
const FEW: usize = 4;

#[derive(Serialize, Deserialize)]
struct Ping {
    ping: u32,
}

#[derive(Serialize, Deserialize)]
struct Mark {
    time: String,
}

/// What becomes of a path.
enum Fate {
    Written(Vec<u8>),
    /// It says so already, but perhaps not durably.
    Kept,
    Gone,
}

impl StateDir {
    /// All that OpenStack had said. `ports_dir`: where the incumbent's files are, if its API is served.
    pub fn load_openstack(&self, ports_dir: Option<&Path>) -> Records {
        let (plugs, skipped) = ports_dir.map(read_plugs).unwrap_or_default();
        let mut records = Records { plugs, skipped, ..Records::default() };
        for path in self.json_files(INSTANCES) {
            records.instances.extend(self.read::<Instance>(&path, MAX_FILE));
        }
        for path in self.json_files(ATTACHMENTS) {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let attachment =
                number.and_then(|number: u32| Some((number, self.read::<Attachment>(&path, MAX_FILE)?)));
            if attachment.is_none() {
                // Something that a client was told is lost: it is told that too.
                let _ = disk::remove(&self.root.join(PING));
            }
            records.attachments.extend(attachment);
        }
        records.attachments.sort_by_key(|(number, _)| *number);
        if ports_dir.is_some() {
            for path in self.json_files(AWAITED) {
                let Some(id) = path.file_stem().and_then(|stem| Uuid::in_path(stem.to_str()?)) else {
                    continue;
                };
                records.awaited.extend(self.read::<Mark>(&path, MAX_FILE).map(|mark| (id, mark.time)));
            }
        }
        records
    }

    /// The number that stays while attachments do.
    pub fn ping(&self) -> u32 {
        let path = self.root.join(PING);
        let known = path.exists().then(|| self.read::<Ping>(&path, MAX_FILE)).flatten();
        known.map(|file| file.ping).unwrap_or_else(|| {
            let ping = random();
            if let Err(error) = self.write(&path, &Ping { ping }) {
                warn!(%error, "cannot save the number that /ping answers: clients will send everything again");
            }
            ping
        })
    }

    /// All of it is on disk when this returns.
    pub fn save_all(&self, ports_dir: &Path, writes: &[Write]) -> io::Result<()> {
        let mut fates: BTreeMap<PathBuf, Fate> = BTreeMap::new();
        for write in writes {
            let (path, fate) = self.fate(ports_dir, write)?;
            fates.insert(path, fate);
        }
        let done = write_all(&fates);
        self.note_writing(&done);
        done
    }

    fn fate(&self, ports_dir: &Path, write: &Write) -> io::Result<(PathBuf, Fate)> {
        let instance = |number| self.root.join(INSTANCES).join(format!("{number}.json"));
        let attachment = |number| self.root.join(ATTACHMENTS).join(format!("{number}.json"));
        let awaited = |id| self.root.join(AWAITED).join(format!("{id}.json"));
        Ok(match write {
            Write::Port(saved) => (self.port_file(saved.port), sealed_file(saved.as_ref())?),
            Write::ForgetPort(port, _) => (self.port_file(*port), Fate::Gone),
            Write::Plug(plug) => {
                let path = ports_dir.join(plug.id.to_string());
                let known = read_plug(&path).is_ok_and(|known| known.says_the_same(plug));
                (path, if known { Fate::Kept } else { Fate::Written(plug.file()) })
            }
            Write::ForgetPlug(id) => (ports_dir.join(id.to_string()), Fate::Gone),
            Write::Instance(it) => (instance(it.number), sealed_file(it.as_ref())?),
            Write::ForgetInstance(number) => (instance(*number), Fate::Gone),
            Write::Attachment(number, it) => (attachment(*number), sealed_file(it.as_ref())?),
            Write::ForgetAttachment(number) => (attachment(*number), Fate::Gone),
            Write::Awaited(id, time) => (awaited(id), sealed_file(&Mark { time: time.clone() })?),
            Write::ForgetAwaited(id) => (awaited(id), Fate::Gone),
        })
    }

    fn json_files(&self, dir: &str) -> Vec<PathBuf> {
        let mut files = disk::files(&self.root.join(dir), JSON).unwrap_or_default();
        files.sort_unstable();
        files
    }
}

fn sealed_file(content: &impl Serialize) -> io::Result<Fate> {
    sealed::seal(&Versioned { version: VERSION, content }).map(Fate::Written).map_err(io::Error::other)
}

fn write_all(fates: &BTreeMap<PathBuf, Fate>) -> io::Result<()> {
    let dirs: BTreeSet<&Path> = fates.keys().filter_map(|path| path.parent()).collect();
    for dir in &dirs {
        disk::make_dirs(dir)?;
    }
    let written = try_write(fates, &dirs);
    if written.is_err() {
        // A full disk is no better for half of it.
        fates.keys().for_each(|path| {
            let _ = fs::remove_file(draft(path));
        });
    }
    written
}

fn try_write(fates: &BTreeMap<PathBuf, Fate>, dirs: &BTreeSet<&Path>) -> io::Result<()> {
    let mut open = Vec::new();
    let is_few = fates.len() <= FEW;
    for (path, fate) in fates {
        let file = match fate {
            Fate::Written(text) => {
                let mut options = OpenOptions::new();
                options.create(true).truncate(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
                let mut file = options.open(draft(path))?;
                file.write_all(text)?;
                file
            }
            Fate::Kept => OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?,
            Fate::Gone => continue,
        };
        // Not thousands of descriptors at once.
        if is_few {
            open.push(file);
        }
    }
    if is_few {
        open.iter().try_for_each(File::sync_all)?;
    } else {
        sync_file_systems(dirs)?;
    }
    for (path, fate) in fates {
        match fate {
            Fate::Written(_) => fs::rename(draft(path), path)?,
            Fate::Kept => {}
            Fate::Gone => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    dirs.iter().try_for_each(|dir| File::open(dir)?.sync_all())
}

/// What a file is called until all are written. The incumbent reads names that are UUIDs alone.
fn draft(path: &Path) -> PathBuf {
    path.with_extension(disk::NEW)
}

/// Each file system once, however many of the directories are on it.
fn sync_file_systems(dirs: &BTreeSet<&Path>) -> io::Result<()> {
    let mut done = BTreeSet::new();
    for dir in dirs {
        let dir = File::open(dir)?;
        if done.insert(dir.metadata()?.dev()) {
            super::sync::file_system(dir.as_fd())?;
        }
    }
    Ok(())
}

/// The ports, and what is none, with the reason.
fn read_plugs(dir: &Path) -> (Vec<Plug>, Vec<(String, String)>) {
    let (mut plugs, mut skipped) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(Uuid::in_path) else { continue };
        if plugs.len() == LIMITS.ports {
            let why = format!("it has more than {} ports; the rest is not served", LIMITS.ports);
            warn!(dir = %dir.display(), why);
            skipped.push((dir.display().to_string(), why));
            break;
        }
        let why = match read_plug(&entry.path()) {
            Ok(plug) if plug.id == id => {
                plugs.push(plug);
                continue;
            }
            Ok(plug) => format!("it is about another port, {}", plug.id),
            Err(why) => why,
        };
        warn!(file = %entry.path().display(), why, "skipped");
        // Garbage is counted no further than ports are.
        if skipped.len() < LIMITS.ports {
            skipped.push((id.to_string(), why));
        }
    }
    plugs.sort_by_key(|plug| plug.id);
    skipped.sort_unstable();
    (plugs, skipped)
}

fn read_plug(path: &Path) -> Result<Plug, String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut text = Vec::new();
    file.take(MAX_PLUG + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_PLUG {
        return Err(format!("it is larger than {MAX_PLUG} octets"));
    }
    let value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    Plug::read(&value, Source::File).map_err(|error| error.to_string())
}

fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    // Bagpipe's is one too, and small enough for any client.
    u32::try_from(random & 0x7fff_ffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plug(id: &str, tap: &str) -> Plug {
        let object = json!({
            "id": id, "instance-id": id, "vn-id": id, "vm-project-id": "", "display-name": "vm",
            "ip-address": "10.0.0.5", "ip6-address": "", "mac-address": "02:00:00:00:00:01",
            "system-name": tap, "type": 0, "rx-vlan-id": -1, "tx-vlan-id": -1
        });
        Plug::read(&object, Source::Request).unwrap()
    }

    const A: &str = "93c2c386-6e79-485e-bfa4-b9daa713133b";
    const B: &str = "93c2c386-6e79-485e-bfa4-b9daa713133c";

    #[test]
    fn what_is_saved_together_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let ports = dir.path().join("contrail/ports");
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let value = json!({
            "vpn_instance_id": "red", "vpn_type": "ipvpn", "import_rt": "64512:1", "export_rt": "64512:1",
            "mac_address": "02:00:00:00:00:01", "ip_address": "10.0.0.5", "gateway_ip": "", "local_port": "tap0"
        });
        let attachment = Attachment::read(&value).unwrap();
        let instance = Instance {
            number: 32_768,
            id: "red".into(),
            import: attachment.import.clone(),
            export: attachment.export.clone(),
            description: None,
        };
        let mut writes = vec![
            Write::Plug(Box::new(plug(A, "tap0"))),
            Write::Plug(Box::new(plug(B, "tap1"))),
            Write::Instance(Box::new(instance.clone())),
        ];
        writes.extend((0..20).map(|number| Write::Attachment(number, Box::new(attachment.clone()))));
        state.save_all(&ports, &writes).unwrap();
        let records = state.load_openstack(Some(&ports));
        assert_eq!(records.plugs.iter().map(|plug| plug.id.to_string()).collect::<Vec<_>>(), [A, B]);
        assert_eq!(records.instances, [instance]);
        assert_eq!(records.attachments.len(), 20);
        assert_eq!(records.attachments[3], (3, attachment));
        let forget: Vec<Write> =
            (0..20).map(Write::ForgetAttachment).chain([Write::ForgetInstance(32_768)]).collect();
        state.save_all(&ports, &forget).unwrap();
        state
            .save_all(&ports, &[Write::ForgetPlug(A.parse().unwrap()), Write::ForgetPlug(A.parse().unwrap())])
            .unwrap();
        let mark = |id: &str| (id.parse().unwrap(), "a \"time\"".to_owned());
        let marks = [A, B].map(mark);
        let await_all: Vec<Write> =
            marks.iter().cloned().map(|(id, time)| Write::Awaited(id, time)).collect();
        state.save_all(&ports, &await_all).unwrap();
        let records = state.load_openstack(Some(&ports));
        assert_eq!((records.plugs.len(), records.instances.len(), records.attachments.len()), (1, 0, 0));
        assert_eq!(records.awaited, marks);
        assert_eq!(state.load_openstack(None).awaited, [], "nobody asks for these ports");
        state.save_all(&ports, &[Write::ForgetAwaited(A.parse().unwrap())]).unwrap();
        assert_eq!(state.load_openstack(Some(&ports)).awaited, [mark(B)]);
        let left: Vec<_> = fs::read_dir(&ports).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [B], "no drafts stay behind");
    }

    #[test]
    fn a_file_that_a_client_wrote_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (ports, state) = (dir.path().join("ports"), StateDir::open(&dir.path().join("state")).unwrap());
        fs::create_dir(&ports).unwrap();
        let mut written: serde_json::Value = serde_json::from_slice(&plug(A, "tap0").file()).unwrap();
        written["author"] = json!("/usr/bin/vrouter-port-control");
        written["something"] = json!("of another version");
        fs::write(ports.join(A), written.to_string()).unwrap();
        state.save_all(&ports, &[Write::Plug(Box::new(plug(A, "tap0")))]).unwrap();
        assert_eq!(fs::read_to_string(ports.join(A)).unwrap(), written.to_string());
        state.save_all(&ports, &[Write::Plug(Box::new(plug(A, "tap9")))]).unwrap();
        assert!(
            fs::read_to_string(ports.join(A)).unwrap().contains("tap9"),
            "what it says now is another thing"
        );
    }

    #[test]
    fn files_that_are_none_of_a_port_are_skipped_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (ports, state) = (dir.path().join("ports"), StateDir::open(&dir.path().join("state")).unwrap());
        fs::create_dir_all(ports.join("vm/pod")).unwrap();
        fs::write(ports.join(A), plug(B, "tap0").file()).unwrap();
        fs::write(ports.join("label-x"), "1").unwrap();
        fs::write(ports.join(B), vec![b' '; 20_000]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", ports.join(A.replace("93c2", "93c3"))).unwrap();
        fs::create_dir(ports.join(A.replace("93c2", "93c4"))).unwrap();
        fs::write(ports.join(A.replace("93c2", "93c5")), [0; 100]).unwrap();
        let Records { plugs, skipped, .. } = state.load_openstack(Some(&ports));
        assert_eq!(plugs, []);
        let why: Vec<&str> = skipped.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(skipped.len(), 5, "strangers' names are none of ours: {skipped:?}");
        assert!(skipped[0].0 == A && why[0].contains(B), "about another port: {why:?}");
        assert!(ports.join(A).exists() && ports.join(B).exists());
    }

    #[test]
    fn the_ping_number_stays_until_an_attachment_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap().ping();
        let state = StateDir::open(dir.path()).unwrap();
        let _ = state.load_openstack(None);
        assert_eq!(state.ping(), first);
        fs::create_dir_all(dir.path().join("attachments")).unwrap();
        fs::write(dir.path().join("attachments/7.json"), "{\"version\":2").unwrap();
        let records = state.load_openstack(None);
        assert_eq!(records.attachments.len(), 0);
        assert!(!dir.path().join(PING).exists(), "the next number is another");
    }
}
