//! Servers that answer what they are sent, and the clients that ask them: the smallest proof that two ends meet. Their
//! sockets are made inside a namespace; their threads end when the server is dropped.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::Namespace;

/// How often a server looks whether it shall end.
const TICK: Duration = Duration::from_millis(100);

/// A server thread that ends when it is dropped.
pub struct Server {
    local: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers UDP datagrams on a port of every address, each with the server's name in front.
    pub fn udp(namespace: &Namespace, port: u16, name: &str) -> Server {
        Server::udp_on(namespace, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), name)
    }

    /// Answers UDP datagrams on a port of one address, from that address: an answer from an unbound socket to a
    /// link-local address comes from a link-local address, too (RFC 6724 §5, rule 2).
    pub fn udp_on(namespace: &Namespace, address: SocketAddr, name: &str) -> Server {
        let socket = namespace.run(|| UdpSocket::bind(address));
        let socket = socket.unwrap_or_else(|error| panic!("bind UDP {address}: {error}"));
        let ready = socket.set_read_timeout(Some(TICK)).and_then(|()| socket.local_addr());
        let local = ready.unwrap_or_else(|error| panic!("set up UDP {address}: {error}"));
        let name = name.to_owned();
        Server::start(local, move |ended| {
            let mut buffer = [0; 65535];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        })
    }

    /// Accepts TCP connections on a port of every address, greets each with the server's name and a line end, and then
    /// answers every byte with itself.
    pub fn tcp(namespace: &Namespace, port: u16, name: &str) -> Server {
        let name = name.to_owned();
        Server::tcp_with(namespace, port, move |mut stream| {
            writeln!(stream, "{name}")?;
            let mut reader = stream.try_clone()?;
            io::copy(&mut reader, &mut stream).map(drop)
        })
    }

    /// Accepts TCP connections on a port of every address and gives each to a function on a thread of its own.
    pub fn tcp_with(
        namespace: &Namespace,
        port: u16,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let listener = namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap_or_else(|error| panic!("listen on TCP {port}: {error}"));
        let local = listener.local_addr();
        let local = local.unwrap_or_else(|error| panic!("listen on TCP {port}: {error}"));
        let timed = socket2::SockRef::from(&listener).set_read_timeout(Some(TICK));
        timed.unwrap_or_else(|error| panic!("set up TCP {port}: {error}"));
        let serve = Arc::new(serve);
        Server::start(local, move |ended| {
            while !ended.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = listener.accept() {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                    let serve = Arc::clone(&serve);
                    thread::spawn(move || serve(stream));
                }
            }
        })
    }

    fn start(local: SocketAddr, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Server {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        Server { local, ended, thread: Some(thread::spawn(move || work(&flag))) }
    }

    /// The port it serves.
    pub fn port(&self) -> u16 {
        self.local.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks a UDP server from a namespace and returns the answer; several attempts, one second in all.
pub fn ask_udp(from: &Namespace, to: SocketAddr, question: &str) -> io::Result<String> {
    let socket = from.run(|| UdpSocket::bind((any(to.ip()), 0)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    let mut buffer = [0; 65535];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..4 {
        match socket.send(question.as_bytes()).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Opens a TCP connection from a namespace; three seconds at most.
pub fn connect_tcp(from: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Asks a TCP server from a namespace: reads its greeting, sends a line, reads the same line back. Returns the greeting.
pub fn ask_tcp(from: &Namespace, to: SocketAddr, line: &str) -> io::Result<String> {
    let mut stream = connect_tcp(from, to)?;
    let greeting = read_line(&mut stream)?;
    writeln!(stream, "{line}")?;
    let answer = read_line(&mut stream)?;
    if answer == line {
        Ok(greeting)
    } else {
        Err(io::Error::other(format!("sent {line:?}, got {answer:?} back")))
    }
}

/// Fetches the front page of a web server from a namespace.
pub fn web_page(from: &Namespace, server: IpAddr) -> io::Result<String> {
    let page = web_file(from, server, "")?;
    Ok(String::from_utf8_lossy(&page).trim().to_owned())
}

/// Fetches a file from a web server from a namespace, without the headers.
pub fn web_file(from: &Namespace, server: IpAddr, name: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect_tcp(from, SocketAddr::new(server, 80))?;
    stream.write_all(format!("GET /{name} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = end.and_then(|at| answer.get(at + 4..)).map(<[u8]>::to_vec);
    body.ok_or_else(|| io::Error::other(format!("no web page: {}", String::from_utf8_lossy(&answer))))
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut octet = [0];
    loop {
        stream.read_exact(&mut octet)?;
        match octet {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [other] => line.push(other),
        }
    }
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(read_line(&mut client).unwrap(), "one");
        assert_eq!(read_line(&mut client).unwrap(), "two");
    }
}
