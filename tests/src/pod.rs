//! A pod: a namespace that the real `vrouter-cni` wired to a node, as a container runtime has it done.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::binaries::binary;
use crate::netns::Namespace;
use crate::node::Node;
use crate::process::run_ok;

/// A pod to be added.
pub struct PodRequest {
    node: Namespace,
    socket: PathBuf,
    spool: PathBuf,
    name: String,
    container: String,
    kubernetes_namespace: String,
    annotations: BTreeMap<String, String>,
    bandwidth: Value,
}

impl PodRequest {
    pub(crate) fn new(node: &Node, name: &str) -> PodRequest {
        PodRequest {
            node: node.namespace().clone(),
            socket: node.socket(),
            spool: node.directory().join("state/deletes"),
            name: name.to_owned(),
            container: format!("{}-{name}", node.name()),
            kubernetes_namespace: "default".to_owned(),
            annotations: BTreeMap::new(),
            bandwidth: Value::Null,
        }
    }

    /// Asks for a VRF by the pod's annotation.
    pub fn vrf(mut self, vrf: &str) -> PodRequest {
        self.annotations.insert("vrouter.dev/vrf".to_owned(), vrf.to_owned());
        self
    }

    /// Puts it into a Kubernetes namespace.
    pub fn kubernetes_namespace(mut self, namespace: &str) -> PodRequest {
        namespace.clone_into(&mut self.kubernetes_namespace);
        self
    }

    /// Limits it, in both directions, to this many bits per second after this many bits.
    pub fn bandwidth(mut self, rate: u64, burst: u64) -> PodRequest {
        self.bandwidth = json!({
            "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst,
        });
        self
    }

    /// Makes the pod's namespace and has `vrouter-cni` wire it.
    ///
    /// # Panics
    /// When ADD fails, with its answer.
    pub fn add(self) -> Pod {
        self.try_add().unwrap_or_else(|answer| panic!("CNI ADD failed: {answer}"))
    }

    /// Makes the pod's namespace and has `vrouter-cni` wire it; else answers what `vrouter-cni` printed.
    pub fn try_add(self) -> Result<Pod, String> {
        let namespace = Namespace::new(&self.container);
        let printed = self.call("ADD", &namespace, &Value::Null)?;
        let result: Value = serde_json::from_str(&printed).map_err(|error| format!("{error}: {printed}"))?;
        Ok(Pod { request: self, namespace, result })
    }

    fn call(&self, verb: &str, namespace: &Namespace, result: &Value) -> Result<String, String> {
        let mut configuration = json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "type": "vrouter-cni",
            "socket": self.socket,
            "spool": self.spool,
            "runtimeConfig": { "io.kubernetes.cri.pod-annotations": self.annotations },
        });
        if !self.bandwidth.is_null() {
            configuration["runtimeConfig"]["bandwidth"] = self.bandwidth.clone();
        }
        if !result.is_null() {
            configuration["prevResult"] = result.clone();
        }
        let mut command = Command::new(binary("vrouter-cni"));
        let pod = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={}", self.kubernetes_namespace, self.name);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.container)
            .env("CNI_NETNS", namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;{pod}"))
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self.node.run(|| command.spawn());
        let mut child = child.map_err(|error| format!("start vrouter-cni: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(configuration.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| format!("wait for vrouter-cni: {error}"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(printed)
        } else {
            Err(format!("{verb}: {}\n{printed}{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }
}

/// A pod of a node.
pub struct Pod {
    request: PodRequest,
    namespace: Namespace,
    result: Value,
}

impl Pod {
    /// Has `vrouter-cni` unwire it.
    ///
    /// # Panics
    /// When DEL fails.
    pub fn delete(&self) {
        let deleted = self.request.call("DEL", &self.namespace, &self.result);
        deleted.unwrap_or_else(|answer| panic!("CNI DEL failed: {answer}"));
    }

    /// Has `vrouter-cni` compare what is with what should be; else answers what it printed.
    pub fn check(&self) -> Result<(), String> {
        self.request.call("CHECK", &self.namespace, &self.result).map(drop)
    }

    /// What ADD answered.
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The pod's key on its node, as `show ports` prints it.
    pub fn container(&self) -> &str {
        &self.request.container
    }

    /// The pod's addresses, as ADD answered them.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().cloned().unwrap_or_default();
        let text = ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next());
        text.filter_map(|address| address.parse().ok()).collect()
    }

    /// The pod's IPv4 address.
    ///
    /// # Panics
    /// When it has none.
    pub fn v4(&self) -> Ipv4Addr {
        let found = self.addresses().into_iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        found.unwrap_or_else(|| panic!("no IPv4 address in {}", self.result))
    }

    /// The pod's IPv6 address.
    ///
    /// # Panics
    /// When it has none.
    pub fn v6(&self) -> Ipv6Addr {
        let found = self.addresses().into_iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        });
        found.unwrap_or_else(|| panic!("no IPv6 address in {}", self.result))
    }

    /// The host end of the pod's veth pair.
    pub fn host_interface(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().cloned().unwrap_or_default();
        let host = interfaces.iter().find(|interface| interface["sandbox"].as_str().unwrap_or("").is_empty());
        host.and_then(|host| host["name"].as_str()).unwrap_or("?").to_owned()
    }

    /// Runs a program inside the pod and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn exec(&self, words: &[&str]) -> String {
        let (program, arguments) = words.split_first().expect("a program to run");
        run_ok(&self.namespace, &mut crate::process::command(program, arguments))
    }
}
