//! Whom names are asked from: those of the configuration, or the node's own (`/etc/resolv.conf`), read again when
//! the file changes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

const FILE: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// As many as resolv.conf(5) counts.
const MOST: usize = 3;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Nobody writes longer ones by hand.
const LONGEST: usize = 64 << 10;

/// The resolvers in force.
#[derive(Debug)]
pub struct Resolvers {
    configured: Vec<SocketAddr>,
    /// Read where none is configured.
    file: Option<PathBuf>,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Resolvers {
    /// Those that are configured; none: the node's.
    pub fn new(configured: Vec<IpAddr>) -> Resolvers {
        let file = configured.is_empty().then(|| PathBuf::from(FILE));
        let configured = configured.into_iter().map(|addr| SocketAddr::new(addr, PORT)).collect();
        Resolvers { configured, file, read: Mutex::default() }
    }

    /// These, and no others.
    pub fn fixed(servers: Vec<SocketAddr>) -> Resolvers {
        Resolvers { configured: servers, file: None, read: Mutex::default() }
    }

    /// In the order in which they are to be asked; at most three.
    pub fn current(&self, now: Instant) -> Vec<SocketAddr> {
        let Some(file) = &self.file else {
            return self.configured.iter().take(MOST).copied().collect();
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            read.looked = Some(now);
            let changed = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
            if changed.is_none() || changed != read.changed {
                read.changed = changed;
                let text = std::fs::read(file).unwrap_or_default();
                read.servers = parse(&String::from_utf8_lossy(text.get(..LONGEST).unwrap_or(&text)));
            }
        }
        read.servers.clone()
    }
}

/// The `nameserver` lines.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        let word = words.next()?;
        // A link-local address says on which link; which number that is only the kernel knows.
        word.parse().ok()
    });
    servers.take(MOST).map(|addr| SocketAddr::new(addr, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_all_else_is_passed_over() {
        let text = "# nameserver 9.9.9.9\nsearch a.example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver\n\
                    nameserver nonsense\nnameserver fe80::1%eth0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"].map(|it| it.parse().unwrap()).to_vec();
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn the_file_is_read_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let resolvers = Resolvers { file: Some(file.clone()), ..Resolvers::new(Vec::new()) };
        let start = Instant::now();
        assert_eq!(resolvers.current(start), []);
        std::fs::write(&file, "nameserver 192.0.2.7\n").unwrap();
        assert_eq!(resolvers.current(start), [], "not looked at for every query");
        assert_eq!(resolvers.current(start + LOOK), ["192.0.2.7:53".parse().unwrap()]);
        let configured = Resolvers::new(vec!["192.0.2.9".parse().unwrap()]);
        assert_eq!(configured.current(start), ["192.0.2.9:53".parse().unwrap()]);
    }
}
