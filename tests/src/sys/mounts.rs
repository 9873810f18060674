//! File systems of a test's own making.

use std::io;
use std::path::{Path, PathBuf};

use super::{c_path, check, unmount};

/// A small file system in memory. It goes when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this many octets over a directory.
    pub fn mount(path: &Path, octets: usize) -> io::Result<SmallDisk> {
        mount(path, libc::MS_NODEV | libc::MS_NOSUID, &format!("size={octets},mode=700\0"))?;
        Ok(SmallDisk { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets nobody write, or everybody again.
    pub fn set_read_only(&self, is_read_only: bool) -> io::Result<()> {
        let flags = if is_read_only { libc::MS_RDONLY } else { 0 };
        mount(&self.path, libc::MS_REMOUNT | libc::MS_NODEV | libc::MS_NOSUID | flags, "\0")
    }

    /// Writes until nothing more fits. Returns the file.
    pub fn fill(&self) -> io::Result<PathBuf> {
        use std::io::Write as _;
        let path = self.path.join("filler");
        let mut file = std::fs::File::create(&path)?;
        loop {
            match file.write(&[0x55; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.path);
    }
}

fn mount(path: &Path, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let path = c_path(path)?;
    let kind = c"tmpfs".as_ptr();
    // SAFETY: all three texts are NUL-terminated and outlive the call.
    check(unsafe { libc::mount(kind, path.as_ptr(), kind, flags, data.as_ptr().cast()) }).map(drop)
}
