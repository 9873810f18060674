//! containerd, driven over its CRI socket as a kubelet drives it: RunPodSandbox, containers, ExecSync, StopPodSandbox,
//! RemovePodSandbox. Everything it keeps lies in one directory, and all of it is gone when it is dropped.
//!
//! ```text
//!   test ──gRPC──▶ containerd (in the node's namespace) ──exec──▶ CNI plugins ──▶ vrouter-agent
//!                     └ shim ─ runc ─ busybox sleep, one namespace per pod
//! ```
//! The client is as small as it can be: a unary gRPC call over HTTP/2 (h2), and those messages and fields of CRI v1 that are
//! needed, with their public numbers. The pod's image is made here from busybox, so nothing is fetched.

mod grpc;
mod image;
mod messages;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prost::Message;
use serde_json::Value;

use self::image::IMAGE;
use self::messages::*;
use crate::netns::Namespace;
use crate::process::{Daemon, run, run_ok};
use crate::sys;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// No call takes longer; a kubelet waits two minutes.
const DEADLINE: Duration = Duration::from_secs(60);
/// A containerd of its own.
pub struct Containerd {
    directory: PathBuf,
    daemon: Daemon,
}

/// A pod to be run.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    name: String,
    kubernetes_namespace: String,
    annotations: HashMap<String, String>,
}

/// A pod that runs. It is stopped and removed by [`Containerd::stop`] and [`Containerd::remove`], not by dropping it.
#[derive(Debug, Clone)]
pub struct CriPod {
    /// The sandbox's ID, which is also CNI's container ID.
    pub id: String,
    spec: PodSpec,
}

impl PodSpec {
    /// A pod in the Kubernetes namespace `default`.
    pub fn new(name: &str) -> PodSpec {
        PodSpec {
            name: name.to_owned(),
            kubernetes_namespace: "default".to_owned(),
            annotations: HashMap::new(),
        }
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> PodSpec {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Puts it into a Kubernetes namespace.
    pub fn kubernetes_namespace(mut self, namespace: &str) -> PodSpec {
        namespace.clone_into(&mut self.kubernetes_namespace);
        self
    }

    fn to_config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("uid-{}", self.name),
                namespace: self.kubernetes_namespace.clone(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            annotations: self.annotations.clone(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: String::new() }),
        }
    }
}

