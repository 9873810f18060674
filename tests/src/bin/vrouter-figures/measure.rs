//! One run of one test between two ends: the figure, and the CPU seconds that it took.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use vrouter_tests::traffic::{self, UdpLoad};

use crate::contender::Contender;

/// How long each transfer lasts.
const TIME: Duration = Duration::from_secs(2);
/// Payload of a small UDP packet.
const SMALL: &[usize] = &[18];
/// Payloads of the simple Internet mix, 7 : 4 : 1, the longest as long as VXLAN still takes it whole.
const MIX: &[usize] = &[36, 36, 548, 36, 548, 36, 1400, 36, 548, 36, 548, 36];
/// Round trips per run.
const ROUND_TRIPS: usize = 4000;

/// One thing to measure; larger is better but for `Rtt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Tcp { streams: usize },
    Udp { flows: usize, mixed: bool },
    Rtt,
}

impl Test {
    /// Every test: its name on the command line, in the table, its unit, itself.
    pub(crate) const ALL: [(&str, &str, &str, Test); 9] = [
        ("tcp1", "TCP 1 stream", "Gbit/s", Test::Tcp { streams: 1 }),
        ("tcp4", "TCP 4 streams", "Gbit/s", Test::Tcp { streams: 4 }),
        ("udp", "UDP 18 B, 1 flow", "kpps", Test::Udp { flows: 1, mixed: false }),
        ("udp100", "UDP 18 B, 100 flows", "kpps", Test::Udp { flows: 100, mixed: false }),
        ("udp1000", "UDP 18 B, 1,000 flows", "kpps", Test::Udp { flows: 1000, mixed: false }),
        ("imix", "UDP mixed, 1 flow", "kpps", Test::Udp { flows: 1, mixed: true }),
        ("imix100", "UDP mixed, 100 flows", "kpps", Test::Udp { flows: 100, mixed: true }),
        ("imix1000", "UDP mixed, 1,000 flows", "kpps", Test::Udp { flows: 1000, mixed: true }),
        ("rtt", "TCP round trip p50", "µs", Test::Rtt),
    ];
}

/// A run of a test.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) figure: f64,
    /// The 99th percentile of round trips; zero elsewhere.
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
}

/// Runs it once.
pub(crate) fn run(contender: &Contender, test: Test) -> Run {
    let before = cpu_seconds(contender);
    let measured = match test {
        Test::Tcp { streams } => tcp(contender, streams).map(|figure| (figure, 0.0)),
        Test::Udp { flows, mixed } => udp(contender, flows, mixed).map(|figure| (figure, 0.0)),
        Test::Rtt => round_trip(contender),
    };
    let (figure, p99) = measured.unwrap_or_else(|error| panic!("{}: {error}", contender.name));
    Run { figure, p99, cpu: cpu_seconds(contender) - before }
}

fn joined<T>(thread: std::thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().map_err(|_| io::Error::other("the far end panicked"))?
}

fn tcp(contender: &Contender, streams: usize) -> io::Result<f64> {
    let to = SocketAddr::new(contender.to, 5001);
    let listener = contender.sink.run(|| TcpListener::bind(to))?;
    let sink = std::thread::spawn(move || traffic::tcp_sink(&listener, streams));
    contender.source.run(|| traffic::tcp_source(to, streams, TIME))?;
    Ok(joined(sink)?.rate() * 8.0 / 1e9)
}

fn udp(contender: &Contender, flows: usize, mixed: bool) -> io::Result<f64> {
    let to = SocketAddr::new(contender.to, 5002);
    let socket = contender.sink.run(|| UdpSocket::bind(to))?;
    let sizes = if mixed { MIX } else { SMALL };
    let sink = std::thread::spawn(move || traffic::udp_sink(&socket, sizes, TIME * 3));
    // A burst of one flow is what coalescing feeds on: with many flows it is short.
    let burst = if flows == 1 { 64 } else { 8 };
    let load = UdpLoad { sizes, flows, burst, time: TIME, pace: None };
    contender.source.run(|| traffic::udp_source(to, load))?;
    Ok(joined(sink)?.rate() / 1e3)
}

fn round_trip(contender: &Contender) -> io::Result<(f64, f64)> {
    let to = SocketAddr::new(contender.to, 5003);
    let listener = contender.sink.run(|| TcpListener::bind(to))?;
    let pong = std::thread::spawn(move || traffic::tcp_pong(&listener));
    let times = contender.source.run(|| traffic::tcp_ping_pong(to, ROUND_TRIPS))?;
    joined(pong)?;
    let at =
        |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default().as_secs_f64() * 1e6;
    Ok((at(50), at(99)))
}

/// Seconds of processor that this process, the contender's daemons and the kernel's softirq threads have used.
fn cpu_seconds(contender: &Contender) -> f64 {
    let softirq = processes().filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    });
    let own = std::iter::once(std::process::id()).chain(contender.daemons.iter().copied());
    own.chain(softirq).map(process_seconds).sum()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// User and system time of a process and its threads, dead ones included (proc(5): fields 14 and 15, in 10 ms).
pub(crate) fn process_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0.0 };
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / 100.0
}
