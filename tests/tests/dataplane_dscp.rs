//! The class of tunnel packets: that of the packet inside, or the one that the operator gave the VRF.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};

use vrouter_tests::fixture::{ASN, city, pair_with, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{AgentConfig, Capture, Lab, PATIENCE, Pod, Server, wait_for};

/// What the probes carry, so that they are found in a capture.
const MARK: &[u8] = b"which class am I in?";

/// Sends a datagram of this TOS or traffic class.
fn send(from: &Pod, to: SocketAddr, class: u32) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.namespace().run(|| UdpSocket::bind(any)).unwrap();
    let options = socket2::SockRef::from(&socket);
    if to.is_ipv4() {
        options.set_tos_v4(class).unwrap();
    } else {
        options.set_tclass_v6(class).unwrap();
    }
    socket.send_to(MARK, to).unwrap();
}

/// The outer TOS of the tunnel packet with the probe, and the class of the packet inside.
fn classes(capture: &Capture) -> (u8, u8) {
    wait_for("the probe on the wire", PATIENCE, || {
        let frames = capture.frames();
        let found = frames.iter().find(|frame| frame.windows(MARK.len()).any(|window| window == MARK));
        let frame = found.ok_or(format!("{} frames", frames.len()))?;
        // Ethernet, IPv4 without options, UDP or GRE, one label.
        let inner = &frame[14 + 20 + if frame[14 + 9] == 17 { 8 } else { 4 } + 4..];
        let class = if inner[0] >> 4 == 4 { inner[1] } else { inner[0] << 4 | inner[1] >> 4 };
        Ok::<_, String>((frame[15], class))
    })
}

fn class_of_tunnel_packets(encapsulation: &str) {
    let lab = Lab::new();
    let config = |own, other, line: &str| {
        let vrf = city(own).line(line);
        let config = AgentConfig::new(ASN).vrf(&vrf).neighbor(underlay_v4(other).into());
        config.encapsulations(&[encapsulation])
    };
    // The one sets a class, expedited forwarding; the other copies.
    let (one, two) = pair_with(&lab, &config(11, 12, "dscp = 46"), &config(12, 11, "med = 5"));
    let (near, far) = (one.add_pod("near"), two.add_pod("far"));
    wait_routes(&one, &far.addresses());
    wait_routes(&two, &near.addresses());
    for (node, from, to, set) in [(&one, &near, &far, Some(46 << 2)), (&two, &far, &near, None)] {
        let server = Server::udp(to.namespace(), 9, "sink");
        for address in to.addresses() {
            for class in [0, 0x28, 0xb8 | 2] {
                let capture = Capture::start(node.namespace(), "eth0");
                send(from, SocketAddr::new(address, server.port()), u32::from(class));
                let (outer, inner) = classes(&capture);
                assert_eq!(inner, class, "the packet's own class stays");
                assert_eq!(outer, set.map_or(class, |set| set | class & 3), "{class:#x} to {address}");
            }
        }
    }
}

#[test]
fn tunnel_packets_over_udp_have_the_vrfs_class_or_that_of_the_packet_inside() {
    class_of_tunnel_packets("mpls-over-udp");
}

#[test]
fn tunnel_packets_over_gre_have_the_vrfs_class_or_that_of_the_packet_inside() {
    class_of_tunnel_packets("mpls-over-gre");
}
