//! A plugin that is held against the checklist, and how it is called.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Fault, inapplicable};
use crate::cni_run::{CniAnswer, CniCall, REFERENCE_PLUGINS, Traces};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::node::Node;

/// The network that attachments belong to.
const NETWORK: &str = "checklist";
/// An IPAM plugin that says what it was asked, and fails where it is told to. Its address is always the same.
const DELEGATE: &str = r#"#!/bin/sh
here=$(dirname "$0")
input=$(cat)
version=$(printf %s "$input" | sed -n 's/.*"cniVersion":"\([0-9.]*\)".*/\1/p')
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$here/asked"
if [ -e "$here/fail-$CNI_COMMAND" ]; then
  echo "{\"cniVersion\":\"$version\",\"code\":150,\"msg\":\"the delegate says no\"}"
  exit 1
fi
family='"version":"4",'
case "$version" in 1.*) family= ;; esac
case "$CNI_COMMAND" in
  ADD) echo "{\"cniVersion\":\"$version\",\"ips\":[{$family\"address\":\"10.97.0.200/24\",\"gateway\":\"10.97.0.1\"}],\"dns\":{}}" ;;
  VERSION) echo "{\"cniVersion\":\"$version\",\"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}" ;;
esac
"#;

/// A plugin, what it is configured with, and a host to call it on.
pub struct Subject<'a> {
    name: String,
    plugin: PathBuf,
    configuration: Value,
    host: Namespace,
    lab: &'a Lab,
    /// Whether `ipam` in the configuration names a plugin that it calls.
    delegates: bool,
    /// The daemon that it depends on, where it has one: taken away and brought back.
    daemon: Option<RefCell<&'a mut Node>>,
    versions: Vec<String>,
    containers: Cell<u32>,
}

/// Something attached. It is detached when it is dropped.
pub(super) struct Attachment<'s, 'a> {
    pub(super) subject: &'s Subject<'a>,
    pub(super) id: String,
    pub(super) pod: Namespace,
    pub(super) configuration: Value,
    pub(super) result: Value,
}

