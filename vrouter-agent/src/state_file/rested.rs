//! Addresses that pods gave back, so that a restarted agent does not give them to others at once: one line each, the
//! latest last.
//!
//! ```text
//!  <state-dir>/rested.log   {"vrf":"city","address":"10.20.11.5"}
//! ```
//! Lines are appended without waiting for the disk. They are about the next minute: what a power failure takes was about
//! the minute before it. A line that is cut off or damaged is passed over, and a file that has grown is begun anew with its
//! end.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::event::SavedPort;

/// So many are read, and left when the file is begun anew.
const KEPT: usize = 1_024;
/// A file of more octets is begun anew: some 4,000 lines.
const MOST: u64 = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Line {
    vrf: String,
    address: IpAddr,
}

/// Notes the addresses of a port that goes.
pub(super) fn note(path: &Path, port: &SavedPort) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.len() > MOST || !meta.is_file()) {
        begin_anew(path)?;
    }
    let lines = port.addresses.iter().map(|address| Line { vrf: port.vrf.clone(), address: *address });
    let text = to_text(lines)?;
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)?.write_all(&text)
}

/// What was noted, by VRF; nothing where there is no such file.
pub(super) fn read(path: &Path) -> Vec<(String, IpAddr)> {
    lines(path).into_iter().map(|line| (line.vrf, line.address)).collect()
}

fn begin_anew(path: &Path) -> io::Result<()> {
    let text = to_text(lines(path).into_iter())?;
    if path.is_dir() {
        fs::remove_dir(path)?;
    }
    let new = path.with_extension(super::disk::NEW);
    fs::write(&new, text)?;
    fs::rename(new, path)
}

fn to_text(lines: impl Iterator<Item = Line>) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// The last ones.
fn lines(path: &Path) -> VecDeque<Line> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut text = Vec::new();
    // What cannot be read rests nowhere; that costs nobody more than an address used early.
    let _ = file.map(|file| file.take(2 * MOST).read_to_end(&mut text));
    let mut kept = VecDeque::new();
    for line in
        text.split(|octet| *octet == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok())
    {
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    kept
}

#[cfg(test)]
mod tests {
    use agent_api::{AttachPort, PortKey, PortKind};
    use vrouter_types::{Label, MacAddr, PortId};

    use super::*;

    fn port(last: u8) -> SavedPort {
        let key = PortKey { container: "c".into(), interface: "eth0".into() };
        SavedPort {
            port: PortId(0),
            label: Label::FIRST_UNRESERVED,
            vrf: "city".into(),
            addresses: vec![[10, 0, 0, last].into()],
            mtu: 1500,
            sequence: 0,
            boot_id: String::new(),
            active: std::collections::BTreeMap::new(),
            request: AttachPort::new(key, PortKind::Pod, "vr0".into(), MacAddr([2, 0, 0, 0, 0, 1])),
        }
    }

    #[test]
    fn addresses_come_back_in_order_and_damage_costs_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rested.log");
        assert_eq!(read(&path), []);
        note(&path, &port(1)).unwrap();
        let mut torn = fs::read(&path).unwrap();
        torn.extend(b"{\"vrf\":\"ci\n\xff\0\n");
        fs::write(&path, torn).unwrap();
        note(&path, &port(2)).unwrap();
        let city = |last: u8| ("city".to_owned(), IpAddr::from([10, 0, 0, last]));
        assert_eq!(read(&path), [city(1), city(2)]);
    }

    #[test]
    fn the_file_does_not_grow_beyond_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rested.log");
        for last in (0..=255).cycle().take(12_000) {
            note(&path, &port(last)).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= MOST + 200);
        assert!(
            read(&path).len() <= KEPT
                && read(&path).last() == Some(&("city".to_owned(), [10, 0, 0, 223].into()))
        );
    }

    #[test]
    fn whatever_stands_in_its_place_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rested.log");
        fs::create_dir(&path).unwrap();
        assert_eq!(read(&path), []);
        note(&path, &port(1)).unwrap();
        assert_eq!(read(&path).len(), 1);
        fs::remove_file(&path).unwrap();
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        note(&path, &port(2)).unwrap();
        assert_eq!(read(&path).len(), 1);
    }
}
