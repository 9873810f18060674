//! Traffic for the demonstration and the benches: TCP bulk and small UDP packets, each end a function that runs in the
//! namespace of its caller and says what it saw.
//!
//! The UDP ends use `sendmmsg` and `recvmmsg`, so that the generator is not what gets measured. Payloads are stamped
//! with a sequence number; the sink counts only datagrams of the expected sizes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::sys::{self, BATCH};

/// The largest datagram payload that the UDP ends carry.
const MAX_DATAGRAM: usize = 1472;

/// What one end of a transfer saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// Octets of payload for TCP, datagrams for UDP.
    pub amount: u64,
    /// From the first to the last of them.
    pub time: Duration,
}

impl Transfer {
    /// Amount per second; zero when nothing came.
    pub fn rate(&self) -> f64 {
        if self.time.is_zero() { 0.0 } else { self.amount as f64 / self.time.as_secs_f64() }
    }

    /// `AMOUNT NANOSECONDS`, for a parent process to read.
    pub fn to_line(&self) -> String {
        format!("{} {}", self.amount, self.time.as_nanos())
    }

    /// The reverse of [`Transfer::to_line`].
    pub fn from_line(line: &str) -> Option<Transfer> {
        let (amount, nanos) = line.trim().split_once(' ')?;
        Some(Transfer { amount: amount.parse().ok()?, time: Duration::from_nanos(nanos.parse().ok()?) })
    }
}

/// Accepts `streams` connections and reads each to its end.
pub fn tcp_sink(listener: &TcpListener, streams: usize) -> io::Result<Transfer> {
    let mut readers = Vec::new();
    for _ in 0..streams {
        let (stream, _) = listener.accept()?;
        readers.push(std::thread::spawn(move || read_to_end(stream)));
    }
    let mut amount = 0;
    let mut longest = Duration::ZERO;
    for reader in readers {
        let transfer = reader.join().map_err(|_| io::Error::other("reader thread panicked"))??;
        amount += transfer.amount;
        longest = longest.max(transfer.time);
    }
    Ok(Transfer { amount, time: longest })
}

fn read_to_end(mut stream: TcpStream) -> io::Result<Transfer> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = vec![0; 256 * 1024];
    let (mut amount, begin) = (0, Instant::now());
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(Transfer { amount, time: begin.elapsed() }),
            n => amount += n as u64,
        }
    }
}

/// Sends for this long over `streams` connections.
pub fn tcp_source(to: SocketAddr, streams: usize, time: Duration) -> io::Result<()> {
    let mut writers = Vec::new();
    for _ in 0..streams {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        writers.push(std::thread::spawn(move || write_for(stream, time)));
    }
    for writer in writers {
        writer.join().map_err(|_| io::Error::other("writer thread panicked"))??;
    }
    Ok(())
}

fn write_for(mut stream: TcpStream, time: Duration) -> io::Result<()> {
    let buffer = vec![0x5a; 128 * 1024];
    let begin = Instant::now();
    while begin.elapsed() < time {
        stream.write_all(&buffer)?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// One octet there and back, `count` times; the round-trip times, sorted.
pub fn tcp_ping_pong(to: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut octet = [0];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        stream.write_all(&octet)?;
        stream.read_exact(&mut octet)?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(times)
}

/// Answers each octet of one connection with itself until it ends.
pub fn tcp_pong(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut octet = [0];
    loop {
        match stream.read(&mut octet)? {
            0 => return Ok(()),
            _ => stream.write_all(&octet)?,
        }
    }
}

/// How the UDP source sends.
#[derive(Debug, Clone, Copy)]
pub struct UdpLoad {
    /// Payload octets per datagram, in turn.
    pub sizes: &'static [usize],
    /// Different source ports.
    pub flows: usize,
    /// Datagrams of one flow in a row, [`BATCH`] at most.
    pub burst: usize,
    /// For how long.
    pub time: Duration,
    /// Datagrams per second; `None`: as fast as it goes.
    pub pace: Option<u64>,
}

/// Sends datagrams and says how many the kernel took.
pub fn udp_source(to: SocketAddr, load: UdpLoad) -> io::Result<Transfer> {
    let any: SocketAddr =
        if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let mut sockets = Vec::new();
    for _ in 0..load.flows.max(1) {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        sockets.push(socket);
    }
    let payload = [0x5a; MAX_DATAGRAM];
    let burst = load.burst.clamp(1, BATCH);
    let (begin, mut sent, mut turn) = (Instant::now(), 0_u64, 0);
    while begin.elapsed() < load.time {
        if let Some(pace) = load.pace {
            let due =
                u64::try_from(begin.elapsed().as_micros() * u128::from(pace) / 1_000_000).unwrap_or(u64::MAX);
            if sent + burst as u64 > due {
                std::thread::sleep(Duration::from_micros(50));
                continue;
            }
        }
        let socket = &sockets[turn % sockets.len()];
        // Every flow gets every size, whatever the numbers of both.
        let sizes =
            load.sizes.iter().cycle().skip((turn * burst + turn / sockets.len()) % load.sizes.len().max(1));
        turn += 1;
        sent += sys::send_many(socket, &payload, sizes.take(burst))?;
    }
    Ok(Transfer { amount: sent, time: begin.elapsed() })
}

/// Counts datagrams of these sizes until none comes for half a second, but for `longest` at most.
pub fn udp_sink(socket: &UdpSocket, sizes: &[usize], longest: Duration) -> io::Result<Transfer> {
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    sys::grow_receive_buffer(socket);
    let deadline = Instant::now() + longest;
    let (mut first, mut last, mut amount) = (None, Instant::now(), 0);
    while Instant::now() < deadline {
        match sys::receive_many(socket, sizes) {
            Ok(count) => {
                last = Instant::now();
                first.get_or_insert(last);
                amount += count;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if first.is_some() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let time = first.map(|first| last - first).unwrap_or_default();
    Ok(Transfer { amount, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_sink_counts_what_the_source_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let source = std::thread::spawn(move || tcp_source(to, 2, Duration::from_millis(50)));
        let transfer = tcp_sink(&listener, 2).unwrap();
        source.join().unwrap().unwrap();
        assert!(transfer.amount >= 2 * 128 * 1024);
        assert_eq!(Transfer::from_line(&transfer.to_line()), Some(transfer));
    }

    #[test]
    fn udp_sink_counts_only_the_expected_sizes() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = sink.local_addr().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(&[0; 7], to).unwrap();
        let load = UdpLoad {
            sizes: &[18, 36],
            flows: 3,
            burst: 4,
            time: Duration::from_millis(20),
            pace: Some(20_000),
        };
        let sent = udp_source(to, load).unwrap();
        let received = udp_sink(&sink, &[18, 36], Duration::from_secs(5)).unwrap();
        assert!(received.amount > 0 && received.amount <= sent.amount);
    }
}