impl Containerd {
    /// Starts one in a node's namespace, with this network configuration list and these CNI plugins beside the reference
    /// ones. Returns when it serves CRI and has the image.
    ///
    /// # Panics
    /// When containerd, runc, busybox or the reference plugins are not installed, or when it does not come up.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        conflist: &Value,
        plugins: &[PathBuf],
    ) -> Containerd {
        for program in ["/usr/bin/containerd", "/usr/sbin/runc", "/bin/busybox", "/usr/lib/cni/loopback"] {
            let advice = "install containerd, runc, busybox-static and containernetworking-plugins";
            assert!(Path::new(program).exists(), "no {program}: {advice}");
        }
        lay_out(directory, conflist, plugins).unwrap_or_else(|error| panic!("lay out containerd: {error}"));
        let mut command = Command::new("/usr/bin/containerd");
        command.arg("-c").arg(directory.join("config.toml"));
        let daemon = Daemon::start(namespace, "containerd", command, &directory.join("log"));
        let containerd = Containerd { directory: directory.to_owned(), daemon };
        wait_for("containerd to serve CRI", PATIENCE, || containerd.version());
        let image = image::make(directory);
        let mut import = containerd.ctr();
        run_ok(namespace, import.args(["-n", "k8s.io", "images", "import"]).arg(image));
        containerd
    }

    /// Its name and version.
    pub fn version(&self) -> Result<String, String> {
        let reply: VersionResponse = self.call("Version", &VersionRequest {})?;
        Ok(format!("{} {}", reply.runtime_name, reply.runtime_version))
    }

    /// Whether it says that its network is ready, and why not.
    pub fn network_ready(&self) -> Result<(), String> {
        let reply: StatusResponse = self.call("Status", &StatusRequest {})?;
        let conditions = reply.status.unwrap_or_default().conditions;
        match conditions.into_iter().find(|condition| condition.kind == "NetworkReady") {
            Some(condition) if condition.status => Ok(()),
            Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
            None => Err("it does not say".to_owned()),
        }
    }

    /// RunPodSandbox; else what the kubelet would show.
    pub fn run_pod(&self, spec: &PodSpec) -> Result<CriPod, String> {
        let request = RunPodSandboxRequest { config: Some(spec.to_config()) };
        let reply: RunPodSandboxResponse = self.call("RunPodSandbox", &request)?;
        Ok(CriPod { id: reply.pod_sandbox_id, spec: spec.clone() })
    }

    /// PodSandboxStatus: the pod's addresses, the primary one first.
    pub fn addresses(&self, pod: &CriPod) -> Result<Vec<String>, String> {
        let reply: PodSandboxStatusResponse = self.call("PodSandboxStatus", &by_id(pod))?;
        let network = reply.status.unwrap_or_default().network.unwrap_or_default();
        let further = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(std::iter::once(network.ip).filter(|ip| !ip.is_empty()).chain(further).collect())
    }

    /// ListPodSandbox: the IDs of all pods.
    pub fn pods(&self) -> Result<Vec<String>, String> {
        let reply: ListPodSandboxResponse = self.call("ListPodSandbox", &ListPodSandboxRequest {})?;
        Ok(reply.items.into_iter().map(|item| item.id).collect())
    }

    /// Creates and starts a container that sleeps; returns its ID, for [`Containerd::exec`].
    pub fn start_container(&self, pod: &CriPod) -> Result<String, String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: vec!["/bin/sleep".to_owned(), "1000000000".to_owned()],
            linux: Some(LinuxContainerConfig {}),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.spec.to_config()),
        };
        let created: CreateContainerResponse = self.call("CreateContainer", &request)?;
        let id = created.container_id;
        let started: Result<Empty, _> =
            self.call("StartContainer", &StartContainerRequest { container_id: id.clone() });
        started.map(|_| id)
    }

    /// ExecSync: what a program prints inside a container, if it succeeds.
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<String, String> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: words.iter().map(|&word| word.to_owned()).collect(),
            timeout: 30,
        };
        let reply: ExecSyncResponse = self.call("ExecSync", &request)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match reply.exit_code {
            0 => Ok(text(&reply.stdout)),
            code => {
                Err(format!("{words:?} ended with {code}: {}{}", text(&reply.stdout), text(&reply.stderr)))
            }
        }
    }

    /// StopPodSandbox.
    pub fn stop(&self, pod: &CriPod) -> Result<(), String> {
        self.call::<_, Empty>("StopPodSandbox", &by_id(pod)).map(drop)
    }

    /// RemovePodSandbox.
    pub fn remove(&self, pod: &CriPod) -> Result<(), String> {
        self.call::<_, Empty>("RemovePodSandbox", &by_id(pod)).map(drop)
    }

    /// What containerd has logged so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("run/containerd.sock")
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("/usr/bin/ctr");
        command.arg("-a").arg(self.socket());
        command
    }

    /// One unary call of the runtime service.
    fn call<Q: Message, R: Message + Default>(&self, method: &str, request: &Q) -> Result<R, String> {
        let (socket, path) = (self.socket(), format!("/runtime.v1.RuntimeService/{method}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let call = async {
            let exchange = grpc::unary(&socket, &path, request.encode_to_vec());
            let call = tokio::time::timeout(DEADLINE, exchange);
            call.await.map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))?
        };
        let reply = runtime.block_on(call).map_err(|error| format!("{method}: {error}"))?;
        R::decode(reply).map_err(|error| format!("{method}: {error}"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.pods().unwrap_or_default() {
            let pod = CriPod { id, spec: PodSpec::default() };
            let _ = self.stop(&pod);
            let _ = self.remove(&pod);
        }
        // It ends by itself when asked; a crash would leave the shims.
        let _ = self.daemon.stop();
        end_shims(&self.directory);
        unmount_under(&self.directory);
    }
}

fn by_id(pod: &CriPod) -> PodSandboxId {
    PodSandboxId { pod_sandbox_id: pod.id.clone() }
}

/// Directories, configuration and plugins.
fn lay_out(directory: &Path, conflist: &Value, plugins: &[PathBuf]) -> std::io::Result<()> {
    for name in ["root", "state", "run", "net.d", "bin"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let references =
        ["loopback", "ptp", "host-local", "portmap"].map(|name| Path::new("/usr/lib/cni").join(name));
    for plugin in references.iter().chain(plugins) {
        symlink(plugin, directory.join("bin").join(plugin.file_name().unwrap_or_default()))?;
    }
    fs::write(directory.join("net.d/10-lab.conflist"), conflist.to_string())?;
    let at = directory.display();
    let config = format!(
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
    );
    fs::write(directory.join("config.toml"), config)
}

/// Ends the shims of this containerd and their children, by their numbers.
fn end_shims(directory: &Path) {
    let marker = directory.display().to_string();
    let is_shim = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("containerd-shim") && line.contains(&marker)
    };
    let shims: Vec<u32> = processes().filter(|pid| is_shim(*pid)).collect();
    let is_child = |pid: &u32| parent(*pid).is_some_and(|parent| shims.contains(&parent));
    for pid in processes().filter(is_child).chain(shims.iter().copied()).collect::<Vec<_>>() {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    if !shims.is_empty() {
        wait_until("shims to end", PATIENCE, || shims.iter().all(|pid| !is_shim(*pid)));
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; behind its closing bracket come state and parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Undoes all mounts under a directory, the deepest first.
fn unmount_under(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    points.sort();
    for point in points.iter().rev() {
        let _ = sys::unmount(point);
    }
}

/// Whether the libcni cache holds anything of this network.
pub fn cached_results(network: &str) -> Vec<PathBuf> {
    let files =
        fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten().map(|entry| entry.path());
    let prefix = format!("{network}-");
    files
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect()
}

/// Pings an address from a namespace with the lab's own ping program; what it said when it failed.
pub fn ping(namespace: &Namespace, address: &str) -> Result<(), String> {
    let output = run(namespace, Command::new("/bin/busybox").args(["ping", "-c", "3", "-W", "5", address]));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}
