//! The bench's own end of a session: a plain socket that says OPEN and KEEPALIVE and then what it is given.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use vrouter_tests::Namespace;

use crate::recipe::ASN;
use crate::tally::{Reflected, Tally};

/// An established session.
pub(crate) struct Peer {
    stream: TcpStream,
    tally: Arc<Mutex<Tally>>,
    reader: Option<JoinHandle<()>>,
}

impl Peer {
    /// Connects from `from` to a speaker, and waits until the session is established; tries again until the deadline.
    pub(crate) fn establish(
        netns: &Namespace,
        (from, to): (Ipv4Addr, Ipv4Addr),
        with_rtc: bool,
        reflected: Reflected,
    ) -> io::Result<Peer> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            match attempt(netns, from, to, with_rtc) {
                Ok((stream, early)) => return Peer::read_on(stream, &early, reflected),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn read_on(stream: TcpStream, early: &[u8], reflected: Reflected) -> io::Result<Peer> {
        let mut tally = Tally::new(reflected);
        tally.take(early, Instant::now());
        let tally = Arc::new(Mutex::new(tally));
        let (mut source, shared) = (stream.try_clone()?, Arc::clone(&tally));
        source.set_read_timeout(None)?;
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(length @ 1..) = source.read(&mut buffer) {
                let mut tally = shared.lock().unwrap_or_else(PoisonError::into_inner);
                tally.take(&buffer[..length], Instant::now());
            }
        });
        Ok(Peer { stream, tally, reader: Some(reader) })
    }

    /// Writes all of it.
    pub(crate) fn say(&self, octets: &[u8]) -> io::Result<()> {
        (&self.stream).write_all(octets)
    }

    /// Says that it lives.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        self.say(&message(4, &[]))
    }

    /// What it has received.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until as many routes are held as expected: when that was. `None`: nothing moved for so long.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Instant> {
        loop {
            {
                let tally = self.tally();
                if tally.reached.is_some() {
                    return tally.reached;
                }
                // Who has said nothing at all by then will not begin.
                let patience = if tally.first.is_some() { patience } else { patience / 3 };
                if tally.progress.elapsed() > patience {
                    return None;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn attempt(
    netns: &Namespace,
    from: Ipv4Addr,
    to: Ipv4Addr,
    with_rtc: bool,
) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = netns.run(|| -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect_timeout(&SocketAddr::from((to, 179)).into(), Duration::from_secs(5))?;
        Ok(socket.into())
    })?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&open(from, with_rtc))?;
    let mut octets = Vec::new();
    read_past(&mut stream, &mut octets, 1)?;
    stream.write_all(&message(4, &[]))?;
    read_past(&mut stream, &mut octets, 4)?;
    Ok((stream, octets))
}

/// Reads on until a message of this type has come, and takes away everything up to its end.
fn read_past(stream: &mut TcpStream, octets: &mut Vec<u8>, kind: u8) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        while let Some(length) =
            octets.get(16..18).map(|length| usize::from(length[0]) << 8 | usize::from(length[1]))
        {
            if length < 19 || octets.len() < length {
                break;
            }
            let seen = octets[18];
            octets.drain(..length);
            if seen == kind {
                return Ok(());
            }
            if seen == 3 {
                return Err(io::Error::other("NOTIFICATION instead of a session"));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => octets.extend_from_slice(&buffer[..length]),
        }
    }
}

fn open(router_id: Ipv4Addr, with_rtc: bool) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 128];
    if with_rtc {
        capabilities.extend([1, 4, 0, 1, 0, 132]);
    }
    capabilities.extend([65, 4]);
    capabilities.extend(ASN.to_be_bytes());
    capabilities.extend([2, 0]);
    let length = u8::try_from(capabilities.len()).expect("few capabilities");
    let mut body = vec![4];
    body.extend(u16::try_from(ASN).expect("a two-octet AS").to_be_bytes());
    body.extend([0, 180]);
    body.extend(router_id.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("a short message").to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}
