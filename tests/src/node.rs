//! A gateway or hypervisor: a namespace on the wide area network, a real `vrouter-agent` in it, and its three programs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::binaries::binary;
use crate::config::AgentConfig;
use crate::killer::{Killer, Outcome};
use crate::lab::{Lab, underlay_v4};
use crate::netns::Namespace;
use crate::pod::{Pod, PodRequest};
use crate::process::{Daemon, run, run_ok};
use crate::supervisor::Supervisor;
use crate::sys;
use crate::wait::{PATIENCE, wait_for, wait_until};

/// A node with its agent.
pub struct Node {
    name: String,
    address: IpAddr,
    namespace: Namespace,
    directory: PathBuf,
    agent: Option<Daemon>,
    program: Option<PathBuf>,
    environment: Vec<(String, String)>,
    supervisor: Option<Supervisor>,
}

impl Node {
    /// Makes a site of this host number, writes the agent's configuration and starts it. Returns when the agent answers
    /// on its socket.
    ///
    /// # Panics
    /// When the agent does not answer in time, with its log.
    pub fn start(lab: &Lab, name: &str, host: u8, config: &AgentConfig) -> Node {
        let mut node = Node::prepare(lab, name, host, config);
        node.start_agent();
        node
    }

    /// Like [`Node::start`], without starting the agent.
    pub fn prepare(lab: &Lab, name: &str, host: u8, config: &AgentConfig) -> Node {
        let namespace = lab.site(name, host);
        let directory = lab.path(name);
        let address = underlay_v4(host).into();
        let made = std::fs::create_dir_all(directory.join("state"));
        made.unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
        let node = Node {
            name: name.to_owned(),
            address,
            namespace,
            directory,
            agent: None,
            program: None,
            environment: Vec::new(),
            supervisor: None,
        };
        node.write_config(config);
        node
    }

    /// Replaces the agent's configuration; a running agent keeps the old one.
    pub fn write_config(&self, config: &AgentConfig) {
        let toml = config.to_toml(&self.name, self.address, &self.directory);
        let written = std::fs::write(self.config_path(), toml);
        written.unwrap_or_else(|error| panic!("write {}: {error}", self.config_path().display()));
    }

    /// Starts this program instead of the `vrouter-agent` that was built with the lab.
    pub fn set_program(&mut self, agent: &Path) {
        self.program = Some(agent.to_owned());
    }

    /// From the next start on, the agent has these variables.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// From the next start on, the agent has a service manager: it holds its sockets over a restart.
    pub fn supervise(&mut self, watchdog: Option<Duration>) {
        self.supervisor = Some(Supervisor::new(&self.directory, watchdog));
    }

    /// The agent's service manager.
    ///
    /// # Panics
    /// Where it has none.
    pub fn supervisor(&self) -> &Supervisor {
        self.supervisor.as_ref().expect("the node has a supervisor")
    }

    /// What a service manager does for a restart: tells the agent (SIGUSR2), waits for its end and starts it again.
    ///
    /// # Panics
    /// When it does not end with status 0, or does not come back.
    pub fn restart_agent(&mut self) {
        let mut agent = self.agent.take().expect("the agent runs");
        let status = agent.end_with(libc::SIGUSR2);
        let status = status.unwrap_or_else(|error| panic!("restart agent {}: {error}", self.name));
        assert!(status.success(), "agent {} ended with {status}", self.name);
        self.start_agent();
    }

    /// Starts the agent (again) and waits until it answers.
    ///
    /// # Panics
    /// When it does not, with its log.
    pub fn start_agent(&mut self) {
        self.start_agent_until(|status| status.ready);
    }

    /// Starts the agent (again) and waits until its status is as wanted.
    ///
    /// # Panics
    /// When it does not become so, with its log.
    pub fn start_agent_until(&mut self, wanted: impl Fn(&agent_api::Status) -> bool) {
        let mut command = self.agent_command();
        if let Some(supervisor) = &self.supervisor {
            command = supervisor.supervise(&command);
        }
        let log = self.directory.join("agent.log");
        let mut agent =
            Daemon::start(&self.namespace, &format!("vrouter-agent {}", self.name), command, &log);
        wait_for(&format!("agent {} to answer on its socket", self.name), PATIENCE, || {
            assert!(agent.is_running(), "agent {} ended at once:\n{}", self.name, agent.log());
            let client = agent_api::Client::connect(self.socket(), Duration::from_secs(2));
            let status = client.and_then(|mut client| client.status()).map_err(|error| error.to_string())?;
            if wanted(&status) { Ok(()) } else { Err(format!("not as wanted: {:?}", status.problems)) }
        });
        self.agent = Some(agent);
    }

