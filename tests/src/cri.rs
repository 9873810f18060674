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
pub(crate) mod image;
mod layout;
mod leftovers;
mod messages;
mod release;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prost::Message;
use serde_json::Value;

use self::image::IMAGE;
pub(crate) use self::leftovers::unmount_under;
pub use self::leftovers::{cached_results, mounts_under, processes_of};
use self::messages::*;
pub use self::release::Release;
use crate::echo::connect_tcp;
use crate::netns::Namespace;
use crate::process::{Daemon, run, run_ok};
use crate::wait::{PATIENCE, wait_for};

/// As long as a kubelet waits for a sandbox: thirty at once, on a disk that is busy, may need minutes.
const DEADLINE: Duration = Duration::from_secs(240);

/// A containerd of its own.
pub struct Containerd {
    directory: PathBuf,
    namespace: Namespace,
    release: Release,
    daemon: Daemon,
}

/// A pod to be run.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    name: String,
    kubernetes_namespace: String,
    annotations: HashMap<String, String>,
    host_ports: Vec<(u16, u16)>,
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
        PodSpec { name: name.to_owned(), kubernetes_namespace: "default".to_owned(), ..PodSpec::default() }
    }

    /// Asks for a TCP port of the host that leads to one of the pod.
    pub fn host_port(mut self, host: u16, pod: u16) -> PodSpec {
        self.host_ports.push((host, pod));
        self
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
        let mapping = |(host, pod): &(u16, u16)| PortMapping {
            container_port: i32::from(*pod),
            host_port: i32::from(*host),
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("uid-{}", self.name),
                namespace: self.kubernetes_namespace.clone(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            // As a kubelet always says.
            dns: Some(DnsConfig {
                servers: vec!["10.43.0.10".to_owned()],
                searches: vec!["svc.local".to_owned()],
            }),
            port_mappings: self.host_ports.iter().map(mapping).collect(),
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
        release: &Release,
        namespace: &Namespace,
        directory: &Path,
        conflist: &Value,
        plugins: &[PathBuf],
    ) -> Containerd {
        let containerd = release.program("containerd");
        for program in [
            containerd.as_path(),
            "/usr/sbin/runc".as_ref(),
            "/bin/busybox".as_ref(),
            "/usr/lib/cni/loopback".as_ref(),
        ] {
            let advice = "install containerd, runc, busybox-static and containernetworking-plugins";
            assert!(program.exists(), "no {}: {advice}", program.display());
        }
        layout::lay_out(release, directory, conflist, plugins)
            .unwrap_or_else(|error| panic!("lay out containerd: {error}"));
        let daemon = run_daemon(release, namespace, directory);
        let containerd = Containerd {
            directory: directory.to_owned(),
            namespace: namespace.clone(),
            release: release.clone(),
            daemon,
        };
        wait_for("containerd to serve CRI", PATIENCE, || containerd.version());
        let image = image::make(directory);
        let mut import = containerd.ctr();
        run_ok(namespace, import.args(["-n", "k8s.io", "images", "import"]).arg(image));
        containerd
    }

    /// Ends it the way a crash does. Pods and their shims stay, and so does a CNI plugin that is at work.
    pub fn kill9(&mut self) {
        self.daemon.kill();
    }

    /// Starts it again on what it left, and waits until it serves.
    pub fn restart(&mut self) {
        self.daemon = run_daemon(&self.release, &self.namespace, &self.directory);
        wait_for("containerd to serve CRI again", PATIENCE, || self.version());
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
        self.run_pod_within(spec, DEADLINE)
    }

    /// RunPodSandbox with a deadline, which containerd is told as a kubelet tells it.
    pub fn run_pod_within(&self, spec: &PodSpec, deadline: Duration) -> Result<CriPod, String> {
        let request = RunPodSandboxRequest { config: Some(spec.to_config()) };
        let reply: RunPodSandboxResponse = self.call_within("RunPodSandbox", &request, deadline)?;
        Ok(CriPod { id: reply.pod_sandbox_id, spec: spec.clone() })
    }

    /// PodSandboxStatus: the pod's addresses, the primary one first.
    pub fn addresses(&self, pod: &CriPod) -> Result<Vec<String>, String> {
        let reply: PodSandboxStatusResponse = self.call("PodSandboxStatus", &by_id(pod))?;
        let network = reply.status.unwrap_or_default().network.unwrap_or_default();
        let further = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(std::iter::once(network.ip).filter(|ip| !ip.is_empty()).chain(further).collect())
    }

    /// A pod that [`Containerd::pods`] named, for stopping and removing it.
    pub fn pod_of(&self, id: &str) -> CriPod {
        CriPod { id: id.to_owned(), spec: PodSpec::default() }
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
        let mut command = Command::new(self.release.program("ctr"));
        command.arg("-a").arg(self.socket());
        command
    }

    /// One unary call of the runtime service.
    fn call<Q: Message, R: Message + Default>(&self, method: &str, request: &Q) -> Result<R, String> {
        self.call_within(method, request, DEADLINE)
    }

    fn call_within<Q: Message, R: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        deadline: Duration,
    ) -> Result<R, String> {
        let (socket, path) = (self.socket(), format!("/runtime.v1.RuntimeService/{method}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let call = async {
            let exchange = grpc::unary(&socket, &path, request.encode_to_vec(), deadline);
            // The server's own word comes later: it still cleans up.
            let call = tokio::time::timeout(deadline + Duration::from_secs(15), exchange);
            call.await.map_err(|_| format!("no answer within {} ms", deadline.as_millis()))?
        };
        let reply = runtime.block_on(call).map_err(|error| format!("{method}: {error}"))?;
        R::decode(reply).map_err(|error| format!("{method}: {error}"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.pods().unwrap_or_default() {
            let pod = self.pod_of(&id);
            let _ = self.stop(&pod);
            let _ = self.remove(&pod);
        }
        // It ends by itself when asked; a crash would leave the shims.
        let _ = self.daemon.stop();
        leftovers::end_shims(&self.directory);
        unmount_under(&self.directory);
    }
}

fn by_id(pod: &CriPod) -> PodSandboxId {
    PodSandboxId { pod_sandbox_id: pod.id.clone() }
}

fn run_daemon(release: &Release, namespace: &Namespace, directory: &Path) -> Daemon {
    let mut command = Command::new(release.program("containerd"));
    // The shim is found there.
    command.arg("-c").arg(directory.join("config.toml")).env("PATH", release.search_path());
    Daemon::start(namespace, "containerd", command, &directory.join("log"))
}

/// Fetches the front page of a web server from a namespace; else what went wrong.
pub fn page(from: &Namespace, server: SocketAddr) -> Result<String, String> {
    let fetch = || {
        let mut stream = connect_tcp(from, server)?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let text = fetch().map_err(|error| error.to_string())?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(text),
    }
}

/// Pings an address from a namespace with the lab's own ping program; what it said when it failed.
pub fn ping(namespace: &Namespace, address: &str) -> Result<(), String> {
    let output = run(namespace, Command::new("/bin/busybox").args(["ping", "-c", "3", "-W", "5", address]));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}
