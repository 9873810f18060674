//! What a gateway costs while nothing happens: fifty pods, ten thousand routes, no traffic.
//!
//! The routes come from a BGP speaker of a few lines: it opens, says what it has to say, and is silent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use vrouter_tests::config::{AgentConfig, Vrf};
use vrouter_tests::lab::{Lab, underlay_v4};
use vrouter_tests::node::Node;
use vrouter_tests::wait::{PATIENCE, wait_until};

use crate::lifecycle::resident;
use crate::measure::process_seconds;
use crate::report::Figures;

const PODS: usize = 50;
const ROUTES: u32 = 10_000;
/// Routes per UPDATE, and as many behind one next hop.
const PACKED: u32 = 200;
const TIME: Duration = Duration::from_secs(20);
const ASN: u16 = 65_000;
const FIRST_PREFIX: u32 = 0x0b00_0000;

pub(crate) fn measure(figures: &mut Figures) {
    let lab = Lab::new();
    let feeder = lab.site("feeder", 52);
    let vrf = Vrf::new("bench", "target:65000:1").pods("10.77.0.0/16").default();
    let config =
        AgentConfig::new(ASN.into()).neighbor_with(underlay_v4(52).into(), "passive = true").vrf(&vrf);
    let node = Node::start(&lab, "idle", 51, &config);
    let pods: Vec<_> = (0..PODS).map(|n| node.add_pod(&format!("p{n}"))).collect();
    let to = SocketAddr::new(node.address(), 179);
    let session = feeder.run(|| feed(to)).unwrap_or_else(|error| panic!("feed routes to {to}: {error}"));
    wait_until("ten thousand routes", PATIENCE, || {
        !node
            .route("bench", &format!("{}/32", std::net::Ipv4Addr::from(FIRST_PREFIX + ROUTES - 1)))
            .is_empty()
    });
    // What came with them is over.
    std::thread::sleep(Duration::from_secs(3));
    let (before, begin) = (process_seconds(node.pid()), Instant::now());
    std::thread::sleep(TIME);
    let busy = (process_seconds(node.pid()) - before) / begin.elapsed().as_secs_f64();
    println!("\n50 pods, 10,000 routes, no traffic (floors 0.5 % and 64 MB, goals 0 and 30 MB)");
    figures.single("agent: idle CPU, 50 pods, 10k routes", busy * 100.0, "%");
    figures.single("agent: resident memory, 50 pods, 10k routes", resident(&node), "MB");
    drop((session, pods));
}

/// Opens a session and says all routes and that this was all.
fn feed(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let [high, low] = ASN.to_be_bytes();
    // Version, AS, hold time, identifier; capabilities: VPNv4, four-octet AS numbers.
    let open = [4, high, low, 0, 90, 192, 0, 2, 52, 14, 2, 12, 1, 4, 0, 1, 0, 128, 65, 4, 0, 0, high, low];
    stream.write_all(&message(1, &open))?;
    stream.read_exact(&mut [0; 29])?;
    stream.write_all(&message(4, &[]))?;
    for set in 0..ROUTES / PACKED {
        stream.write_all(&message(2, &update(set)))?;
    }
    // End-of-RIB: an MP_UNREACH_NLRI of nothing (RFC 4724 §2).
    stream.write_all(&message(2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 1, 128]))?;
    Ok(stream)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0xff; 16][..], &len, &[kind], body].concat()
}

fn update(set: u32) -> Vec<u8> {
    let next_hop = [192, 0, 2, u8::try_from(100 + set).unwrap_or(255)];
    // VPNv4; next hop behind a route distinguisher of zeros; nothing reserved.
    let mut reach = [&[0, 1, 128, 12, 0, 0, 0, 0, 0, 0, 0, 0][..], &next_hop, &[0]].concat();
    for route in set * PACKED..(set + 1) * PACKED {
        let [.., a, b, c] = ((16 + route) << 4 | 1).to_be_bytes();
        reach.extend([120, a, b, c, 0, 0, 0xfd, 0xe8, 0, 0, 0, 9]);
        reach.extend((FIRST_PREFIX + route).to_be_bytes());
    }
    let len = u16::try_from(reach.len()).unwrap_or(u16::MAX).to_be_bytes();
    // ORIGIN, AS_PATH, LOCAL_PREF; route target 65000:1 and MPLS in UDP.
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100];
    attributes.extend([0xc0, 16, 16, 0, 2, 0xfd, 0xe8, 0, 0, 0, 1, 3, 0x0c, 0, 0, 0, 0, 0, 13]);
    attributes.extend([0x90, 14, len[0], len[1]]);
    attributes.extend(reach);
    let len = u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0, 0][..], &len, &attributes].concat()
}
