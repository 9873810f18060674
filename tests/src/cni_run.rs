//! One call of a CNI plugin, as a runtime makes it: environment, configuration on stdin, then exit code, stdout and
//! stderr. It knows the specification and nothing of the plugin, so any plugin can be called.
//!
//! [`ScriptedAgent`] stands in for `vrouter-agent` where a test wants to say itself what the agent answers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::binaries::binary;
use crate::killer::{Killer, Outcome};
use crate::netns::Namespace;
use crate::process::run_ok;

/// Where Debian keeps the reference plugins.
pub const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// A plugin and what it is called with.
#[derive(Clone)]
pub struct CniCall {
    plugin: PathBuf,
    host: Namespace,
    environment: BTreeMap<String, String>,
}

/// What a call came to.
#[derive(Debug, Clone)]
pub struct CniAnswer {
    /// The exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// What it printed for the runtime.
    pub stdout: String,
    /// What it printed for people.
    pub stderr: String,
}

impl CniCall {
    /// A call of `vrouter-cni`, as cargo built it, in a host's namespace, with an empty environment.
    pub fn new(host: &Namespace) -> CniCall {
        CniCall::of(&binary("vrouter-cni"), host)
    }

    /// A call of any plugin.
    pub fn of(plugin: &Path, host: &Namespace) -> CniCall {
        CniCall { plugin: plugin.to_owned(), host: host.clone(), environment: BTreeMap::new() }
    }

    /// Adds what runtimes always say of a container: its ID, its namespace, `eth0`, and where plugins are.
    pub fn container(self, id: &str, netns: &Path) -> CniCall {
        self.env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", &netns.display().to_string())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE_PLUGINS)
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> CniCall {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> CniCall {
        self.environment.remove(name);
        self
    }

    /// Makes the call with this verb and this configuration.
    pub fn run(&self, verb: &str, configuration: &Value) -> CniAnswer {
        self.clone().env("CNI_COMMAND", verb).run_raw(configuration.to_string().as_bytes())
    }

    /// Makes the call with the environment as it is and these octets on stdin.
    ///
    /// # Panics
    /// When the plugin cannot be started.
    pub fn run_raw(&self, stdin: &[u8]) -> CniAnswer {
        let mut child = self.start();
        if let Some(mut pipe) = child.stdin.take() {
            // A plugin that refuses its environment does not read the configuration.
            let _ = pipe.write_all(stdin);
        }
        let output = child.wait_with_output();
        let output = output.unwrap_or_else(|error| panic!("wait for {}: {error}", self.plugin.display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CniAnswer { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Makes the call and kills the plugin before its step of this number, the first being 1.
    ///
    /// # Panics
    /// When the plugin cannot be started.
    pub fn run_killed(&self, verb: &str, configuration: &Value, step: usize) -> (CniAnswer, Outcome) {
        let mut child = self.clone().env("CNI_COMMAND", verb).start();
        // It waits for its configuration, so nothing is missed.
        let killer = Killer::follow(child.id(), step, None);
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(configuration.to_string().as_bytes());
        }
        let mut answer = CniAnswer { code: None, stdout: String::new(), stderr: String::new() };
        let _ = child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut answer.stdout));
        let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut answer.stderr));
        let outcome = killer.wait();
        answer.code = child.wait().ok().or(outcome.status).and_then(|status| status.code());
        (answer, outcome)
    }

    fn start(&self) -> Child {
        let mut command = Command::new(&self.plugin);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.host.run(|| command.spawn());
        child.unwrap_or_else(|error| panic!("start {}: {error}", self.plugin.display()))
    }
}

impl CniAnswer {
    /// The result of an ADD.
    ///
    /// # Panics
    /// When the call failed, or printed anything but one JSON object.
    pub fn result(&self) -> Value {
        self.try_result().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The result of an ADD; else what is wrong with the answer.
    pub fn try_result(&self) -> Result<Value, String> {
        if self.code != Some(0) {
            return Err(format!("the call failed: {self:?}"));
        }
        match serde_json::from_str(&self.stdout) {
            Ok(result @ Value::Object(_)) => Ok(result),
            Ok(other) => Err(format!("a result must be an object, not {other}")),
            Err(error) => Err(format!("{error}: {self:?}")),
        }
    }

    /// Nothing, which is what every verb but ADD and VERSION prints when it succeeds.
    ///
    /// # Panics
    /// When the call failed or printed something.
    pub fn done(&self) {
        self.try_done().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Nothing; else what is wrong with the answer.
    pub fn try_done(&self) -> Result<(), String> {
        match (self.code, self.stdout.as_str()) {
            (Some(0), "") => Ok(()),
            (Some(0), _) => Err(format!("it prints where nothing is to be printed: {self:?}")),
            _ => Err(format!("the call failed: {self:?}")),
        }
    }

    /// The error, in the specification's form.
    ///
    /// # Panics
    /// When the call succeeded or printed no such error.
    pub fn error(&self) -> CniError {
        self.try_error().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error; else what is wrong with the answer.
    pub fn try_error(&self) -> Result<CniError, String> {
        if self.code.is_none_or(|code| code == 0) {
            return Err(format!("the call succeeded or died: {self:?}"));
        }
        let json: Value = serde_json::from_str(&self.stdout).map_err(|error| format!("{error}: {self:?}"))?;
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let code = json["code"].as_u64().ok_or_else(|| format!("an error without a code: {self:?}"))?;
        Ok(CniError { version: text("cniVersion"), code, msg: text("msg"), details: text("details") })
    }
}

/// An error as CNI has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// The version that it is written in.
    pub version: String,
    /// What went wrong, for programs.
    pub code: u64,
    /// What went wrong, for people.
    pub msg: String,
    /// What to do about it.
    pub details: String,
}

/// All that a call could leave behind: the links of both namespaces, and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    host: Value,
    pod: Value,
    files: Vec<PathBuf>,
}

impl Traces {
    /// What is there now; files are those under these directories.
    pub fn of(host: &Namespace, pod: &Namespace, directories: &[&Path]) -> Traces {
        let mut files: Vec<_> = directories.iter().flat_map(|directory| files_under(directory)).collect();
        files.sort();
        Traces { host: network(host), pod: network(pod), files }
    }
}

/// Links, addresses, routes and neighbours of a namespace.
fn network(namespace: &Namespace) -> Value {
    let ip = |words: &[&str]| ip_json(namespace, words);
    json!({
        "links": ip(&["link"]).as_array().into_iter().flatten().map(|link| link["ifname"].clone()).collect::<Value>(),
        // Without what the kernel remarks on them, as "linkdown".
        "routes4": ip(&["-4", "route"]).as_array().into_iter().flatten().cloned().map(|mut route| {
            route["flags"] = Value::Null;
            route
        }).collect::<Value>(),
        "routes6": ip(&["-6", "route"]).as_array().into_iter().flatten()
            .filter(|route| route["protocol"] != "kernel").cloned().collect::<Value>(),
        "neighbours": ip(&["neigh", "show", "nud", "permanent"]),
    })
}

/// What `ip -json` says in a namespace; nothing is an empty list.
pub fn ip_json(namespace: &Namespace, words: &[&str]) -> Value {
    let text = run_ok(namespace, Command::new("ip").arg("-json").args(words));
    if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text).unwrap_or(Value::Null) }
}

