//! podman 4 with its CNI backend, in a node's namespace and with everything that it keeps in one directory. All of it is
//! gone when it is dropped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cri::{image, mounts_under, unmount_under};
use crate::netns::Namespace;
use crate::process::run;

/// The network that containers join.
const NETWORK: &str = "lab";

/// A podman of its own.
pub struct Podman {
    namespace: Namespace,
    directory: PathBuf,
}

impl Podman {
    /// Lays one out with this network (the `plugins` of a list), these CNI plugins beside the reference ones, and the
    /// image of the lab. `None`, said loudly: podman is not installed.
    ///
    /// # Panics
    /// When it does not take the image.
    pub fn new(
        namespace: &Namespace,
        directory: &Path,
        plugins: &Value,
        programs: &[PathBuf],
    ) -> Option<Podman> {
        if !Path::new("/usr/bin/podman").exists() {
            eprintln!("SKIPPED: no podman: install podman, conmon and runc");
            return None;
        }
        let made = lay_out(directory, plugins, programs);
        made.unwrap_or_else(|error| panic!("lay out podman: {error}"));
        let podman = Podman { namespace: namespace.clone(), directory: directory.to_owned() };
        let archive = image::make(directory);
        let loaded = podman.run(&["load", "-q", "-i", &archive.display().to_string()]);
        loaded.unwrap_or_else(|error| panic!("podman load: {error}"));
        Some(podman)
    }

    /// `podman` with these words: what it prints, or what it says when it fails.
    pub fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = run(&self.namespace, self.command().args(words));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A container of this name on the network, which sleeps; with further words for `podman run`.
    pub fn start(&self, name: &str, words: &[&str]) -> Result<(), String> {
        let begin = ["run", "-d", "--name", name, "--network", NETWORK, "--pull=never"];
        let end = [image::IMAGE, "/bin/sleep", "1000000000"];
        self.run(&[&begin, words, &end].concat()).map(drop)
    }

    /// What a program prints inside a container.
    pub fn exec(&self, name: &str, words: &[&str]) -> Result<String, String> {
        self.run(&[&["exec", name], words].concat())
    }

    /// The addresses of a container on the network, as podman knows them.
    pub fn addresses(&self, name: &str) -> Result<Vec<String>, String> {
        let text = self.run(&["inspect", name])?;
        let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let network = &json[0]["NetworkSettings"]["Networks"][NETWORK];
        let found = [&network["IPAddress"], &network["GlobalIPv6Address"]];
        Ok(found.iter().filter_map(|it| it.as_str()).filter(|it| !it.is_empty()).map(str::to_owned).collect())
    }

    fn command(&self) -> Command {
        let at = |name: &str| self.directory.join(name);
        let mut command = Command::new("/usr/bin/podman");
        command
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", at("storage.conf"));
        command
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("runroot"))
            .arg("--tmpdir")
            .arg(at("tmp"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--log-level", "error"]);
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]);
        // Its storage stays mounted between calls.
        let _ = self.run(&["system", "prune", "--all", "--force"]);
        for _ in 0..3 {
            if mounts_under(&self.directory).is_empty() {
                break;
            }
            unmount_under(&self.directory);
        }
    }
}

fn lay_out(directory: &Path, plugins: &Value, programs: &[PathBuf]) -> std::io::Result<()> {
    for name in ["root", "runroot", "tmp", "net.d", "bin"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let references = ["loopback", "portmap", "host-local", "bandwidth", "tuning", "firewall", "bridge"];
    let references = references.map(|name| Path::new("/usr/lib/cni").join(name));
    for program in references.iter().chain(programs) {
        symlink(program, directory.join("bin").join(program.file_name().unwrap_or_default()))?;
    }
    let list = serde_json::json!({ "cniVersion": "0.4.0", "name": NETWORK, "plugins": plugins });
    fs::write(directory.join("net.d/10-lab.conflist"), list.to_string())?;
    let at = directory.display();
    let conf = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{at}/bin\"]\nnetwork_config_dir = \"{at}/net.d\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n\
         [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nseccomp_profile = \"unconfined\"\n"
    );
    fs::write(directory.join("containers.conf"), conf)?;
    let storage =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/root\"\nrunroot = \"{at}/runroot\"\n");
    fs::write(directory.join("storage.conf"), storage)
}
