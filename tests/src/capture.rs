//! Frames as they pass an interface, kept in memory or in a pcap file, and tshark's opinion of them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::Namespace;
use crate::sys;

/// A running capture of one interface.
pub struct Capture {
    taken: Arc<Taken>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Taken {
    /// Reads end at once where nothing waits.
    socket: File,
    frames: Mutex<Vec<Vec<u8>>>,
}

impl Taken {
    /// Takes what waits in the socket, and answers all frames so far.
    fn take(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; 1 << 18];
        while let Ok(length) = (&self.socket).read(&mut buffer) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

impl Capture {
    /// Starts to capture. When it returns, every later frame is seen.
    ///
    /// # Panics
    /// When there is no such interface.
    pub fn start(namespace: &Namespace, interface: &str) -> Capture {
        let index = namespace.netlink(|netlink| netlink.link(interface)).index;
        let socket = namespace.run(|| sys::packet_socket(index, Duration::ZERO));
        let socket = socket.unwrap_or_else(|error| panic!("capture on {interface}: {error}"));
        let taken = Arc::new(Taken { socket, frames: Mutex::default() });
        let ended = Arc::<AtomicBool>::default();
        let (kept, flag) = (Arc::clone(&taken), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if sys::wait_readable(&kept.socket, Duration::from_millis(50)) {
                    drop(kept.take());
                }
            }
        });
        Capture { taken, ended, thread: Some(thread) }
    }

    /// The frames that have passed so far, all of them.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.taken.take().clone()
    }

    /// Ends it and writes a pcap file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(mut self, path: &Path) -> Pcap {
        self.end();
        let mut file = Vec::new();
        // Magic, version 2.4, zone 0, accuracy 0, snap length, link type Ethernet.
        for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 1 << 18, 1] {
            file.extend(word.to_ne_bytes());
        }
        for frame in self.frames() {
            let length = u32::try_from(frame.len()).unwrap_or(0);
            for word in [0, 0, length, length] {
                file.extend(word.to_ne_bytes());
            }
            file.extend(frame);
        }
        fs::write(path, file).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        Pcap(path.to_owned())
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// A capture file, read by tshark.
pub struct Pcap(PathBuf);

impl Pcap {
    /// A file that somebody else has written.
    pub fn read(path: &Path) -> Pcap {
        Pcap(path.to_owned())
    }

    /// Fields of the packets that a display filter selects, one row per packet; a field that occurs at several layers
    /// comes as `outer,inner`.
    ///
    /// # Panics
    /// When tshark cannot read the file.
    pub fn fields(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut tshark = self.tshark();
        tshark.args(["-Y", filter, "-T", "fields", "-E", "separator=|"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let printed = Self::output(tshark).unwrap_or_else(|error| panic!("tshark: {error}"));
        printed.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }

    /// One line for each packet that tshark finds malformed or whose checksum it finds wrong.
    ///
    /// # Panics
    /// When tshark cannot read the file.
    pub fn malformed(&self) -> Vec<String> {
        let mut tshark = self.tshark();
        tshark.args(["-Y", "_ws.malformed || _ws.short || ip.checksum.status == 0"]);
        let printed = Self::output(tshark).unwrap_or_else(|error| panic!("tshark: {error}"));
        printed.lines().map(str::to_owned).collect()
    }

    fn tshark(&self) -> Command {
        let mut tshark = Command::new("tshark");
        tshark.arg("-n").arg("-r").arg(&self.0).args(["-o", "ip.check_checksum:TRUE"]);
        tshark
    }

    fn output(mut tshark: Command) -> io::Result<String> {
        let output = tshark.output()?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}
