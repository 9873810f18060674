//! Sensors and their store: Graphite's plaintext protocol, a line per reading (`metric value seconds`), over TCP.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vrouter_tests::netns::Namespace;
use vrouter_tests::pod::Pod;

use crate::scene::Tenant;

/// Graphite's plaintext port.
const PORT: u16 = 2003;

/// A reading as it arrived.
pub(crate) struct Arrival {
    /// Whose Graphite it arrived at.
    pub(crate) at: Tenant,
    /// Where it came from.
    pub(crate) from: SocketAddr,
    /// The line.
    pub(crate) line: String,
}

/// Listens in a tenant's VM, on both families, and passes on every line that arrives.
pub(crate) fn collect(vm: &Namespace, tenant: Tenant, arrivals: &Sender<Arrival>) -> std::io::Result<()> {
    let listener = vm.run(|| TcpListener::bind(("::", PORT)))?;
    let arrivals = arrivals.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let arrivals = arrivals.clone();
            std::thread::spawn(move || read_lines(&stream, tenant, &arrivals));
        }
    });
    Ok(())
}

fn read_lines(stream: &TcpStream, at: Tenant, arrivals: &Sender<Arrival>) {
    let Ok(from) = stream.peer_addr() else { return };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if arrivals.send(Arrival { at, from, line }).is_err() {
            return;
        }
    }
}

/// A channel for arrivals.
pub(crate) fn arrivals() -> (Sender<Arrival>, Receiver<Arrival>) {
    channel()
}

/// A sensor in a pod sends this many readings, one every 300 ms, to its tenant's Graphite.
pub(crate) fn sense(pod: &Pod, tenant: Tenant, name: &str, graphite: std::net::IpAddr, count: usize) {
    let metric = match tenant {
        Tenant::SmartCity => format!("{}.{name}.temperature", tenant.metric()),
        Tenant::Parking => format!("{}.{name}.cars", tenant.metric()),
    };
    pod.namespace().spawn(move || {
        let sent = send(&metric, SocketAddr::new(graphite, PORT), count);
        if let Err(error) = sent {
            println!("          sensor {metric}: {error}");
        }
    });
}

fn send(metric: &str, graphite: SocketAddr, count: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&graphite, Duration::from_secs(10))?;
    for turn in 0..count {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let value = 20.0 + f64::from(now.subsec_millis() % 50) / 10.0;
        writeln!(stream, "{metric} {value:.1} {}", now.as_secs())?;
        if turn + 1 < count {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    Ok(())
}
