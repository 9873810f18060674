//! A pod as a kubelet and its runtime handle it, for tests in which something dies: the namespace stays until a DEL has
//! succeeded, a failed ADD is followed by DEL, and every DEL comes twice. The verbs go to the real `vrouter-cni`.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cni_run::{CniAnswer, CniCall};
use crate::killer::Outcome;
use crate::netns::Namespace;
use crate::node::Node;

/// A pod's sandbox.
pub struct Sandbox {
    id: String,
    namespace: Namespace,
    call: CniCall,
    configuration: Value,
    result: Value,
}

impl Sandbox {
    /// A sandbox on this node that has a namespace and no network yet.
    pub fn new(node: &Node, name: &str) -> Sandbox {
        let id = format!("{}-{name}", node.name());
        let namespace = Namespace::new(&id);
        let call = CniCall::new(node.namespace())
            .container(&id, namespace.path())
            .env("CNI_ARGS", &format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"));
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "lab", "type": "vrouter-cni",
            "socket": node.socket(), "spool": node.directory().join("state/deletes"),
        });
        Sandbox { id, namespace, call, configuration, result: Value::Null }
    }

    /// ADD. `Err`: what the plugin said.
    pub fn add(&mut self) -> Result<(), CniAnswer> {
        let answer = self.call.run("ADD", &self.configuration);
        self.take(answer)
    }

    /// ADD by a plugin that is killed before its step of this number.
    pub fn add_killed(&mut self, step: usize) -> (Result<(), CniAnswer>, Outcome) {
        let (answer, outcome) = self.call.run_killed("ADD", &self.configuration, step);
        (self.take(answer), outcome)
    }

    /// Both DELs, as a runtime makes them when it stops and when it removes a sandbox.
    pub fn delete(&mut self) -> Result<(), CniAnswer> {
        self.delete_once()?;
        let answer = self.call.clone().without("CNI_NETNS").run("DEL", &self.configuration);
        if answer.code == Some(0) { Ok(()) } else { Err(answer) }
    }

    /// The first DEL.
    pub fn delete_once(&mut self) -> Result<(), CniAnswer> {
        let answer = self.call.run("DEL", &self.with_result());
        if answer.code != Some(0) {
            return Err(answer);
        }
        self.result = Value::Null;
        Ok(())
    }

    /// The first DEL by a plugin that is killed before its step of this number.
    pub fn delete_killed(&mut self, step: usize) -> (CniAnswer, Outcome) {
        self.call.run_killed("DEL", &self.with_result(), step)
    }

    /// CHECK. `Err`: what the plugin said.
    pub fn check(&self) -> Result<(), CniAnswer> {
        let answer = self.call.run("CHECK", &self.with_result());
        if answer.code == Some(0) { Ok(()) } else { Err(answer) }
    }

    /// STATUS.
    pub fn status(&self) -> CniAnswer {
        let mut configuration = self.configuration.clone();
        configuration["cniVersion"] = json!("1.1.0");
        self.call.run("STATUS", &configuration)
    }

    fn with_result(&self) -> Value {
        let mut configuration = self.configuration.clone();
        if !self.result.is_null() {
            configuration["prevResult"] = self.result.clone();
        }
        configuration
    }

    fn take(&mut self, answer: CniAnswer) -> Result<(), CniAnswer> {
        if answer.code != Some(0) {
            return Err(answer);
        }
        self.result = answer.result();
        Ok(())
    }

    /// CNI_CONTAINERID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The sandbox's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Whether an ADD has succeeded that no DEL has undone.
    pub fn is_wired(&self) -> bool {
        !self.result.is_null()
    }

    /// The pod's addresses, as ADD answered them; none while it has no network.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().cloned().unwrap_or_default();
        let text = ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next());
        text.filter_map(|address| address.parse().ok()).collect()
    }

    /// The host end of the pod's veth pair, as ADD answered it.
    pub fn host_interface(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().cloned().unwrap_or_default();
        let host = interfaces.iter().find(|interface| interface["sandbox"].as_str().unwrap_or("").is_empty());
        host.and_then(|host| host["name"].as_str()).unwrap_or_default().to_owned()
    }
}
