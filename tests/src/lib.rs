//! The lab: gateways, a datacenter and the network between them, made of network namespaces on one machine, with the
//! real programs and real peers in them. It serves the end-to-end tests, the demonstration and the benches.
//!
//! ```text
//!  Lab ─ site() ─▶ Namespace        a place on the wide area network
//!      ─ Node::start() ─▶ Node      a place with a vrouter-agent; ctl(), ctl_json(), kill9(), start_agent()
//!                          └ add_pod() ─▶ Pod      a namespace that the real vrouter-cni wired
//!  Frr, GoBgp           route reflectors            Guest      a Linux kernel in QEMU: edge router, or a VM on a tap
//!  Server, Probe, bulk  traffic                     Capture    frames, and what tshark says of them
//! ```
//! The lab itself needs nothing but a Linux kernel and root: namespaces, links and addresses are made through system
//! calls and rtnetlink. What cannot be set up panics with a sentence, since half a lab proves nothing. Everything is
//! removed on drop, after a panic too, and what a killed process left is swept by the next lab.
#![warn(missing_docs)]

pub mod agreement;
pub mod binaries;
pub mod bulk;
pub mod capture;
pub mod cni_bench;
pub mod cni_chain;
pub mod cni_checklist;
pub mod cni_run;
pub mod config;
pub mod cri;
pub mod echo;
pub mod fixture;
pub mod frr;
pub mod gobgp;
pub mod guest;
pub mod guest_image;
pub mod killer;
pub mod lab;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod openstack;
pub mod paced;
pub mod packets;
pub mod pod;
pub mod podman;
pub mod probe;
pub mod process;
pub mod random;
pub mod sandbox;
pub mod sensors;
pub mod supervisor;
pub mod sys;
pub mod traffic;
pub mod vm;
pub mod wait;

pub use bulk::transfer;
pub use capture::Capture;
pub use config::{AgentConfig, Vrf};
pub use echo::{Server, ask_tcp, ask_udp};
pub use frr::Frr;
pub use gobgp::{GoBgp, GoBgpPeer};
pub use guest::{Edge, Guest};
pub use lab::Lab;
pub use netns::Namespace;
pub use node::Node;
pub use pod::Pod;
pub use probe::{Answer, Probe};
pub use supervisor::Supervisor;
pub use wait::{PATIENCE, wait_for, wait_until};
