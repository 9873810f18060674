//! BGP peers that misbehave: each fault is named where a person looks for it, and other sessions go on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

use serde_json::Value;
use vrouter_tests::fixture::{ASN, gateway, wait_routes};
use vrouter_tests::lab::underlay_v4;
use vrouter_tests::{AgentConfig, Answer, Lab, Node, PATIENCE, Probe, Server, wait_for};

const BGP_PORT: u16 = 179;

/// An OPEN of this AS with VPNv4 and four-octet AS capabilities (RFC 4271 §4.2, RFC 5492).
fn open(asn: u32) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 128, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let two_octets = u16::try_from(asn).unwrap_or(23456).to_be_bytes();
    let mut body = vec![4, two_octets[0], two_octets[1], 0, 90, 192, 0, 2, 31];
    body.push(u8::try_from(capabilities.len() + 2).unwrap());
    body.extend([2, u8::try_from(capabilities.len()).unwrap()]);
    body.extend(capabilities);
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// A site that accepts BGP connections, says its line to each, and then reads to the end; or hangs up at once.
fn peer(lab: &Lab, host: u8, says: Vec<u8>, hangs_up: bool) -> Server {
    let site = lab.site(&format!("peer-{host}"), host);
    Server::tcp_with(&site, BGP_PORT, move |mut stream: TcpStream| {
        stream.write_all(&says)?;
        if !hangs_up {
            stream.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    })
}

fn neighbor(node: &Node, host: u8) -> Value {
    node.ctl_json(&["show", "bgp", "neighbors"])["neighbors"][underlay_v4(host).to_string()].clone()
}

/// Waits until `show bgp neighbors` names the fault of a peer: all of these words, whatever their case.
fn wait_named(node: &Node, host: u8, words: &[&str]) -> Value {
    wait_for(&format!("neighbor 192.0.2.{host} to be named as {words:?}"), PATIENCE, || {
        let shown = neighbor(node, host);
        let error = shown["lastError"].as_str().unwrap_or_default().to_lowercase();
        if words.iter().all(|word| error.contains(word)) { Ok(shown) } else { Err(shown) }
    })
}

fn node_with(lab: &Lab, name: &str, host: u8, config: AgentConfig, bad: &[u8]) -> Node {
    let address = |peer: &u8| IpAddr::from(underlay_v4(*peer));
    let config = bad.iter().fold(config, |config, peer| config.neighbor(address(peer)));
    Node::start(lab, name, host, &config)
}

#[test]
fn misbehaving_peers_are_named_and_others_are_not_disturbed() {
    let lab = Lab::new();
    let good = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    let _wrong_as = peer(&lab, 31, open(65_001), false);
    let _garbage = peer(&lab, 32, b"HTTP/1.0 400 Bad Request\r\n\r\n".to_vec(), false);
    let _half = peer(&lab, 33, open(ASN)[..24].to_vec(), true);
    let mut lying = open(ASN);
    lying[16..18].copy_from_slice(&[0xff, 0xff]);
    let _lying = peer(&lab, 34, lying, false);
    let mut after_open = open(ASN);
    after_open.extend(message(4, &[]));
    // An UPDATE whose attributes claim more octets than the message has (RFC 7606 §4: the session must go).
    after_open.extend(message(2, &[0, 0, 0xff, 0xff]));
    let _update = peer(&lab, 35, after_open, false);
    let node = node_with(&lab, "gw-11", 11, gateway(11, &[12]), &[31, 32, 33, 34, 35]);
    node.wait_established(good.address());
    let (near, far) = (node.add_pod("near"), good.add_pod("far"));
    wait_routes(&node, &far.addresses());
    wait_routes(&good, &near.addresses());

    // A collision of the first connections may have cost the good neighbor one; from here on it must stay.
    let dropped = neighbor(&node, 12)["connectionsDropped"].clone();
    wait_named(&node, 31, &["bad peer as"]);
    wait_named(&node, 32, &["connection not synchronized"]);
    wait_named(&node, 33, &["closed by the neighbor"]);
    wait_named(&node, 34, &["bad message length"]);
    wait_named(&node, 35, &["malformed attribute list"]);
    for host in [31, 32, 34, 35] {
        let shown = neighbor(&node, host);
        assert!(shown["sent"]["notifications"].as_u64() > Some(0), "a NOTIFICATION says why: {shown:#?}");
        assert_ne!(shown["state"], "Established");
    }
    let text = node.ctl(&["show", "bgp", "neighbors"]);
    assert!(text.to_lowercase().contains("synchronized"), "people see it, too:\n{text}");

    assert_eq!(node.bgp_state(good.address()), "Established");
    assert_eq!(neighbor(&node, 12)["connectionsDropped"], dropped, "{:#?}", neighbor(&node, 12));
    assert_eq!(Probe::default().send(near.namespace(), far.v4().into()), Answer::Reply);
    assert_eq!(Probe::default().send(near.namespace(), far.v6().into()), Answer::Reply);
}

#[test]
fn a_stranger_who_connects_to_us_is_refused_and_disturbs_nobody() {
    let lab = Lab::new();
    let node = Node::start(&lab, "gw-11", 11, &gateway(11, &[12]));
    let good = Node::start(&lab, "gw-12", 12, &gateway(12, &[11]));
    node.wait_established(good.address());
    let dropped = neighbor(&node, 12)["connectionsDropped"].clone();
    let stranger = lab.site("stranger", 66);
    for _ in 0..20 {
        let mut stream = stranger.run(|| TcpStream::connect((node.address(), BGP_PORT))).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&open(ASN));
        let mut said = Vec::new();
        // Refused: the connection ends. A session never comes of it, so there is no KEEPALIVE (type 4).
        let _ = stream.read_to_end(&mut said);
        assert_ne!(said.get(18), Some(&4), "{said:x?}");
    }
    assert_eq!(node.bgp_state(good.address()), "Established");
    assert_eq!(neighbor(&node, 12)["connectionsDropped"], dropped);
}