impl<'a> Subject<'a> {
    /// Any plugin with its configuration, whose `cniVersion` and `name` do not count.
    ///
    /// # Panics
    /// When it does not answer VERSION: then there is nothing to hold against the checklist.
    pub fn new(
        name: &str,
        plugin: &Path,
        configuration: Value,
        host: &Namespace,
        lab: &'a Lab,
    ) -> Subject<'a> {
        let delegates = configuration.get("ipam").is_some();
        let directory = lab.path("delegate");
        let file = directory.join("checklist-ipam");
        let made = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&file, DELEGATE))
            .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o755)));
        made.unwrap_or_else(|error| panic!("make {}: {error}", file.display()));
        let mut subject = Subject {
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            configuration,
            host: host.clone(),
            lab,
            delegates,
            daemon: None,
            versions: Vec::new(),
            containers: Cell::new(0),
        };
        let answer = subject.bare().run("VERSION", &json!({ "cniVersion": "1.0.0" }));
        let listed =
            answer.try_result().unwrap_or_else(|error| panic!("{name} does not answer VERSION: {error}"));
        let known = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        let listed = listed["supportedVersions"].as_array().cloned().unwrap_or_default();
        subject.versions = known
            .iter()
            .filter(|version| listed.iter().any(|it| it == *version))
            .map(|&it| it.to_owned())
            .collect();
        assert!(!subject.versions.is_empty(), "{name} speaks none of {known:?}");
        subject
    }

    /// Ours, with a real agent.
    pub fn vrouter(plugin: &Path, node: &'a mut Node, lab: &'a Lab) -> Subject<'a> {
        let configuration = json!({ "type": "vrouter-cni", "socket": node.socket(), "spool": node.directory().join("state/deletes") });
        let host = node.namespace().clone();
        let mut subject = Subject::new("vrouter-cni", plugin, configuration, &host, lab);
        subject.delegates = true;
        subject.daemon = Some(RefCell::new(node));
        subject
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Those that it lists and the checklist knows, in order.
    pub(super) fn versions(&self) -> &[String] {
        &self.versions
    }

    /// The highest of them.
    pub(super) fn latest(&self) -> &str {
        self.versions.last().map_or("", String::as_str)
    }

    /// Unless it lists a version from this one on.
    pub(super) fn needs(&self, version: &str) -> Result<(), Fault> {
        if self.latest() >= version {
            Ok(())
        } else {
            Err(inapplicable(&format!("it lists no version from {version} on")))
        }
    }

    /// Where it is called.
    pub(super) fn host(&self) -> &Namespace {
        &self.host
    }

    /// A namespace for a container.
    pub(super) fn pod(&self) -> Namespace {
        self.containers.set(self.containers.get() + 1);
        self.lab.namespace(&format!("pod{}", self.containers.get()))
    }

    /// A container's ID that no other item has.
    pub(super) fn container(&self) -> String {
        self.containers.set(self.containers.get() + 1);
        format!("checklist-{}", self.containers.get())
    }

    /// Its configuration in a version.
    pub(super) fn conf(&self, version: &str) -> Value {
        let mut conf = self.configuration.clone();
        conf["cniVersion"] = json!(version);
        conf["name"] = json!(NETWORK);
        conf
    }

    /// Its configuration with the delegate of the checklist, which has forgotten what it was asked and fails on these.
    pub(super) fn delegating(&self, version: &str, fails: &[&str]) -> Result<Value, Fault> {
        if !self.delegates {
            return Err(inapplicable("it does not delegate IPAM"));
        }
        let directory = self.lab.path("delegate");
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_name() != "checklist-ipam" {
                let _ = fs::remove_file(entry.path());
            }
        }
        for verb in fails {
            let told = fs::write(directory.join(format!("fail-{verb}")), "");
            told.map_err(|error| format!("tell the delegate to fail: {error}"))?;
        }
        let mut conf = self.conf(version);
        conf["ipam"] = json!({ "type": "checklist-ipam" });
        Ok(conf)
    }

    /// What the delegate was asked since [`Subject::delegating`]: verb and container, one after another.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.lab.path("delegate/asked")).unwrap_or_default();
        asked.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// A call with nothing but CNI_PATH.
    pub(super) fn bare(&self) -> CniCall {
        let path = format!("{}:{REFERENCE_PLUGINS}", self.lab.path("delegate").display());
        CniCall::of(&self.plugin, &self.host).env("CNI_PATH", &path)
    }

    /// A call for a container, with `eth0`.
    pub(super) fn call(&self, id: &str, pod: &Namespace) -> CniCall {
        let netns = pod.path().display().to_string();
        self.bare().env("CNI_CONTAINERID", id).env("CNI_NETNS", &netns).env("CNI_IFNAME", "eth0")
    }

    /// Attaches a new container with this configuration.
    pub(super) fn attach_with(&self, configuration: &Value) -> Result<Attachment<'_, 'a>, Fault> {
        let (id, pod) = (self.container(), self.pod());
        let mut attachment =
            Attachment { subject: self, id, pod, configuration: configuration.clone(), result: Value::Null };
        attachment.result = attachment.run("ADD").try_result()?;
        Ok(attachment)
    }

    /// Attaches a new container in a version.
    pub(super) fn attach(&self, version: &str) -> Result<Attachment<'_, 'a>, Fault> {
        self.attach_with(&self.conf(version))
    }

    /// All that a call could leave in the host and in this pod.
    pub(super) fn traces(&self, pod: &Namespace) -> Traces {
        Traces::of(&self.host, pod, &[])
    }

    /// Does something while the daemon is away.
    pub(super) fn without_daemon<T>(&self, work: impl FnOnce() -> T) -> Result<T, Fault> {
        let Some(daemon) = &self.daemon else { return Err(inapplicable("it depends on no daemon")) };
        daemon.borrow_mut().kill9();
        let outcome = work();
        daemon.borrow_mut().start_agent();
        Ok(outcome)
    }
}

impl Attachment<'_, '_> {
    /// Calls the plugin for this container.
    pub(super) fn run(&self, verb: &str) -> CniAnswer {
        self.call().run(verb, &self.configuration)
    }

    /// Calls it with what ADD answered.
    pub(super) fn run_with_result(&self, verb: &str) -> CniAnswer {
        let mut conf = self.configuration.clone();
        conf["prevResult"] = self.result.clone();
        self.call().run(verb, &conf)
    }

    /// The call for this container.
    pub(super) fn call(&self) -> CniCall {
        self.subject.call(&self.id, &self.pod)
    }

    /// The addresses of the result on `eth0`, without their lengths.
    pub(super) fn addresses(&self) -> Vec<String> {
        let ips = self.result["ips"].as_array().cloned().unwrap_or_default();
        ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next().map(str::to_owned)).collect()
    }
}

impl Drop for Attachment<'_, '_> {
    fn drop(&mut self) {
        let _ = self.run("DEL");
    }
}
