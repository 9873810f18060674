//! BIRD as route reflector between two gateways: VPNv4 both ways, over the family that it shares with us and no other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use vrouter_tests::fixture::{ASN, city_rd, gateway};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::process::{Daemon, command, run, run_ok};
use vrouter_tests::{Answer, Lab, Namespace, Node, PATIENCE, Pod, Probe, wait_for, wait_until};

/// A running bird.
struct Bird {
    namespace: Namespace,
    socket: PathBuf,
    _daemon: Daemon,
}

impl Bird {
    fn start(lab: &Lab, host: u8, clients: &[IpAddr]) -> Bird {
        let namespace = lab.site("bird", host);
        let (path, socket) = (lab.path("bird.conf"), lab.path("bird.ctl"));
        std::fs::write(&path, configuration(underlay_v4(host).into(), clients)).unwrap();
        let mut bird = Command::new("bird");
        bird.arg("-f").arg("-c").arg(&path).arg("-s").arg(&socket);
        let daemon = Daemon::start(&namespace, "bird", bird, &lab.path("bird.log"));
        let bird = Bird { namespace, socket, _daemon: daemon };
        wait_for("bird to answer", PATIENCE, || {
            let output = run(&bird.namespace, &mut bird.command("show status"));
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
        bird
    }

    fn command(&self, words: &str) -> Command {
        let mut birdc = command("birdc", &["-r", "-s"]);
        birdc.arg(&self.socket).args(words.split(' '));
        birdc
    }

    fn show(&self, words: &str) -> String {
        run_ok(&self.namespace, &mut self.command(words))
    }
}

fn configuration(address: IpAddr, clients: &[IpAddr]) -> String {
    let mut text = format!(
        "router id {address};\nlog stderr all;\nprotocol device {{}}\nprotocol direct {{ ipv4; }}\n\
         vpn4 table vt;\n"
    );
    for (index, client) in clients.iter().enumerate() {
        let _ = writeln!(
            text,
            "protocol bgp p{index} {{ local {address} as {ASN}; neighbor {client} as {ASN}; rr client; \
             rr cluster id {address}; connect delay time 1; connect retry time 2; hold time 9; \
             vpn4 mpls {{ table vt; import all; export all; }}; }}"
        );
    }
    text
}

fn reflected(lab: &Lab) -> (Bird, Node, Node) {
    let bird = Bird::start(lab, 1, &[11, 12].map(|host| underlay_v4(host).into()));
    let one = Node::start(lab, "gw-11", 11, &gateway(11, &[1]));
    let two = Node::start(lab, "gw-12", 12, &gateway(12, &[1]));
    for node in [&one, &two] {
        node.wait_established(underlay_v4(1).into());
    }
    (bird, one, two)
}

fn label(node: &Node, pod: &Pod) -> u64 {
    let ports = node.ctl_json(&["show", "ports"]);
    let ports = ports["ports"].as_array().cloned().unwrap_or_default();
    let own = ports.into_iter().find(|port| port["key"]["container"] == pod.container()).unwrap();
    own["label"].as_u64().unwrap()
}

#[test]
fn bird_sees_label_distinguisher_and_targets_and_pods_meet() {
    let lab = Lab::new();
    let (bird, one, two) = reflected(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    let prefix = |pod: &Pod| format!("{}/32", pod.v4());
    let hops = two.wait_route("city", &prefix(&near));
    assert_eq!(hops[0]["ip"], "192.0.2.11", "{hops:#?}");
    assert_eq!(hops[0]["label"], label(&one, &near), "{hops:#?}");
    one.wait_route("city", &prefix(&far));
    let shown = bird.show(&format!("show route table vt all for {} {}", city_rd(11), prefix(&near)));
    for wanted in [
        format!("mpls {}", label(&one, &near)),
        "BGP.local_pref: 100".to_owned(),
        format!("BGP.mpls_label_stack: {}", label(&one, &near)),
        "BGP.next_hop: 192.0.2.11".to_owned(),
        // target:4200000000:100 (RFC 5668).
        format!("(rt, {ASN}, 100)"),
    ] {
        assert!(shown.contains(&wanted), "{wanted:?} in:\n{shown}");
    }
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    assert_eq!(Probe::default().send(far.namespace(), near.v4().into()), Answer::Reply);
    near.delete();
    two.wait_no_route("city", &format!("{}/32", near.v4()));
    wait_until("the route to be withdrawn from BIRD", PATIENCE, || {
        !bird.show("show route table vt").contains(&near.v4().to_string())
    });
}

#[test]
fn the_session_with_bird_carries_vpnv4_only_and_shows_it() {
    let lab = Lab::new();
    let (bird, one, _two) = reflected(&lab);
    let address = underlay_v4(1).to_string();
    let neighbor = one.ctl_json(&["show", "bgp", "neighbors"])["neighbors"][&address].clone();
    let text = neighbor.to_string();
    assert!(text.contains("vpnv4") || text.contains("Vpn"), "{neighbor:#}");
    let shown = bird.show("show protocols all p0");
    assert!(shown.contains("Established"), "{shown}");
    assert!(shown.contains("Extended message") && shown.contains("Enhanced refresh"), "{shown}");
    assert!(shown.contains("4-octet AS numbers"), "{shown}");
}
