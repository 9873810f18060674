//! Named network namespaces. Each is bind-mounted under `/run/netns`, so `ip netns exec vr-… sh` works for people, and
//! is gone with everything in it when its owner is dropped.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vrouter_types::MacAddr;

use crate::netlink::Netlink;
use crate::sys;

const DIRECTORY: &str = "/run/netns";

/// A network namespace of its own. Clones are the same namespace; the last one takes it away, with every process that
/// still lives in it.
#[derive(Clone)]
pub struct Namespace(Arc<Mount>);

struct Mount {
    name: String,
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Makes the namespace `vr-<pid>-<name>`, its loopback up.
    ///
    /// # Panics
    /// When the kernel refuses: a lab has no use for half a namespace.
    pub fn new(name: &str) -> Namespace {
        let name = format!("vr-{}-{name}", std::process::id());
        let made = Mount::new(&name).unwrap_or_else(|error| panic!("make network namespace {name}: {error}"));
        let namespace = Namespace(Arc::new(made));
        namespace.netlink(|netlink| netlink.set_up("lo", true));
        namespace
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that stands for it: what CNI_NETNS names.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its open file.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Runs a closure on a thread inside the namespace and waits for it. Sockets and processes that it makes belong to
    /// the namespace for their whole life, wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter();
            drop(namespace);
            work()
        })
    }

    fn enter(&self) {
        sys::set_net_ns(&self.0.file).unwrap_or_else(|error| panic!("enter {}: {error}", self.0.name));
    }

    /// Asks the kernel for something about this namespace's links.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn netlink<T: Send>(&self, work: impl FnOnce(&Netlink) -> io::Result<T> + Send) -> T {
        let outcome = self.run(|| Netlink::open().and_then(|netlink| work(&netlink)));
        outcome.unwrap_or_else(|error| panic!("netlink in {}: {error}", self.0.name))
    }

    /// Makes a veth pair: `name` here, `far_name` in the other namespace; both up.
    pub fn add_veth(&self, name: &str, far: &Namespace, far_name: &str) {
        self.netlink(|netlink| netlink.add_veth(name, far_name, far.file()));
        self.netlink(|netlink| netlink.set_up(name, true));
        far.netlink(|netlink| netlink.set_up(far_name, true));
    }

    /// Makes a bridge with no spanning tree, up.
    pub fn add_bridge(&self, name: &str) {
        self.netlink(|netlink| {
            netlink.add_bridge(name)?;
            netlink.set_up(name, true)
        });
    }

    /// Makes a tap that outlives its users, up.
    pub fn add_tap(&self, name: &str) {
        self.run(|| sys::create_tap(name)).unwrap_or_else(|error| panic!("make tap {name}: {error}"));
        self.netlink(|netlink| netlink.set_up(name, true));
    }

    /// Gives a link an address.
    pub fn add_address(&self, link: &str, address: IpAddr, length: u8) {
        self.netlink(|netlink| netlink.add_address(link, address, length));
    }

    /// The MAC address of a link.
    pub fn mac(&self, link: &str) -> MacAddr {
        let link = self.netlink(|netlink| netlink.link(link));
        link.mac.unwrap_or_else(|| panic!("{} has no MAC address", link.name))
    }

    /// Whether there is a link of this name.
    pub fn has_link(&self, name: &str) -> bool {
        self.netlink(|netlink| Ok(netlink.links()?.iter().any(|link| link.name == name)))
    }

    /// Writes a file under `/proc/sys`, as `net/ipv4/ip_forward`.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.run(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("sysctl {key}={value}: {error}"));
    }
}

impl Mount {
    fn new(name: &str) -> io::Result<Mount> {
        fs::create_dir_all(DIRECTORY)?;
        let path = Path::new(DIRECTORY).join(name);
        File::options().write(true).create_new(true).open(&path)?;
        let target = path.clone();
        let mounted = thread::spawn(move || {
            sys::unshare_net()?;
            sys::bind_mount(Path::new("/proc/thread-self/ns/net"), &target)
        })
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("thread died")));
        if let Err(error) = mounted {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let file = File::open(&path)?;
        Ok(Mount { name: name.to_owned(), path, file })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what labs of processes that no longer exist left behind: processes in their namespaces, the namespaces, and
/// their scratch directories.
pub fn sweep() {
    for directory in [Path::new(DIRECTORY), &std::env::temp_dir()] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_orphan(&entry.file_name().to_string_lossy())) {
            if directory == Path::new(DIRECTORY) {
                remove(&entry.path());
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether a name is `vr-<pid>-…` of a process that is gone.
fn is_orphan(name: &str) -> bool {
    let pid =
        name.strip_prefix("vr-").and_then(|rest| rest.split_once('-')).and_then(|(pid, _)| pid.parse().ok());
    pid.is_some_and(|pid| !sys::is_alive(pid))
}

fn remove(path: &Path) {
    stop_processes(path);
    let _ = sys::unmount(path);
    let _ = fs::remove_file(path);
}

/// Ends every process in a namespace of ours, by its number. Threads of this process that stand in it do not count.
fn stop_processes(netns: &Path) {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let inside = processes_in(netns);
        if inside.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in inside {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn processes_in(netns: &Path) -> Vec<u32> {
    let Ok(wanted) = fs::metadata(netns) else { return Vec::new() };
    let own = fs::metadata("/proc/self/ns/net").map(|own| own.ino()).unwrap_or_default();
    if wanted.ino() == own {
        return Vec::new();
    }
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let netns = fs::metadata(format!("/proc/{pid}/ns/net"));
            netns.is_ok_and(|netns| (netns.dev(), netns.ino()) == (wanted.dev(), wanted.ino()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_orphans() {
        assert!(!is_orphan(&format!("vr-{}-x", std::process::id())));
        assert!(is_orphan("vr-4194305-x"), "above the largest pid there can be");
        assert!(!is_orphan("vr-x-y"));
        assert!(!is_orphan("cni-1234"));
    }
}
