//! Takes a port away at the agent; where the agent is away, leaves that for it to do: a file in the spool, on disk before
//! we say "done".
//!
//! The agent works the spool off when it starts and when it sees a file come. One file per port, named as the port's host
//! interface, so a repeated DEL writes the same file again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_api::{Client, DetachPort, PortKey, sealed};

use crate::conf::Conf;
use crate::error::Error;
use crate::name;

/// For the agent's answer. It withdraws a route and writes a file; more than this means that it is not well.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REPLY: usize = 64 << 10;

/// Detaches now or, if the agent cannot, later. Returns the host interface that the agent names.
pub(crate) fn detach(conf: &Conf, key: &PortKey) -> Result<Option<String>, Error> {
    let request = DetachPort { key: key.clone() };
    let reply = Client::connect(&conf.socket, TIMEOUT)
        .and_then(|client| client.with_max_reply(MAX_REPLY).detach(&request));
    match reply {
        Ok(detached) => {
            forget(conf, key);
            Ok(detached.host_interface)
        }
        Err(error) => {
            eprintln!("vrouter-cni: {error}; the agent will detach {key} later");
            write(&conf.spool, key).map_err(Error::Spool)?;
            Ok(None)
        }
    }
}

/// Removes what an earlier DEL of this port left in the spool, so that it does not hit the port that is made now.
pub(crate) fn forget(conf: &Conf, key: &PortKey) {
    // Absent is usual, and a file that stays only repeats a removal.
    let _ = fs::remove_file(file(&conf.spool, key));
}

fn file(spool: &Path, key: &PortKey) -> PathBuf {
    spool.join(name::host_interface(key)).with_extension("json")
}

fn write(spool: &Path, key: &PortKey) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(spool)?;
    let (target, draft) = (file(spool, key), spool.join(format!(".{}.tmp", std::process::id())));
    let write = || write_draft(&draft, key).and_then(|()| fs::rename(&draft, &target));
    let mut result = write();
    if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        // An agent that starts removes drafts, whose writers it takes for dead.
        result = write();
    }
    if result.is_err() {
        let _ = fs::remove_file(&draft);
    }
    result?;
    File::open(spool)?.sync_all()
}

fn write_draft(draft: &Path, key: &PortKey) -> io::Result<()> {
    let mut out = File::create(draft)?;
    out.write_all(&sealed::seal(key).map_err(io::Error::other)?)?;
    out.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Version;

    #[test]
    fn without_an_agent_the_removal_is_spooled_once() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("a/b");
        let conf = serde_json::json!({ "name": "n", "spool": spool, "socket": dir.path().join("sock") });
        let conf = Conf::parse(Version::V1_0, conf, Vec::new()).unwrap();
        let key = PortKey { container: "c1".to_owned(), interface: "eth0".to_owned() };
        for _ in 0..2 {
            assert_eq!(detach(&conf, &key).unwrap(), None);
        }
        let files: Vec<_> = fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files, [file(&spool, &key)]);
        let read = sealed::unseal::<PortKey>(&fs::read(&files[0]).unwrap()).unwrap();
        assert!(read.is_sealed && read.content == key, "{read:?}");
        forget(&conf, &key);
        assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
    }

    #[test]
    fn a_spool_that_cannot_be_written_is_code_11_and_not_success() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        let conf =
            serde_json::json!({ "name": "n", "spool": blocked.join("x"), "socket": dir.path().join("sock") });
        let conf = Conf::parse(Version::V1_0, conf, Vec::new()).unwrap();
        let key = PortKey { container: "c1".to_owned(), interface: "eth0".to_owned() };
        let error = detach(&conf, &key).unwrap_err();
        assert_eq!(error.code(), 11);
        // containerd would take these words for success.
        assert!(!error.to_string().to_lowercase().contains("not found"));
        assert!(!error.to_string().to_lowercase().contains("no such file"));
    }
}
