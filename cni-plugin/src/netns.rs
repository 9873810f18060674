//! A network namespace, and closures that run inside it.
//!
//! Namespaces belong to threads, so each closure gets a thread of its own, which ends with it: the calling thread never
//! moves. Netlink sockets opened inside stay there and can be used from outside.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Error;

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens it and tries whether it is one.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Netns, Error> {
        let path = path.as_ref().to_path_buf();
        let refuse = |reason: String| Error::Netns { path: path.clone(), reason };
        // O_NONBLOCK: a pipe under this name must not hold us up.
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let netns = Netns { file: file.map_err(|error| refuse(error.to_string()))?, path: path.clone() };
        netns.inside(|| ()).map_err(|error| refuse(format!("it is no network namespace ({error})")))?;
        Ok(netns)
    }

    /// Runs the closure in the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    }

    /// Whether it is the one that we run in.
    pub(crate) fn is_own(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let own = std::fs::metadata("/proc/thread-self/ns/net").map(identity);
        matches!((own, self.file.metadata().map(identity)), (Ok(own), Ok(this)) if own == this)
    }

    /// For the kernel, to create an interface in it.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// As the runtime named it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_code_8() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [dir.path().join("absent"), file, dir.path().to_path_buf(), "/dev/null".into()] {
            assert_eq!(Netns::open(&path).unwrap_err().code(), 8, "{path:?}");
        }
    }
}
