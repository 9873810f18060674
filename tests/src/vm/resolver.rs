//! A name server that knows a few names, by UDP and TCP.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::echo::Server;
use crate::netns::Namespace;

const HEADER: usize = 12;

/// The server.
pub struct Resolver {
    _streams: Server,
    ended: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Serves these names on port 53 of every address of a namespace.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(namespace: &Namespace, names: &[(&str, IpAddr)]) -> Resolver {
        let names: Arc<[(String, IpAddr)]> =
            names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let any = SocketAddr::from(([0, 0, 0, 0], 53));
        let for_streams = Arc::clone(&names);
        let streams = Server::tcp_with(namespace, 53, move |mut stream| {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query)?;
            let answer = answer(&query, &for_streams).ok_or(io::ErrorKind::InvalidData)?;
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())
        });
        let socket =
            namespace.run(|| UdpSocket::bind(any)).unwrap_or_else(|error| panic!("port 53: {error}"));
        let timed = socket.set_read_timeout(Some(Duration::from_millis(100)));
        timed.unwrap_or_else(|error| panic!("port 53: {error}"));
        let (ended, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (flag, count) = (Arc::clone(&ended), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !flag.load(Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
                count.fetch_add(1, Relaxed);
                if let Some(answer) = buffer.get(..len).and_then(|query| answer(query, &names)) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Resolver { _streams: streams, ended, asked, thread: Some(thread) }
    }

    /// How many datagrams it got.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ended.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The address of a name, or that there is no such name (NXDOMAIN) or none of that family.
fn answer(query: &[u8], names: &[(String, IpAddr)]) -> Option<Vec<u8>> {
    let mut labels: Vec<String> = Vec::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(HEADER..at + 4)?;
    let name = labels.join(".");
    let known: Vec<IpAddr> =
        names.iter().filter(|(it, _)| *it == name).map(|(_, address)| *address).collect();
    let octets = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(address), 1) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), 28) => Some(address.octets().to_vec()),
        _ => None,
    };
    let records: Vec<Vec<u8>> = known.iter().filter_map(octets).collect();
    let code = if known.is_empty() { 3 } else { 0 };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x85, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(question);
    for record in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60, 0, u8::try_from(record.len()).ok()?]);
        answer.extend(record);
    }
    Some(answer)
}