    /// Starts the agent, and kills it before the step of its start that has this number, the first being 1. Where its
    /// start has fewer, it runs.
    ///
    /// # Panics
    /// When it is neither killed nor ready in time.
    pub fn start_agent_killed(&mut self, step: usize) -> Outcome {
        let agent = self.agent_command();
        let mut command = Command::new("sh");
        // Stands still until it is followed.
        command
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
            .arg(agent.get_program())
            .args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = self.directory.join("agent.log");
        let agent = Daemon::start(&self.namespace, &format!("vrouter-agent {}", self.name), command, &log);
        wait_until("the agent to wait for its killer", PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap_or_default();
            stat.contains(") T ")
        });
        let killer = Killer::follow(agent.pid(), step, None);
        let _ = sys::kill(agent.pid(), libc::SIGCONT);
        wait_until(&format!("agent {} to be killed or ready", self.name), PATIENCE, || {
            let client = agent_api::Client::connect(self.socket(), Duration::from_secs(2));
            let status = client.and_then(|mut client| client.status());
            killer.is_over() || status.is_ok_and(|status| status.ready)
        });
        let outcome = killer.end();
        if !outcome.killed {
            self.agent = Some(agent);
        }
        outcome
    }

    fn agent_command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(|| binary("vrouter-agent"));
        let mut command = Command::new(program);
        command.arg("--config").arg(self.config_path());
        command.env("RUST_LOG", std::env::var("VROUTER_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Kills the agent as a crash would (SIGKILL).
    pub fn kill9(&mut self) {
        self.agent.take().expect("the agent runs").kill();
    }

    /// Asks the agent to end (SIGTERM).
    ///
    /// # Panics
    /// When it does not end with status 0.
    pub fn stop_agent(&mut self) {
        let status = self.agent.take().expect("the agent runs").stop();
        let status = status.unwrap_or_else(|error| panic!("stop agent {}: {error}", self.name));
        assert!(status.success(), "agent {} ended with {status}", self.name);
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The node's underlay address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The folder of the agent's socket, configuration, log and state.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    /// The agent's configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }

    /// The agent's process number.
    pub fn pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").pid()
    }

    /// What the agent has printed so far.
    pub fn log(&self) -> String {
        self.agent.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// Runs `vrouterctl` against this agent and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its own words.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        run_ok(&self.namespace, self.ctl_command().args(arguments))
    }

    /// Runs `vrouterctl` against this agent, whatever comes of it.
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        run(&self.namespace, self.ctl_command().args(arguments))
    }

    /// Runs `vrouterctl --json` against this agent.
    ///
    /// # Panics
    /// When it fails or prints no JSON.
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let text = run_ok(&self.namespace, self.ctl_command().arg("--json").args(arguments));
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("vrouterctl {arguments:?}: {error}\n{text}"))
    }

    fn ctl_command(&self) -> Command {
        let mut command = Command::new(binary("vrouterctl"));
        command.arg("--socket").arg(self.socket());
        command
    }

    /// What the agent says of itself.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn status(&self) -> agent_api::Status {
        let client = agent_api::Client::connect(self.socket(), Duration::from_secs(5));
        let status = client.and_then(|mut client| client.status());
        status.unwrap_or_else(|error| panic!("status of {}: {error}", self.name))
    }

    /// Adds a pod to the default VRF, through the real `vrouter-cni`.
    pub fn add_pod(&self, name: &str) -> Pod {
        self.pod(name).add()
    }

    /// Adds a pod to the VRF of this name.
    pub fn add_pod_in(&self, name: &str, vrf: &str) -> Pod {
        self.pod(name).vrf(vrf).add()
    }

    /// Describes a pod to be added to this node.
    pub fn pod(&self, name: &str) -> PodRequest {
        PodRequest::new(self, name)
    }

    /// The state of the session with a neighbor, as `Established`.
    pub fn bgp_state(&self, neighbor: IpAddr) -> String {
        let summary = self.ctl_json(&["show", "bgp", "summary"]);
        let state = &summary["peers"][neighbor.to_string()]["state"];
        state.as_str().unwrap_or("no such neighbor").to_owned()
    }

    /// Waits until the session with a neighbor is established.
    pub fn wait_established(&self, neighbor: IpAddr) {
        wait_for(&format!("{}: session with {neighbor} established", self.name), PATIENCE, || {
            match self.bgp_state(neighbor) {
                state if state == "Established" => Ok(()),
                state => Err(state),
            }
        });
    }

    /// Where a VRF sends packets for a prefix: the next hops of `show routes`, none if there is no such route.
    pub fn route(&self, vrf: &str, prefix: &str) -> Vec<Value> {
        let routes = self.ctl_json(&["show", "routes", "--vrf", vrf]);
        routes["vrfs"][vrf][prefix]["nexthops"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a VRF has a route for a prefix, and returns its next hops.
    pub fn wait_route(&self, vrf: &str, prefix: &str) -> Vec<Value> {
        wait_for(&format!("{}: route {prefix} in {vrf}", self.name), PATIENCE, || {
            let hops = self.route(vrf, prefix);
            if hops.is_empty() { Err(self.ctl(&["show", "routes"])) } else { Ok(hops) }
        })
    }

    /// Waits until a VRF has no route for a prefix.
    pub fn wait_no_route(&self, vrf: &str, prefix: &str) {
        wait_until(&format!("{}: no route {prefix} in {vrf}", self.name), PATIENCE, || {
            self.route(vrf, prefix).is_empty()
        });
    }

    /// Every drop counter that is not zero.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let drops = self.ctl_json(&["show", "drops"]);
        let all = drops["drops"].as_object().cloned().unwrap_or_default();
        all.into_iter()
            .map(|(reason, count)| (reason, count["packets"].as_u64().unwrap_or_default()))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Like [`Node::drops`], without what every Linux workload's kernel says unasked when its interface comes up:
    /// multicast listener reports and router solicitations.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut drops = self.drops();
        for unasked in ["multicast", "router-solicitation"] {
            drops.remove(unasked);
        }
        drops
    }

    /// Does something and answers which drop counters moved by it, and by how much, once `wanted` is among them.
    ///
    /// # Panics
    /// When `wanted` does not move.
    pub fn faults_of(&self, wanted: &str, work: impl FnOnce()) -> BTreeMap<String, u64> {
        let before = self.faults();
        work();
        let moved = || {
            let mut after = self.faults();
            for (reason, packets) in &mut after {
                *packets -= before.get(reason).copied().unwrap_or_default();
            }
            after.retain(|_, packets| *packets > 0);
            after
        };
        wait_for(&format!("{}: the counter {wanted} to move", self.name), PATIENCE, || {
            let moved = moved();
            if moved.contains_key(wanted) { Ok(()) } else { Err(moved) }
        });
        moved()
    }
}
