//! `vrouterctl capture` writes what tshark reads, on a port and on the underlay; says why packets were dropped and how
//! many were lost; and holds up nobody.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use vrouter_tests::binaries::binary;
use vrouter_tests::capture::Pcap;
use vrouter_tests::fixture::{pair, wait_routes};
use vrouter_tests::packets::{ethernet, send_frame, udp_packet};
use vrouter_tests::{Answer, Lab, Node, PATIENCE, Pod, Probe, bulk, transfer, wait_until};

/// A capture that runs. Ended as by Ctrl-C.
struct Running {
    child: Child,
    file: PathBuf,
}

impl Running {
    fn start(lab: &Lab, node: &Node, name: &str, arguments: &[&str]) -> Running {
        let file = lab.path(&format!("{name}.pcapng"));
        let mut command = Command::new(binary("vrouterctl"));
        command.arg("--socket").arg(node.socket()).arg("capture").args(arguments).arg("-w").arg(&file);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(&format!("capture {name} to begin"), PATIENCE, || {
            fs::metadata(&file).is_ok_and(|file| file.len() > 0)
        });
        Running { child, file }
    }

    /// Ends it and answers the file, and what was said.
    fn end(self) -> (Pcap, String) {
        // What has just passed is in the rings for some milliseconds.
        thread::sleep(Duration::from_millis(200));
        vrouter_tests::sys::kill(self.child.id(), libc::SIGINT).unwrap();
        self.wait()
    }

    fn wait(mut self) -> (Pcap, String) {
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(status.success(), "{said}");
        (Pcap::read(&self.file), said)
    }
}

fn label(node: &Node, pod: &Pod) -> String {
    let ports = node.ctl_json(&["show", "ports"]);
    let wanted = pod.host_interface();
    let port =
        ports["ports"].as_array().unwrap().iter().find(|port| port["hostInterface"] == wanted.as_str());
    port.unwrap()["label"].to_string()
}

#[test]
fn tshark_reads_captures_of_a_port_and_of_the_underlay() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let (near_label, far_label) = (label(&one, &near), label(&two, &far));
    let port = Running::start(&lab, &one, "port", &[&near.host_interface()]);
    let underlay = Running::start(&lab, &one, "underlay", &["underlay"]);
    let filter = format!("label {far_label} and icmp and dst host {}", far.v4());
    let few = Running::start(&lab, &one, "few", &["underlay", "--filter", &filter, "--count", "2"]);
    for address in far.addresses().into_iter().chain(far.addresses()) {
        assert_eq!(Probe::default().send(near.namespace(), address), Answer::Reply, "{address}");
    }
    for address in far.addresses() {
        let arrived = transfer(near.namespace(), far.namespace(), SocketAddr::new(address, 5001), 300_000);
        assert_eq!(arrived.unwrap().octets, 300_000);
    }
    let (few, said) = few.wait();
    assert!(said.contains("2 packets captured"), "{said}");
    let (port, said) = port.end();
    assert!(said.contains("none lost"), "{said}");
    let (underlay, said) = underlay.end();
    assert!(said.contains("none lost"), "{said}");
    for capture in [&port, &underlay, &few] {
        assert_eq!(capture.malformed(), Vec::<String>::new());
    }
    let (near4, far4) = (near.v4().to_string(), far.v4().to_string());
    let pings = port.fields("icmp", &["eth.dst", "ip.src", "ip.dst"]);
    let gateway = "00:00:5e:00:01:00".to_owned();
    assert_eq!(pings.len(), 4, "{pings:?}");
    assert_eq!(pings[0], [gateway, near4.clone(), far4.clone()]);
    let both =
        |from: &str, to: &str| vec![format!("{},{from}", one.address()), format!("{},{to}", two.address())];
    let pings = underlay.fields("icmp", &["ip.src", "ip.dst", "mpls.label", "udp.dstport"]);
    assert_eq!(pings.len(), 4, "{pings:?}");
    assert_eq!(pings[0], [both(&near4, &far4), vec![far_label.clone(), "6635".to_owned()]].concat());
    assert_eq!(pings[1][2], near_label);
    let few = few.fields("frame", &["mpls.label", "icmp.type", "frame.len"]);
    assert_eq!(few.len(), 2, "{few:?}");
    assert!(few.iter().all(|row| row[0] == far_label && row[1] == "8"), "{few:?}");
    // Every octet of both streams, once, in segments that the path takes; on the port, in larger ones.
    let outer = underlay.fields("tcp.len > 0 && tcp.dstport == 5001", &["frame.len", "tcp.len"]);
    assert!(outer.iter().all(|row| row[0].parse::<u32>().unwrap() <= 1500), "{outer:?}");
    let octets = |rows: &[Vec<String>]| rows.iter().map(|row| row[1].parse::<u64>().unwrap()).sum::<u64>();
    assert!(octets(&outer) >= 600_000, "{}", octets(&outer));
    let inner = port.fields("tcp.len > 0 && tcp.dstport == 5001", &["frame.len", "tcp.len"]);
    assert!(octets(&inner) >= 600_000 && inner.len() < outer.len(), "{} {}", octets(&inner), inner.len());
    // The outer UDP header is made up, but its checksum is right, where the far end's coalescing would look.
    let sums = underlay.fields("udp.checksum.status == 0", &["frame.number"]);
    assert_eq!(sums, Vec::<Vec<String>>::new());
}

