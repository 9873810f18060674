//! Those that we are measured beside: the kernel's VXLAN, its forwarding, a plain veth, and Open vSwitch in userspace.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vrouter_tests::lab::Lab;
use vrouter_tests::netns::Namespace;
use vrouter_tests::process::{Daemon, run_ok};
use vrouter_tests::wait::wait_until;

use crate::contender::{Contender, DIRECT, FORWARD, OVS, VXLAN, set_features, verify_checksums};
use crate::throughput::Scene;

/// The kernel's VXLAN between two nodes that forward between it and their pod.
pub(crate) fn kernel_vxlan(lab: &Lab, scene: Scene) -> Contender {
    let nodes = [lab.namespace("vxlan-a"), lab.namespace("vxlan-b")];
    let pods = [lab.namespace("vxlan-pod-a"), lab.namespace("vxlan-pod-b")];
    nodes[0].add_veth("eth0", &nodes[1], "eth0");
    set_features([&nodes[0], &nodes[1]], scene);
    for (own, (node, pod)) in nodes.iter().zip(&pods).enumerate() {
        let (own, other) = (own + 1, 2 - own);
        node.add_veth("pod", pod, "eth0");
        node.set_sysctl("net/ipv4/ip_forward", "1");
        ip(node, &format!("addr add 192.0.2.{own}/24 dev eth0"));
        ip(node, &format!("addr add 10.78.{own}.1/24 dev pod"));
        ip(
            node,
            &format!(
                "link add vx type vxlan id 7 local 192.0.2.{own} remote 192.0.2.{other} dstport 4789 dev eth0"
            ),
        );
        ip(node, &format!("addr add 10.79.0.{own}/24 dev vx"));
        ip(node, "link set vx up");
        ip(node, &format!("route add 10.78.{other}.0/24 via 10.79.0.{other}"));
        ip(pod, &format!("addr add 10.78.{own}.2/24 dev eth0"));
        ip(pod, "link set eth0 mtu 1450");
        ip(pod, &format!("route add default via 10.78.{own}.1"));
    }
    pair(VXLAN, pods, Ipv4Addr::new(10, 78, 2, 2), Vec::new(), nodes)
}

/// A namespace that forwards between two pods.
pub(crate) fn kernel_forwarding(lab: &Lab) -> Contender {
    let node = lab.namespace("forward");
    let pods = [lab.namespace("forward-a"), lab.namespace("forward-b")];
    node.set_sysctl("net/ipv4/ip_forward", "1");
    for (own, pod) in [1, 2].into_iter().zip(&pods) {
        node.add_veth(&format!("pod{own}"), pod, "eth0");
        ip(&node, &format!("addr add 10.80.{own}.1/24 dev pod{own}"));
        ip(pod, &format!("addr add 10.80.{own}.2/24 dev eth0"));
        ip(pod, &format!("route add default via 10.80.{own}.1"));
    }
    pair(FORWARD, pods, Ipv4Addr::new(10, 80, 2, 2), Vec::new(), node)
}

/// Two pods joined by nothing but a veth pair.
pub(crate) fn direct_veth(lab: &Lab) -> Contender {
    let pods = [lab.namespace("veth-a"), lab.namespace("veth-b")];
    pods[0].add_veth("eth0", &pods[1], "eth0");
    for (own, pod) in [1, 2].into_iter().zip(&pods) {
        ip(pod, &format!("addr add 10.81.0.{own}/24 dev eth0"));
    }
    pair(DIRECT, pods, Ipv4Addr::new(10, 81, 0, 2), Vec::new(), ())
}

/// A userspace bridge of Open vSwitch with segmentation offload between two pods; none where it is not installed.
pub(crate) fn open_vswitch(lab: &Lab) -> Option<Contender> {
    let program = |name: &str| {
        let found = ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
        found.into_iter().find(|path| path.exists())
    };
    let (Some(database), Some(switch), Some(tool), Some(ctl)) =
        (program("ovsdb-server"), program("ovs-vswitchd"), program("ovsdb-tool"), program("ovs-vsctl"))
    else {
        println!("(no rows beside Open vSwitch: openvswitch-switch is not installed)");
        return None;
    };
    let node = lab.namespace("ovs");
    let pods = [lab.namespace("ovs-a"), lab.namespace("ovs-b")];
    let folder = lab.path("ovs");
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("make {}: {error}", folder.display()));
    for (own, pod) in [1, 2].into_iter().zip(&pods) {
        node.add_veth(&format!("pod{own}"), pod, "eth0");
        ip(pod, &format!("addr add 10.82.0.{own}/24 dev eth0"));
    }
    let command = |program: &PathBuf| {
        let mut command = Command::new(program);
        command.env("OVS_RUNDIR", &folder).env("OVS_LOGDIR", &folder).env("OVS_DBDIR", &folder);
        command
    };
    let text = |name: &str| folder.join(name).display().to_string();
    let schema = "/usr/share/openvswitch/vswitch.ovsschema".to_owned();
    run_ok(&node, command(&tool).args(["create".to_owned(), text("conf.db"), schema]));
    let mut server = command(&database);
    server.args([text("conf.db"), format!("--remote=punix:{}", text("db.sock")), "--pidfile".to_owned()]);
    let server = Daemon::start(&node, "ovsdb-server", server, &folder.join("server.log"));
    let patience = Duration::from_secs(10);
    wait_until("ovsdb-server to listen", patience, || folder.join("db.sock").exists());
    let vsctl = |words: &str| {
        let mut command = command(&ctl);
        command.arg(format!("--db=unix:{}", text("db.sock"))).args(words.split(' '));
        run_ok(&node, &mut command);
    };
    vsctl("--no-wait init");
    vsctl("--no-wait set Open_vSwitch . other_config:userspace-tso-enable=true");
    let mut daemon = command(&switch);
    daemon.args([format!("unix:{}", text("db.sock")), "--pidfile".to_owned()]);
    let daemon = Daemon::start(&node, "ovs-vswitchd", daemon, &folder.join("switch.log"));
    vsctl("--timeout=10 add-br br0 -- set bridge br0 datapath_type=netdev");
    vsctl("--timeout=10 add-port br0 pod1 -- add-port br0 pod2");
    let daemons = vec![server.pid(), daemon.pid()];
    Some(pair(OVS, pods, Ipv4Addr::new(10, 82, 0, 2), daemons, (node, server, daemon)))
}

fn pair(
    name: &str,
    [source, sink]: [Namespace; 2],
    to: Ipv4Addr,
    daemons: Vec<u32>,
    keep: impl std::any::Any,
) -> Contender {
    verify_checksums(&sink);
    Contender {
        name: name.to_owned(),
        is_ours: false,
        source,
        sink,
        to: to.into(),
        daemons,
        _keep: Box::new(keep),
    }
}

fn ip(namespace: &Namespace, words: &str) {
    run_ok(namespace, Command::new("ip").args(words.split(' ')));
}
