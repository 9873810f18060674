//! What a containerd that ended leaves: shims, what they run, mounts, and results that libcni keeps.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys;
use crate::wait::{PATIENCE, wait_until};

/// Ends the shims of this containerd and their children, by their numbers.
pub(super) fn end_shims(directory: &Path) {
    let shims = processes_of("containerd-shim", directory);
    let is_child = |pid: &u32| parent(*pid).is_some_and(|parent| shims.contains(&parent));
    for pid in processes().filter(is_child).chain(shims.iter().copied()).collect::<Vec<_>>() {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    if !shims.is_empty() {
        wait_until("shims to end", PATIENCE, || processes_of("containerd-shim", directory).is_empty());
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; behind its closing bracket come state and parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Undoes all mounts under a directory, the deepest first.
pub(crate) fn unmount_under(directory: &Path) {
    for point in mounts_under(directory).iter().rev() {
        let _ = sys::unmount(point);
    }
}

/// What is mounted under a directory.
pub fn mounts_under(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    points.sort();
    points
}

/// Processes whose command line names this program and this directory.
pub fn processes_of(program: &str, directory: &Path) -> Vec<u32> {
    let marker = directory.display().to_string();
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(program) && line.contains(&marker)
    };
    processes().filter(is_it).collect()
}

/// Whether the libcni cache holds anything of this network.
pub fn cached_results(network: &str) -> Vec<PathBuf> {
    let files =
        fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten().map(|entry| entry.path());
    let prefix = format!("{network}-");
    files
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect()
}
