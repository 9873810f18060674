//! Directories, configuration and plugins of a containerd.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Release;
use super::image::IMAGE;

/// The list is the only one; reference plugins are beside ours.
pub(super) fn lay_out(
    release: &Release,
    directory: &Path,
    conflist: &Value,
    plugins: &[PathBuf],
) -> std::io::Result<()> {
    for name in ["root", "state", "run", "net.d", "bin"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let references = ["loopback", "ptp", "host-local", "portmap", "bandwidth", "tuning"];
    let references = references.map(|name| Path::new("/usr/lib/cni").join(name));
    for plugin in references.iter().chain(plugins) {
        symlink(plugin, directory.join("bin").join(plugin.file_name().unwrap_or_default()))?;
    }
    fs::write(directory.join("net.d/10-lab.conflist"), conflist.to_string())?;
    let config = if release.is_second() { version_3(directory) } else { version_2(directory) };
    fs::write(directory.join("config.toml"), config)
}

/// For containerd 1.6 and 1.7.
fn version_2(directory: &Path) -> String {
    let at = directory.display();
    format!(
        r#"version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{at}/run/containerd.sock"
[ttrpc]
  address = "{at}/run/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{at}/bin"
    conf_dir = "{at}/net.d"
    max_conf_num = 1
"#
    )
}

/// For containerd 2.
fn version_3(directory: &Path) -> String {
    let at = directory.display();
    format!(
        r#"version = 3
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{at}/run/containerd.sock"
[ttrpc]
  address = "{at}/run/containerd.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{IMAGE}'
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_port = "0"
[plugins.'io.containerd.cri.v1.runtime']
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{at}/bin']
    conf_dir = '{at}/net.d'
"#
    )
}
