//! A CNI ADD, whole process and agent included, beside `ptp` and `bridge` with `host-local`: one at a time, and thirty at
//! once as when a node boots. The contenders take turns. And what `vrouter-cni` itself takes of processor and memory.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vrouter_tests::binaries::binary;
use vrouter_tests::cni_checklist::reference_configuration;
use vrouter_tests::cni_run::{CniCall, REFERENCE_PLUGINS};
use vrouter_tests::lab::Lab;
use vrouter_tests::netns::Namespace;
use vrouter_tests::node::Node;

use super::node;
use crate::report::Figures;

const AT_ONCE: usize = 30;
/// A pipe holds so much before a writer waits.
const PIPE: usize = 64 << 10;

/// One plugin with its configuration, on a host of its own.
struct Contender {
    name: &'static str,
    plugin: PathBuf,
    configuration: Value,
    host: Namespace,
    alone: Vec<f64>,
    at_once: Vec<f64>,
}

impl Contender {
    /// A container's ID.
    fn id(&self, of: &str) -> String {
        format!("{}-{of}", self.name.replace('+', "-"))
    }

    fn call(&self, container: &str, pod: &Namespace) -> CniCall {
        CniCall::of(&self.plugin, &self.host).container(container, pod.path())
    }

    /// Milliseconds that one ADD takes.
    fn add(&self, container: &str, pod: &Namespace) -> f64 {
        let call = self.call(container, pod);
        let begin = Instant::now();
        let answer = call.run("ADD", &self.configuration);
        let time = begin.elapsed();
        answer.result();
        time.as_secs_f64() * 1e3
    }

    fn delete(&self, container: &str, pod: &Namespace) {
        self.call(container, pod).run("DEL", &self.configuration).done();
    }
}

/// `runs` pods one after another per contender, and as many bursts of thirty as fit a third of that.
pub(crate) fn add_latency(figures: &mut Figures, runs: usize) {
    let lab = Lab::new();
    let node = node(&lab, 32);
    let mut contenders = contenders(&lab, &node);
    own_costs(figures, &lab, &contenders[0]);
    for run in 0..runs * 4 {
        for contender in &mut contenders {
            let (container, pod) = (contender.id(&run.to_string()), lab.namespace("pod"));
            let time = contender.add(&container, &pod);
            contender.alone.push(time);
            contender.delete(&container, &pod);
        }
    }
    for run in 0..runs.div_ceil(3) {
        for contender in &mut contenders {
            let times = burst(&lab, contender, run);
            contender.at_once.extend(times);
        }
    }
    report(figures, &contenders);
}

fn contenders(lab: &Lab, node: &Node) -> Vec<Contender> {
    let ours = json!({
        "cniVersion": "1.0.0", "name": "ours", "type": "vrouter-cni",
        "socket": node.socket(), "spool": node.directory().join("state/deletes"),
    });
    let new = |name, plugin, configuration, host: &Namespace| Contender {
        name,
        plugin,
        configuration,
        host: host.clone(),
        alone: Vec::new(),
        at_once: Vec::new(),
    };
    let mut all = vec![new("vrouter", binary("vrouter-cni"), ours, node.namespace())];
    for (name, plugin) in [("ptp+host-local", "ptp"), ("bridge+host-local", "bridge")] {
        let Some(mut configuration) = reference_configuration(plugin, &lab.path(name)) else { continue };
        configuration["cniVersion"] = json!("1.0.0");
        configuration["name"] = json!(plugin);
        let program = Path::new(REFERENCE_PLUGINS).join(plugin);
        all.push(new(name, program, configuration, &lab.namespace(plugin)));
    }
    all
}

/// All begin together; each one's time counts.
fn burst(lab: &Lab, contender: &Contender, run: usize) -> Vec<f64> {
    let pods: Vec<_> = (0..AT_ONCE)
        .map(|number| (contender.id(&format!("{run}-{number}")), lab.namespace(&format!("pod{number}"))))
        .collect();
    let start = std::sync::Barrier::new(AT_ONCE);
    let times = std::thread::scope(|scope| {
        let add = |(container, pod): &(String, Namespace)| {
            start.wait();
            contender.add(container, pod)
        };
        let running: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
        running.into_iter().filter_map(|add| add.join().ok()).collect()
    });
    pods.iter().for_each(|(container, pod)| contender.delete(container, pod));
    times
}

fn report(figures: &mut Figures, contenders: &[Contender]) {
    let Some((ours, peers)) = contenders.split_first() else { return };
    println!();
    for (what, of) in [("1 at a time", true), ("30 at once", false)] {
        let times =
            |contender: &Contender| if of { contender.alone.clone() } else { contender.at_once.clone() };
        for peer in peers {
            figures.beside(&format!("CNI ADD, {what}"), "ms", &times(ours), (peer.name, &times(peer)));
        }
        for contender in contenders {
            let key = format!("CNI ADD, {what}, p99, {}", contender.name);
            figures.single(&key, percentile(&times(contender), 99), "ms");
        }
    }
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

/// Processor time and peak memory of the plugin's own process, read when all is done but the writing of the result: its
/// stdout is a pipe that is full.
fn own_costs(figures: &mut Figures, lab: &Lab, ours: &Contender) {
    let (mut processor, mut memory) = (Vec::new(), Vec::new());
    for run in 0..5 {
        let (container, pod) = (format!("own-{run}"), lab.namespace("pod"));
        let (milliseconds, megabytes) = blocked_add(ours, &container, &pod);
        processor.push(milliseconds);
        memory.push(megabytes);
        ours.delete(&container, &pod);
    }
    figures.single("vrouter-cni ADD: own processor time", percentile(&processor, 50), "ms");
    figures.single("vrouter-cni ADD: own peak memory", percentile(&memory, 100), "MB");
}

fn blocked_add(ours: &Contender, container: &str, pod: &Namespace) -> (f64, f64) {
    let fail = |error: std::io::Error| -> ! { panic!("measure vrouter-cni: {error}") };
    let (reader, mut writer) = std::io::pipe().unwrap_or_else(|error| fail(error));
    writer.write_all(&[b' '; PIPE]).unwrap_or_else(|error| fail(error));
    let mut command = Command::new(&ours.plugin);
    command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", container).env("CNI_NETNS", pod.path());
    command.env("CNI_IFNAME", "eth0").env("CNI_PATH", REFERENCE_PLUGINS);
    command.stdin(Stdio::piped()).stdout(writer);
    let mut child = ours.host.run(|| command.spawn()).unwrap_or_else(|error| fail(error));
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(ours.configuration.to_string().as_bytes());
    }
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    // It writes to descriptor 1, and waits there.
    let waits = || read("syscall").split(' ').nth(1) == Some("0x1");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !waits() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let nanoseconds: f64 =
        read("schedstat").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
    let status = read("status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kilobytes: f64 =
        peak.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    // Makes room, and hears the end.
    let _ = std::io::copy(&mut std::io::BufReader::new(reader), &mut std::io::sink());
    let _ = child.wait();
    (nanoseconds / 1e6, kilobytes / 1e3)
}
