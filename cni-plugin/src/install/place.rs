//! Where runtimes look, on the distributions that we know.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Two directories that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) programs: PathBuf,
    pub(super) configurations: PathBuf,
}

const K3S: &str = "/var/lib/rancher/k3s";
const MICROK8S: &str = "/var/snap/microk8s/current";

/// All places in a node's file system; what is named is taken as it stands.
pub(super) fn find(root: &Path, programs: Option<&Path>, configurations: Option<&Path>) -> Vec<Place> {
    let there = |path: &str| resolve(root, Path::new(path)).is_dir();
    let mut found = Vec::new();
    if there(K3S) {
        // Until October 2024 k3s had its plugins beside its own programs, in a directory that changes with each upgrade.
        let programs =
            if there("/var/lib/rancher/k3s/data/cni") || !there("/var/lib/rancher/k3s/data/current/bin") {
                "/var/lib/rancher/k3s/data/cni"
            } else {
                "/var/lib/rancher/k3s/data/current/bin"
            };
        found.push((programs, "/var/lib/rancher/k3s/agent/etc/cni/net.d"));
    }
    if there(MICROK8S) {
        found.push(("/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network"));
    }
    if found.is_empty() || (programs.is_some() && configurations.is_some()) {
        found = vec![("/opt/cni/bin", "/etc/cni/net.d")];
    }
    let choose = |named: Option<&Path>, known: &str| resolve(root, named.unwrap_or(Path::new(known)));
    let place = |(bin, conf): (&str, &str)| Place {
        programs: choose(programs, bin),
        configurations: choose(configurations, conf),
    };
    found.into_iter().map(place).collect()
}

/// The path below the root, symbolic links followed as they are meant there: k3s's and snap's `current` are such.
fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut links = 0;
    let mut rest: Vec<PathBuf> = parts(path);
    let mut inside = PathBuf::new();
    while let Some(part) = rest.pop() {
        if part == Path::new("..") {
            inside.pop();
            continue;
        }
        match fs::read_link(root.join(&inside).join(&part)) {
            Ok(target) if links < 40 => {
                links += 1;
                if target.is_absolute() {
                    inside = PathBuf::new();
                }
                rest.extend(parts(&target));
            }
            _ => inside.push(part),
        }
    }
    root.join(inside)
}

/// The last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    names.collect::<Vec<_>>().into_iter().rev().collect()
}

/// Lists that a runtime reads before this one; most runtimes use the first only.
pub(super) fn before(directory: &Path, list: &str) -> impl Iterator<Item = PathBuf> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_list = |path: &PathBuf| {
        matches!(path.extension().and_then(|it| it.to_str()), Some("conf" | "conflist" | "json"))
    };
    let list = list.to_owned();
    let is_before =
        move |path: &PathBuf| path.file_name().is_some_and(|name| *name.to_string_lossy() < *list);
    let mut found: Vec<_> = names.filter(is_list).filter(is_before).collect();
    found.sort();
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A node that has these directories.
    fn node(directories: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        dir
    }

    fn places(dir: &tempfile::TempDir) -> Vec<(String, String)> {
        let inside = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
        find(dir.path(), None, None)
            .iter()
            .map(|it| (inside(&it.programs), inside(&it.configurations)))
            .collect()
    }

    fn pair(programs: &str, configurations: &str) -> (String, String) {
        (programs.to_owned(), configurations.to_owned())
    }

    #[test]
    fn stock_kubernetes_and_an_empty_node_are_the_same() {
        for directories in [&[][..], &["etc/kubernetes", "etc/cni/net.d", "opt/cni/bin"]] {
            assert_eq!(places(&node(directories)), [pair("opt/cni/bin", "etc/cni/net.d")]);
        }
    }

    #[test]
    fn k3s_old_and_new_have_their_own_directories() {
        let conf = "var/lib/rancher/k3s/agent/etc/cni/net.d";
        let new = node(&["var/lib/rancher/k3s/data/cni", "var/lib/rancher/k3s/data/current/bin"]);
        assert_eq!(places(&new), [pair("var/lib/rancher/k3s/data/cni", conf)]);
        let old = node(&["var/lib/rancher/k3s/data/f00/bin"]);
        symlink("/var/lib/rancher/k3s/data/f00", old.path().join("var/lib/rancher/k3s/data/current"))
            .unwrap();
        assert_eq!(places(&old), [pair("var/lib/rancher/k3s/data/f00/bin", conf)]);
    }

    #[test]
    fn microk8s_is_found_behind_its_link() {
        let node = node(&["var/snap/microk8s/6089/opt/cni/bin", "etc/cni/net.d"]);
        symlink("6089", node.path().join("var/snap/microk8s/current")).unwrap();
        let base = "var/snap/microk8s/6089";
        assert_eq!(
            places(&node),
            [pair(&format!("{base}/opt/cni/bin"), &format!("{base}/args/cni-network"))]
        );
    }

    #[test]
    fn what_is_named_counts_and_links_cannot_lead_out_of_the_root() {
        let node = node(&["var/lib/rancher/k3s"]);
        symlink("../../../../../..", node.path().join("up")).unwrap();
        symlink("loop", node.path().join("loop")).unwrap();
        let found = find(node.path(), Some(Path::new("/up/bin")), Some(Path::new("/loop/net.d")));
        assert_eq!(
            found,
            [Place { programs: node.path().join("bin"), configurations: node.path().join("loop/net.d") }]
        );
    }
}
