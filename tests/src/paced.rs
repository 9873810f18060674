//! A stream of numbered datagrams at an even pace, from which every one that is lost, doubled or overtaken is known,
//! and the longest silence at the far end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::netns::Namespace;
use crate::sys;

/// How long the receiver waits for the last ones.
const QUIET: Duration = Duration::from_millis(700);

/// A stream under way.
pub struct Paced {
    name: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<io::Result<()>>>,
    receiver: Option<JoinHandle<Heard>>,
}

/// What arrived of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacedReport {
    /// Between whom.
    pub name: String,
    /// How many were sent.
    pub sent: u64,
    /// How many of them arrived.
    pub received: u64,
    /// How many arrived more than once.
    pub doubled: u64,
    /// How many arrived behind a later one.
    pub overtaken: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    seen: Vec<bool>,
    doubled: u64,
    overtaken: u64,
    longest_gap: Duration,
}

impl PacedReport {
    /// How many did not arrive.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

impl Paced {
    /// Begins a stream from one namespace to an address in another: so many datagrams of 256 octets per second.
    ///
    /// # Panics
    /// When its sockets cannot be made.
    pub fn begin(name: &str, from: &Namespace, to: &Namespace, address: IpAddr, per_second: u32) -> Paced {
        let sockets = || -> io::Result<(UdpSocket, UdpSocket)> {
            let receiver = to.run(|| UdpSocket::bind((address, 0)))?;
            let port = receiver.local_addr()?.port();
            receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
            sys::grow_receive_buffer(&receiver);
            let any: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let sender = from.run(|| UdpSocket::bind((any, 0)))?;
            sender.connect(SocketAddr::new(address, port))?;
            Ok((sender, receiver))
        };
        let (sender, receiver) = sockets().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let sending = thread::spawn(move || send(&sender, per_second, &seen, &count));
        let is_over = Arc::clone(&stop);
        let receiving = thread::spawn(move || receive(&receiver, &is_over));
        Paced { name: name.to_owned(), stop, sent, sender: Some(sending), receiver: Some(receiving) }
    }

    /// How many have been sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and says what arrived.
    ///
    /// # Panics
    /// When the kernel refused a datagram.
    pub fn end(mut self) -> PacedReport {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().map(JoinHandle::join);
        let heard = self.receiver.take().map(JoinHandle::join);
        let (Some(Ok(sent)), Some(Ok(heard))) = (sent, heard) else { panic!("{}: a thread died", self.name) };
        sent.unwrap_or_else(|error| panic!("{}: send: {error}", self.name));
        PacedReport {
            name: self.name.clone(),
            sent: self.sent.load(Ordering::Relaxed),
            received: heard.seen.iter().map(|seen| u64::from(*seen)).sum(),
            doubled: heard.doubled,
            overtaken: heard.overtaken,
            longest_gap: heard.longest_gap,
        }
    }
}

impl Drop for Paced {
    /// A failed test must not leave a thread in a namespace that is about to go.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

fn send(socket: &UdpSocket, per_second: u32, stop: &AtomicBool, sent: &AtomicU64) -> io::Result<()> {
    let (begin, mut datagram) = (Instant::now(), [0x5a; 256]);
    for number in 0_u32.. {
        let due = begin + Duration::from_secs(1) * number / per_second;
        if let Some(left) = due.checked_duration_since(Instant::now()) {
            thread::sleep(left);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        datagram[..8].copy_from_slice(&u64::from(number).to_be_bytes());
        socket.send(&datagram)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Heard {
    let (mut heard, mut buffer) = (Heard::default(), [0; 512]);
    let (mut last, mut latest) = (None::<Instant>, None::<usize>);
    loop {
        let length = socket.recv(&mut buffer).unwrap_or(0);
        let now = Instant::now();
        let number = buffer.first_chunk().filter(|_| length == 256).map(|octets| u64::from_be_bytes(*octets));
        let Some(number) = number.and_then(|number| usize::try_from(number).ok()) else {
            if stop.load(Ordering::Relaxed) && last.is_none_or(|last| now - last > QUIET) {
                return heard;
            }
            continue;
        };
        heard.longest_gap = heard.longest_gap.max(last.map(|last| now - last).unwrap_or_default());
        last = Some(now);
        heard.seen.resize(heard.seen.len().max(number + 1), false);
        heard.doubled += u64::from(std::mem::replace(&mut heard.seen[number], true));
        heard.overtaken += u64::from(latest.is_some_and(|latest| number < latest));
        latest = latest.max(Some(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{PATIENCE, wait_until};

    #[test]
    fn nothing_is_lost_on_a_loopback() {
        if !sys::is_root() {
            return eprintln!("skipped: it makes a network namespace and needs root");
        }
        let here = Namespace::new("paced");
        here.add_address("lo", "192.0.2.1".parse().unwrap(), 32);
        here.netlink(|netlink| netlink.set_up("lo", true));
        let stream = Paced::begin("loopback", &here, &here, "192.0.2.1".parse().unwrap(), 2000);
        wait_until("some to be sent", PATIENCE, || stream.sent() > 200);
        let report = stream.end();
        assert_eq!((report.lost(), report.doubled, report.overtaken), (0, 0, 0), "{report:?}");
        assert!(report.sent > 200 && report.longest_gap > Duration::ZERO);
    }
}