#[test]
fn a_dropped_packet_says_why_and_filters_and_directions_hold() {
    let lab = Lab::new();
    let (one, _two) = pair(&lab);
    let pod = one.add_pod("pod");
    let interface = pod.host_interface();
    let all = Running::start(&lab, &one, "all", &["pod", "--filter", "host 172.16.9.9"]);
    let out =
        Running::start(&lab, &one, "out", &[&interface, "--filter", "host 172.16.9.9", "--direction", "out"]);
    let short = Running::start(
        &lab,
        &one,
        "short",
        &[&interface, "--filter", "udp", "--snaplen", "60", "--count", "1"],
    );
    let from: SocketAddr = "172.16.9.9:7".parse().unwrap();
    let packet =
        udp_packet(from, SocketAddr::new(IpAddr::V4("10.20.12.2".parse().unwrap()), 9), 64, &[1; 200]);
    let frame = ethernet(vrouter_types::MacAddr::GATEWAY, pod.namespace().mac("eth0"), 0x0800, &packet);
    one.faults_of("spoofed-source", || send_frame(pod.namespace(), "eth0", &frame).unwrap());
    let (short, _) = short.wait();
    assert_eq!(short.fields("frame", &["frame.len", "frame.cap_len"]), [["242", "60"]]);
    let (all, said) = all.end();
    assert!(said.contains("1 packet captured, none lost"), "{said}");
    let comments = all.fields("udp", &["frame.comment", "ip.src"]);
    assert_eq!(comments.len(), 1);
    assert!(comments[0][0].starts_with("dropped: spoofed-source: "), "{comments:?}");
    let (_, said) = out.end();
    assert!(said.contains("0 packets captured"), "{said}");
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_and_hears_what_it_lost() {
    let lab = Lab::new();
    let (one, two) = pair(&lab);
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    let mut command = Command::new(binary("vrouterctl"));
    command.arg("--socket").arg(one.socket()).args(["capture", "underlay", "--seconds", "8"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    // The file has begun, so the capture runs; from here on nobody reads.
    pipe.read_exact(&mut [0; 12]).unwrap();
    let to = SocketAddr::new(far.v4().into(), 5001);
    let octets = 64 << 20;
    let arrived = transfer(near.namespace(), far.namespace(), to, octets).unwrap();
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(octets));
    let mut rest = Vec::new();
    pipe.read_to_end(&mut rest).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let lost = said.split_once(" captured, ").and_then(|(_, rest)| rest.split_once(" lost"));
    let lost: u64 = lost.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap_or_else(|_| panic!("{said}"));
    assert!(lost > 0, "{said}");
    assert!(one.faults().is_empty(), "{:?}", one.faults());
}

#[test]
fn what_cannot_be_captured_is_refused_with_the_reason() {
    let lab = Lab::new();
    let (one, _two) = pair(&lab);
    let refused = |arguments: &[&str]| {
        let output = one.try_ctl(&[&["capture"], arguments, &["-w", "/dev/null"]].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = refused(&["nobody"]);
    assert_eq!((code, text.contains("there is no port \"nobody\"")), (Some(1), true), "{text}");
    let (code, text) = refused(&["underlay", "--filter", "vlan 3"]);
    assert_eq!((code, text.contains("\"vlan\"")), (Some(2), true), "{text}");
    let running: Vec<Running> =
        (0..4).map(|n| Running::start(&lab, &one, &format!("n{n}"), &["underlay"])).collect();
    let (code, text) = refused(&["underlay"]);
    assert_eq!((code, text.contains("4 captures run already")), (Some(1), true), "{text}");
    running.into_iter().for_each(|it| drop(it.end()));
    let (_, said) = Running::start(&lab, &one, "again", &["underlay", "--seconds", "1"]).wait();
    assert!(said.contains("0 packets captured"), "{said}");
    assert!(Path::new("/dev/null").exists());
}
