//! When the last run ended, if it did so on purpose: so that the next one can say how long packets waited.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{MAX_FILE, StateDir, Versioned, disk};

const FILE: &str = "stopped.json";

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastStop {
    /// The kernel's boot identifier then.
    pub boot_id: String,
    /// The kernel's monotonic clock, in microseconds, when the last packet had been forwarded.
    pub at_usec: u64,
    /// Which agent it was.
    pub agent: String,
    /// What ended it.
    pub reason: String,
}

impl StateDir {
    /// For the next run. It need not outlive the machine, and nobody waits for the disk; whether it could be written
    /// changes nothing but what `status` says.
    pub fn note_stop(&self, stop: &LastStop) {
        let text = serde_json::to_vec(&Versioned { version: super::VERSION, content: stop });
        if let Ok(text) = text {
            let _ = disk::scribble(&self.root.join(FILE), &text);
        }
    }

    /// What the last run noted; only once. `None`: it was killed, or this is the first.
    pub fn take_last_stop(&self) -> Option<LastStop> {
        let path = self.root.join(FILE);
        let stop = disk::read::<Versioned<LastStop>>(&path, MAX_FILE).ok().map(|file| file.content.content);
        let _ = fs::remove_file(path);
        stop
    }

    /// How many DELs wait, and how many files were put aside because they could not be read.
    pub fn left_over(&self) -> (usize, usize) {
        let count = |dir: &std::path::Path, extension: &str| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter(|entry| entry.path().extension().is_some_and(|is| is == extension)).count()
        };
        let deletes = self.root.join(super::DELETES);
        let inside = fs::read_dir(&self.root).into_iter().flatten().flatten().map(|entry| entry.path());
        let dirs = inside.filter(|path| path.is_dir() && path.extension().is_none());
        let bad: usize = dirs.chain([self.root.clone()]).map(|dir| count(&dir, "bad")).sum();
        (count(&deletes, "json"), bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_told_once_and_nonsense_never() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        assert_eq!(state.take_last_stop(), None);
        let stop = LastStop {
            boot_id: "b".to_owned(),
            at_usec: 7,
            agent: "0.1.0".to_owned(),
            reason: "SIGUSR2".to_owned(),
        };
        state.note_stop(&stop);
        assert_eq!(state.take_last_stop(), Some(stop));
        assert_eq!(state.take_last_stop(), None);
        fs::write(root.path().join(FILE), "{\"version\":1,\"at").unwrap();
        assert_eq!(state.take_last_stop(), None);
    }

    #[test]
    fn what_waits_and_what_was_put_aside_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        assert_eq!(state.left_over(), (0, 0));
        fs::create_dir(root.path().join("attachments")).unwrap();
        for name in [
            "deletes/a.json",
            "deletes/b.json",
            "deletes/c.json.bad",
            "ports/7.json.bad",
            "ports/8.json",
            "attachments/9.json.bad",
        ] {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(state.left_over(), (2, 3));
    }
}
