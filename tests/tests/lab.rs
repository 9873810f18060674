//! The lab itself, before anything is tested in it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use vrouter_tests::lab::{underlay, underlay_v4};
use vrouter_tests::process::Daemon;
use vrouter_tests::{Answer, Capture, Lab, Probe, Server, ask_tcp, ask_udp, bulk, transfer, wait_until};

#[test]
fn two_sites_meet_over_the_wide_area_network() {
    let lab = Lab::new();
    let (one, two) = (lab.site("one", 1), lab.site("two", 2));
    let capture = Capture::start(lab.wan(), "two");
    let (udp, tcp) = (Server::udp(&two, 7, "two"), Server::tcp(&two, 7, "two"));
    for address in underlay(2) {
        assert_eq!(Probe::default().send(&one, address), Answer::Reply, "{address}");
        assert_eq!(ask_udp(&one, SocketAddr::new(address, udp.port()), "who?").unwrap(), "two who?");
        assert_eq!(ask_tcp(&one, SocketAddr::new(address, tcp.port()), "who?").unwrap(), "two");
    }
    let arrived = transfer(&one, &two, SocketAddr::new(underlay_v4(2).into(), 8), 3_000_000).unwrap();
    assert_eq!((arrived.octets, arrived.digest), bulk::expected(3_000_000));
    let pcap = capture.write(&lab.path("two.pcap"));
    assert!(!pcap.fields("icmp.type == 8", &["ip.src"]).is_empty());
    assert_eq!(pcap.fields("icmpv6.type == 129", &["ipv6.src"])[0], ["2001:db8::2"]);
}

#[test]
fn a_pulled_cable_is_silence_and_heals() {
    let lab = Lab::new();
    let (one, _two) = (lab.site("one", 1), lab.site("two", 2));
    lab.set_link("two", false);
    assert_ne!(Probe::hopeless().send(&one, underlay_v4(2).into()), Answer::Reply);
    lab.set_link("two", true);
    assert_eq!(Probe { attempts: 20, ..Probe::default() }.send(&one, underlay_v4(2).into()), Answer::Reply);
}

#[test]
fn nothing_is_left_when_a_lab_is_dropped_even_by_a_panic() {
    let (path, pid, directory) = std::panic::catch_unwind(|| {
        let lab = Lab::new();
        let site = lab.site("gone", 9);
        let log = lab.path("sleep.log");
        let sleeper =
            Daemon::start(&site, "sleep", vrouter_tests::process::command("sleep", &["1000"]), &log);
        let seen = (site.path().to_owned(), sleeper.pid(), lab.directory().to_owned());
        assert!(seen.0.exists() && seen.2.exists());
        std::panic::panic_any(seen);
    })
    .unwrap_err()
    .downcast::<(std::path::PathBuf, u32, std::path::PathBuf)>()
    .map(|seen| *seen)
    .unwrap();
    assert!(!path.exists(), "{} is left", path.display());
    assert!(!directory.exists(), "{} is left", directory.display());
    wait_until("the process to end", vrouter_tests::PATIENCE, || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let lab = Lab::new();
    // A process that is gone by now, and whose number nobody has yet.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let orphan = Path::new("/run/netns").join(format!("vr-{}-orphan", child.id()));
    std::fs::write(&orphan, "").unwrap();
    drop(lab);
    let _lab = Lab::new();
    assert!(!orphan.exists());
}
