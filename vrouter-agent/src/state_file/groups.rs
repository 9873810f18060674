//! Security groups on disk: `<state-dir>/security-groups/<name>.json`.

use std::io;
use std::path::PathBuf;

use agent_api::SecurityGroup;

use super::{JSON, MAX_FILE, StateDir, disk};
use crate::security_groups::check;

const GROUPS: &str = "security-groups";

impl StateDir {
    /// The group is on disk when this returns.
    pub fn save_group(&self, group: &SecurityGroup) -> io::Result<()> {
        let dir = self.root.join(GROUPS);
        if !dir.is_dir() {
            disk::make_dir(&dir)?;
        }
        self.write(&self.group_file(&group.name), group)
    }

    /// The group is not on disk when this returns.
    pub fn forget_group(&self, name: &str) -> io::Result<()> {
        disk::remove(&self.group_file(name))
    }

    /// Every group. What cannot be read is put aside.
    pub fn load_groups(&self) -> Vec<SecurityGroup> {
        let mut paths = disk::files(&self.root.join(GROUPS), JSON).unwrap_or_default();
        paths.sort_unstable();
        let mut groups = Vec::new();
        for path in paths {
            let Some(group) = self.read::<SecurityGroup>(&path, MAX_FILE) else { continue };
            match check(&group) {
                Ok(()) if path == self.group_file(&group.name) => groups.push(group),
                Ok(()) => self.put_aside(&path, "its name is not its group's"),
                Err(error) => self.put_aside(&path, &error),
            }
        }
        groups
    }

    /// The name was checked: it cannot leave the directory.
    fn group_file(&self, name: &str) -> PathBuf {
        self.root.join(GROUPS).join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::security_groups::built_in;

    #[test]
    fn what_was_saved_is_loaded_and_what_makes_no_sense_is_put_aside() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        assert!(state.load_groups().is_empty());
        let group = |name: &str| SecurityGroup { name: name.to_owned(), ..built_in() };
        for name in ["web", "db", "4fb2dd5e-33c7-4f2c-a9a1-c8e2f4f2e1b0"] {
            state.save_group(&group(name)).unwrap();
        }
        state.save_group(&SecurityGroup { rules: Vec::new(), ..group("web") }).unwrap();
        state.forget_group("db").unwrap();
        state.forget_group("db").unwrap();
        let dir = root.path().join(GROUPS);
        fs::rename(dir.join("web.json"), dir.join("other.json")).unwrap();
        fs::write(dir.join("torn.json"), "{\"version\":2,\"na").unwrap();
        let names: Vec<String> = state.load_groups().into_iter().map(|group| group.name).collect();
        assert_eq!(names, ["4fb2dd5e-33c7-4f2c-a9a1-c8e2f4f2e1b0"]);
        assert_eq!(state.problems().len(), 2, "{:?}", state.problems());
    }
}
