//! The API's listener over a restart.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::Socket;
use tokio::net::UnixListener;

/// Goes on listening where the last run did: whoever has connected since waits in the kernel. `None`: this is no
/// listener at this path, or nobody would find it there.
///
/// # Panics
/// Outside a tokio runtime.
pub fn adopt_listener(fd: OwnedFd, path: &Path) -> Option<UnixListener> {
    let socket = Socket::from(fd);
    let is_ours = socket.local_addr().ok()?.as_pathname()? == path
        && socket.is_listener().ok()?
        && std::fs::symlink_metadata(path).ok()?.file_type().is_socket();
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    listener.set_nonblocking(true).ok()?;
    is_ours.then(|| UnixListener::from_std(listener).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn a_listener_goes_on_where_it_can_be_found_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = net::UnixListener::bind(&path).unwrap();
        let again = || OwnedFd::from(listener.try_clone().unwrap());
        assert!(adopt_listener(again(), &directory.path().join("other.sock")).is_none());
        let early = net::UnixStream::connect(&path).unwrap();
        let adopted = adopt_listener(again(), &path).expect("it is what it says");
        adopted.accept().await.expect("who came before is served");
        assert!(adopt_listener(OwnedFd::from(early), &path).is_none(), "a connection is no listener");
        std::fs::remove_file(&path).unwrap();
        assert!(adopt_listener(again(), &path).is_none(), "nobody would find it");
        assert!(adopt_listener(std::fs::File::open("/dev/null").unwrap().into(), &path).is_none());
    }
}
