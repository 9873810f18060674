//! What tests of the CNI plugin begin with: a host, a pod's namespace and the files between, with an agent that answers
//! by a script or with none.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cni_run::{CniCall, ScriptedAgent, Traces, ip_json};
use crate::lab::Lab;
use crate::netns::Namespace;

/// What the obliging agent gives every port.
pub const ADDRESSES: [&str; 2] = ["10.20.11.5", "fd00:20:11::5"];
/// The MTU that it names.
pub const MTU: u16 = 1468;

/// A host, and a pod's namespace that is not wired yet.
pub struct Bench {
    /// The lab that both stand in.
    pub lab: Lab,
    /// The host.
    pub host: Namespace,
    /// The pod.
    pub pod: Namespace,
}

impl Bench {
    /// Both, without an agent.
    pub fn new() -> Bench {
        let lab = Lab::new();
        let (host, pod) = (lab.namespace("host"), lab.namespace("pod"));
        Bench { lab, host, pod }
    }

    /// Where an agent would listen.
    pub fn socket(&self) -> PathBuf {
        self.lab.path("agent.sock")
    }

    /// Where DELs wait for an agent.
    pub fn spool(&self) -> PathBuf {
        self.lab.path("deletes")
    }

    /// A plugin's configuration in a version of the specification.
    pub fn conf(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "name": "lab", "type": "vrouter-cni",
                "socket": self.socket(), "spool": self.spool() })
    }

    /// A call for the container `c1`, whose namespace is the pod's.
    pub fn call(&self) -> CniCall {
        CniCall::new(&self.host).container("c1", self.pod.path())
    }

    /// All that a call could leave behind, but for a delegate's leases.
    pub fn traces(&self) -> Traces {
        Traces::of(&self.host, &self.pod, &[&self.spool()])
    }

    /// An agent that never refuses.
    pub fn obliging(&self) -> ScriptedAgent {
        ScriptedAgent::obliging(&self.socket(), &ADDRESSES, MTU)
    }

    /// The host ends of pods, one after another.
    pub fn host_interface(&self) -> String {
        let links = ip_json(&self.host, &["link"]);
        let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
        names.filter(|name| name.starts_with("vr")).collect()
    }
}

impl Default for Bench {
    fn default() -> Bench {
        Bench::new()
    }
}

/// The configuration with one more key.
pub fn with(mut conf: Value, key: &str, value: Value) -> Value {
    conf[key] = value;
    conf
}
