//! A network configuration list, executed as libcni does: one plugin after another with the result of those before, DEL
//! and in the opposite order, `runtimeConfig` cut to what each plugin declared.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::binaries::binary;
use crate::cni_run::{CniAnswer, CniCall, REFERENCE_PLUGINS};
use crate::netns::Namespace;

/// A list on a host.
#[derive(Clone)]
pub struct Chain {
    host: Namespace,
    name: String,
    version: String,
    plugins: Vec<Value>,
    interface: String,
    runtime: Value,
    arguments: String,
}

impl Chain {
    /// A list of this name in this version.
    pub fn new(host: &Namespace, name: &str, version: &str, plugins: &[Value]) -> Chain {
        Chain {
            host: host.clone(),
            name: name.to_owned(),
            version: version.to_owned(),
            plugins: plugins.to_vec(),
            interface: "eth0".to_owned(),
            runtime: json!({}),
            arguments: String::new(),
        }
    }

    /// Sets CNI_IFNAME, as Multus does for further interfaces.
    pub fn interface(mut self, name: &str) -> Chain {
        name.clone_into(&mut self.interface);
        self
    }

    /// What the runtime offers; each plugin gets what its `capabilities` name.
    pub fn runtime(mut self, config: Value) -> Chain {
        self.runtime = config;
        self
    }

    /// Sets CNI_ARGS.
    pub fn arguments(mut self, text: &str) -> Chain {
        text.clone_into(&mut self.arguments);
        self
    }

    /// ADD of all; else what the first one said that failed. What was added before it stays, as with libcni.
    pub fn add(&self, id: &str, pod: &Namespace) -> Result<Value, String> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.call(plugin, "ADD", id, pod.path(), &result).try_result()?;
        }
        Ok(result)
    }

    /// CHECK of all, with what ADD answered.
    pub fn check(&self, id: &str, pod: &Namespace, result: &Value) -> Result<(), String> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.call(plugin, "CHECK", id, pod.path(), result).try_done())
    }

    /// DEL of all, the last first, with what ADD answered.
    pub fn delete(&self, id: &str, pod: &Namespace, result: &Value) -> Result<(), String> {
        let mut plugins = self.plugins.iter().rev();
        plugins.try_for_each(|plugin| self.call(plugin, "DEL", id, pod.path(), result).try_done())
    }

    /// One plugin of the list.
    fn call(&self, plugin: &Value, verb: &str, id: &str, netns: &Path, previous: &Value) -> CniAnswer {
        let mut conf = plugin.clone();
        conf["cniVersion"] = json!(self.version);
        conf["name"] = json!(self.name);
        let runtime = self.runtime_of(plugin);
        if !runtime.is_empty() {
            conf["runtimeConfig"] = Value::Object(runtime);
        }
        if !previous.is_null() {
            conf["prevResult"] = previous.clone();
        }
        let kind = plugin["type"].as_str().unwrap_or_default();
        let call = CniCall::of(&program(kind), &self.host).container(id, netns);
        call.env("CNI_IFNAME", &self.interface).env("CNI_ARGS", &self.arguments).run(verb, &conf)
    }

    fn runtime_of(&self, plugin: &Value) -> Map<String, Value> {
        let declared = |key: &String| plugin["capabilities"][key] == true;
        let offered = self.runtime.as_object().cloned().unwrap_or_default();
        offered.into_iter().filter(|(key, _)| declared(key)).collect()
    }
}

fn program(kind: &str) -> PathBuf {
    if kind == "vrouter-cni" { binary(kind) } else { Path::new(REFERENCE_PLUGINS).join(kind) }
}

/// The entry of a list for ours, with every capability that it reads, and that of a node's agent.
pub fn ours(socket: &Path, spool: &Path) -> Value {
    json!({
        "type": "vrouter-cni", "socket": socket, "spool": spool,
        "capabilities": { "ips": true, "mac": true, "dns": true, "bandwidth": true, "io.kubernetes.cri.pod-annotations": true },
    })
}
