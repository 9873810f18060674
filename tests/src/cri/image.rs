//! The image of every pod and container: busybox, made here, so that nothing is fetched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// The image of every pod and container.
pub(crate) const IMAGE: &str = "localhost/vrouter-pause:1";
/// What busybox is called in the image.
const APPLETS: [&str; 12] =
    ["sh", "sleep", "ip", "ping", "ping6", "nc", "httpd", "wget", "cat", "echo", "ls", "id"];

/// An archive as `docker save` writes it, with one layer that holds busybox.
pub(crate) fn make(directory: &Path) -> PathBuf {
    let at = directory.join("image");
    let made = lay_out_image(&at);
    let archive = directory.join("image.tar");
    made.and_then(|()| tar(&at.join("archive"), &archive))
        .unwrap_or_else(|error| panic!("make image: {error}"));
    archive
}

fn lay_out_image(at: &Path) -> std::io::Result<()> {
    let (root, archive) = (at.join("root"), at.join("archive"));
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(&archive)?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    tar(&root, &archive.join("layer.tar"))?;
    let digest = sha256(&archive.join("layer.tar"))?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "1000000000"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    fs::write(archive.join("config.json"), config.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(archive.join("manifest.json"), manifest.to_string())
}

fn tar(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "-cf"]).arg(to).arg("-C").arg(from).arg(".");
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("tar: {status}"))) }
}

fn sha256(file: &Path) -> std::io::Result<String> {
    let output = Command::new("sha256sum").arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other("sha256sum said nothing"))
}