/// Every file under a directory; none where there is no such directory.
pub fn files_under(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// One call that reached the scripted agent: method and path, and its body.
pub type AgentCall = (String, Value);

/// What the scripted agent does with a call.
pub enum Script {
    /// Answers with this status and body.
    Answer(u16, Value),
    /// Sends these octets and closes.
    Octets(Vec<u8>),
    /// Never answers, and keeps the connection.
    Silence,
}

/// Something that listens on an agent's socket and answers by a script. It ends when it is dropped.
pub struct ScriptedAgent {
    path: PathBuf,
    calls: Arc<Mutex<Vec<AgentCall>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ScriptedAgent {
    /// Listens on this path.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(path: &Path, script: impl Fn(&str, &Value) -> Script + Send + 'static) -> ScriptedAgent {
        let listener =
            UnixListener::bind(path).unwrap_or_else(|error| panic!("bind {}: {error}", path.display()));
        let (calls, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (heard, stopped) = (Arc::clone(&calls), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                silent.extend(serve(stream, &heard, &script));
            }
        });
        ScriptedAgent { path: path.to_owned(), calls, stop, thread: Some(thread) }
    }

    /// One that gives every port these addresses and never refuses. Its status is "ready", and it shows no ports.
    pub fn obliging(path: &Path, addresses: &[&str], mtu: u16) -> ScriptedAgent {
        let attached = attached(addresses, mtu);
        ScriptedAgent::start(path, move |call, _| match call {
            "POST /v1/ports/attach" | "POST /v1/ports/check" => Script::Answer(200, attached.clone()),
            "POST /v1/ports/detach" => Script::Answer(200, json!({ "existed": true })),
            "GET /v1/status" => Script::Answer(200, status(true, &[])),
            "GET /v1/show/ports" => Script::Answer(200, json!({ "ports": [] })),
            "GET /v1/show/vrfs" => Script::Answer(200, json!({ "vrfs": {} })),
            _ => Script::Answer(404, json!({ "kind": "notFound", "message": "no such call" })),
        })
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<AgentCall> {
        self.calls.lock().map(|calls| calls.clone()).unwrap_or_default()
    }

    /// How often this was called.
    pub fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|(name, _)| name == call).count()
    }
}

impl Drop for ScriptedAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, which then sees that it is to stop.
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// A reply to attach.
pub fn attached(addresses: &[&str], mtu: u16) -> Value {
    json!({
        "port": 1, "vrf": "red", "label": 16, "addresses": addresses, "mtu": mtu,
        "gateway4": "169.254.1.1", "gateway6": "fe80::1", "gatewayMac": "00:00:5e:00:01:00",
    })
}

/// A reply to status.
pub fn status(ready: bool, problems: &[&str]) -> Value {
    json!({
        "name": "scripted", "version": "0", "uptimeMsec": 1, "ready": ready, "problems": problems,
        "ports": 0, "established": 0, "neighbors": 0,
    })
}

/// Serves one connection; returns it where the script is silence.
fn serve(
    mut stream: UnixStream,
    calls: &Mutex<Vec<AgentCall>>,
    script: &impl Fn(&str, &Value) -> Script,
) -> Option<UnixStream> {
    // A client that only looks whether somebody is there does not block the next one.
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (call, body) = read_request(&mut stream)?;
    if let Ok(mut calls) = calls.lock() {
        calls.push((call.clone(), body.clone()));
    }
    match script(&call, &body) {
        Script::Answer(status, body) => {
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
            None
        }
        Script::Octets(octets) => {
            let _ = stream.write_all(&octets);
            None
        }
        Script::Silence => Some(stream),
    }
}

fn read_request(stream: &mut UnixStream) -> Option<AgentCall> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(bytes.get(..end)?).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(Some(0), |text| text.trim().parse().ok())?;
            if let Some(body) = bytes.get(end + 4..end + 4 + length) {
                let line = String::from_utf8_lossy(bytes.get(..end)?).lines().next()?.to_owned();
                let call = line.rsplit_once(' ')?.0.to_owned();
                return Some((call, serde_json::from_slice(body).unwrap_or(Value::Null)));
            }
        }
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(chunk.get(..count)?);
    }
}
