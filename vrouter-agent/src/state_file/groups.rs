//! Security groups on disk: `<state-dir>/security-groups/<name>.json`.

use std::fs;
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
        let path = self.group_file(name);
        if fs::symlink_metadata(&path).is_ok() { disk::remove(&path) } else { Ok(()) }
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
