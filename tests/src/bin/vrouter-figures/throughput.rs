//! TCP bulk, small UDP packets and round trips between two pods on two nodes, ours beside kernel VXLAN.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use vrouter_tests::lab::Lab;
use vrouter_tests::traffic::{self, UdpLoad};

use crate::contender::{self, Contender};
use crate::report::{Figures, median};

/// How long each transfer lasts.
const TIME: Duration = Duration::from_secs(2);
/// Payload of a small UDP packet.
const SMALL: usize = 18;
/// Round trips per run.
const ROUND_TRIPS: usize = 4000;

/// One thing to measure; larger is better but for `Rtt`.
#[derive(Clone, Copy)]
enum Test {
    Tcp { streams: usize },
    Udp { flows: usize },
    Rtt,
}

/// A run of a test: the figure, and the CPU seconds of the whole machine meanwhile.
struct Run {
    figure: f64,
    cpu: f64,
}

/// Measures all tests, contenders interleaved.
pub(crate) fn compare(figures: &mut Figures, runs: usize) {
    let lab = Lab::new();
    let contenders = [
        contender::ours(&lab, "udp", [21, 22], "mpls-over-udp"),
        contender::ours(&lab, "gre", [23, 24], "mpls-over-gre"),
        contender::kernel_vxlan(&lab),
    ];
    println!("\nremote, offloads on, receivers verify checksums, median of {runs} interleaved runs (range)");
    for (what, unit, test) in [
        ("TCP 1 stream", "Gbit/s", Test::Tcp { streams: 1 }),
        ("TCP 4 streams", "Gbit/s", Test::Tcp { streams: 4 }),
        ("UDP 18 B, 1 flow", "kpps", Test::Udp { flows: 1 }),
        ("UDP 18 B, 100 flows", "kpps", Test::Udp { flows: 100 }),
        ("TCP round trip p50", "µs", Test::Rtt),
    ] {
        compare_one(figures, what, unit, test, &contenders, runs);
    }
}

fn compare_one(
    figures: &mut Figures,
    what: &str,
    unit: &str,
    test: Test,
    contenders: &[Contender],
    runs: usize,
) {
    let mut series: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (contender, series) in contenders.iter().zip(&mut series) {
            series.push(run(contender, test));
        }
    }
    let column = |of: fn(&Run) -> f64| -> Vec<Vec<f64>> {
        series.iter().map(|runs| runs.iter().map(of).collect()).collect()
    };
    let (values, cpu) = (column(|run| run.figure), column(|run| run.cpu));
    let (Some((baseline, ours)), Some(baseline_cpu)) = (values.split_last(), cpu.last()) else { return };
    for ((contender, ours), cpu) in contenders.iter().zip(ours).zip(&cpu) {
        let what = format!("{what}, {}", contender.name);
        figures.beside(&what, unit, ours, ("kernel VXLAN", baseline));
        println!("{:32} CPU-seconds {:.2} beside {:.2}", "", median(cpu), median(baseline_cpu));
    }
}

fn run(contender: &Contender, test: Test) -> Run {
    let before = cpu_seconds();
    let figure = match test {
        Test::Tcp { streams } => tcp(contender, streams),
        Test::Udp { flows } => udp(contender, flows),
        Test::Rtt => round_trip(contender),
    };
    let figure = figure.unwrap_or_else(|error| panic!("{}: {error}", contender.name));
    Run { figure, cpu: cpu_seconds() - before }
}

fn tcp(contender: &Contender, streams: usize) -> std::io::Result<f64> {
    let to = SocketAddr::new(contender.to, 5001);
    let listener = contender.sink.run(|| TcpListener::bind(to))?;
    let sink = std::thread::spawn(move || traffic::tcp_sink(&listener, streams));
    contender.source.run(|| traffic::tcp_source(to, streams, TIME))?;
    let transfer = sink.join().map_err(|_| std::io::Error::other("sink panicked"))??;
    Ok(transfer.rate() * 8.0 / 1e9)
}

fn udp(contender: &Contender, flows: usize) -> std::io::Result<f64> {
    let to = SocketAddr::new(contender.to, 5002);
    let socket = contender.sink.run(|| UdpSocket::bind(to))?;
    let sink = std::thread::spawn(move || traffic::udp_sink(&socket, SMALL, TIME * 3));
    let load = UdpLoad { size: SMALL, flows, time: TIME, pace: None };
    contender.source.run(|| traffic::udp_source(to, load))?;
    let transfer = sink.join().map_err(|_| std::io::Error::other("sink panicked"))??;
    Ok(transfer.rate() / 1e3)
}

fn round_trip(contender: &Contender) -> std::io::Result<f64> {
    let to = SocketAddr::new(contender.to, 5003);
    let listener = contender.sink.run(|| TcpListener::bind(to))?;
    let pong = std::thread::spawn(move || traffic::tcp_pong(&listener));
    let times = contender.source.run(|| traffic::tcp_ping_pong(to, ROUND_TRIPS))?;
    pong.join().map_err(|_| std::io::Error::other("pong panicked"))??;
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(middle.as_secs_f64() * 1e6)
}

/// Seconds that all CPUs together were busy since boot.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq …: all but idle and iowait, in ticks of 10 ms.
    let busy: u64 =
        ticks.iter().take(7).enumerate().filter(|(at, _)| ![3, 4].contains(at)).map(|(_, t)| t).sum();
    busy as f64 / 100.0
}
