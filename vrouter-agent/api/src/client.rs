//! The one client of the API: blocking, for `vrouterctl` and `vrouter-cni`.
//!
//! ```text
//!  connect ──▶ POST /v1/ports/attach ──▶ head (≤ 16 KiB) ──▶ body (Content-Length, ≤ 64 MiB)
//!     │            └──────────────── one deadline for all of a call ────────────────┘
//!     └ at once, so that an absent agent is known before anything was done
//! ```
//! HTTP/1.1 with `Content-Length` only (RFC 9112 §6): what the agent speaks, but for [`Client::stream`]. Other chunked
//! replies are refused, and so is every reply larger than [`MAX_REPLY`]. Every call of the API can be repeated without harm, so a connection that turns out
//! to be closed before the first octet of the reply is opened again, once.

mod stream;

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{ApiError, AttachPort, AttachedPort, DetachPort, DetachedPort, Status, path};

/// The largest reply that is read.
pub const MAX_REPLY: usize = 64 << 20;
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 32;

/// A connection to the agent. One call at a time.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
    max_reply: usize,
    stream: Option<UnixStream>,
}

/// Why a call brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket, or we may not use it. Nothing was done.
    #[error("cannot reach the agent at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent did not answer in time. It may still do what it was asked to.
    #[error("the agent did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The agent said no.
    #[error(transparent)]
    Refused(ApiError),
    /// What answered does not speak the agent's API.
    #[error("the agent's reply cannot be understood: {0}")]
    Protocol(#[from] ProtocolError),
}

/// What is wrong with a reply (or, for [`ProtocolError::Path`], with a request).
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The path holds octets that would end the request line.
    #[error("the path holds white space or control characters")]
    Path,
    /// The connection ended before the reply did.
    #[error("the connection ended too early")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// Not a head of HTTP/1.
    #[error("not HTTP: {0}")]
    Head(#[from] httparse::Error),
    /// The head is longer than we read.
    #[error("its head is longer than {MAX_HEAD} octets")]
    HeadTooLong,
    /// No `Content-Length`, one that is no number, or a transfer coding.
    #[error("it does not say its length")]
    Length,
    /// The body is longer than we read.
    #[error("it has {0} octets, more than are read")]
    TooLarge(u64),
    /// Not the capture file that this call is answered with.
    #[error(transparent)]
    Pcapng(#[from] crate::pcapng::NotPcapng),
    /// Not the JSON that this call is answered with.
    #[error("HTTP status {status} with unexpected content: {source}")]
    Json {
        /// The HTTP status.
        status: u16,
        /// What serde says.
        source: serde_json::Error,
    },
}

/// A reply as it came: status and body.
struct Reply {
    status: u16,
    keep_alive: bool,
    body: Vec<u8>,
}

/// The part of a head that matters.
struct Head {
    size: usize,
    status: u16,
    length: u64,
    keep_alive: bool,
}

/// Why one exchange failed: the connection was stale (nothing came back), or really.
enum Failure {
    Stale,
    Fatal(ClientError),
}

impl Client {
    /// Connects at once. Each call, and this one, may take as long as `timeout`.
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Client, ClientError> {
        let path = path.as_ref().to_path_buf();
        let stream = dial(&path, timeout)?;
        Ok(Client { path, timeout, max_reply: MAX_REPLY, stream: Some(stream) })
    }

    /// Reads at most this many octets of a reply, instead of [`MAX_REPLY`].
    pub fn with_max_reply(mut self, octets: usize) -> Client {
        self.max_reply = octets;
        self
    }

    /// Joins an interface to a VRF. When this returns, the port is on disk, forwards and is advertised.
    pub fn attach(&mut self, port: &AttachPort) -> Result<AttachedPort, ClientError> {
        self.post(path::ATTACH, port)
    }

    /// Takes a port away. Unknown ports are no error.
    pub fn detach(&mut self, port: &DetachPort) -> Result<DetachedPort, ClientError> {
        self.post(path::DETACH, port)
    }

    /// What [`Client::attach`] answered, if all of it still stands.
    pub fn check(&mut self, port: &AttachPort) -> Result<AttachedPort, ClientError> {
        self.post(path::CHECK, port)
    }

    /// The agent in one screen.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.get(path::STATUS)
    }

    /// Reads what stands at this path (with its query, if any).
    pub fn get<R: DeserializeOwned>(&mut self, path: &str) -> Result<R, ClientError> {
        self.call("GET", path, None)
    }

    /// Sends this body to this path.
    pub fn post<T: Serialize + ?Sized, R: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &T,
    ) -> Result<R, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ProtocolError::Json { status: 0, source })?;
        self.call("POST", path, Some(&body))
    }

    /// Puts this body in the place of whatever is at this path.
    pub fn put<T: Serialize + ?Sized, R: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &T,
    ) -> Result<R, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ProtocolError::Json { status: 0, source })?;
        self.call("PUT", path, Some(&body))
    }

    /// Takes away what is at this path.
    pub fn delete<R: DeserializeOwned>(&mut self, path: &str) -> Result<R, ClientError> {
        self.call("DELETE", path, None)
    }

    fn call<R: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<R, ClientError> {
        let request = encode_request(method, path, body)?;
        let deadline = Instant::now() + self.timeout;
        let reply = self.exchange(&request, deadline)?;
        let wrong = |source| ProtocolError::Json { status: reply.status, source };
        if reply.status == 200 {
            Ok(serde_json::from_slice(&reply.body).map_err(wrong)?)
        } else {
            Err(ClientError::Refused(serde_json::from_slice(&reply.body).map_err(wrong)?))
        }
    }

    fn exchange(&mut self, request: &[u8], deadline: Instant) -> Result<Reply, ClientError> {
        let mut reopened = false;
        loop {
            // Taken, so that a connection in an unknown state is never used again.
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    reopened = true;
                    dial(&self.path, remaining(deadline).ok_or(ClientError::Timeout(self.timeout))?)?
                }
            };
            match self.exchange_on(&mut stream, request, deadline) {
                Ok(reply) => {
                    self.stream = reply.keep_alive.then_some(stream);
                    return Ok(reply);
                }
                Err(Failure::Stale) if !reopened => {}
                Err(Failure::Stale) => return Err(ProtocolError::Closed.into()),
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    fn exchange_on(
        &self,
        stream: &mut UnixStream,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        let mut io = Deadline { stream, deadline, timeout: self.timeout };
        // An agent that refuses the request may answer and close before it has read all of it: the reply counts.
        let sent = io.send(request)?;
        let mut bytes = Vec::new();
        let head = loop {
            if let Some(head) = parse_head(&bytes)? {
                break head;
            }
            if io.receive(&mut bytes, MAX_HEAD)? == 0 {
                return Err(if bytes.is_empty() { Failure::Stale } else { ProtocolError::Closed.into() });
            }
        };
        let length = usize::try_from(head.length).ok().filter(|length| *length <= self.max_reply);
        let length = length.ok_or(ProtocolError::TooLarge(head.length))?;
        let mut body = bytes.split_off(head.size);
        while body.len() < length {
            if io.receive(&mut body, length)? == 0 {
                return Err(ProtocolError::Closed.into());
            }
        }
        // Octets behind the body belong to no request of ours: do not go on with such a connection.
        let keep_alive = head.keep_alive && sent && body.len() == length;
        body.truncate(length);
        Ok(Reply { status: head.status, keep_alive, body })
    }
}

impl From<ProtocolError> for Failure {
    fn from(error: ProtocolError) -> Failure {
        Failure::Fatal(error.into())
    }
}

/// A stream whose every wait ends at one deadline.
struct Deadline<'s> {
    stream: &'s mut UnixStream,
    deadline: Instant,
    timeout: Duration,
}

impl Deadline<'_> {
    /// Whether all of it was taken.
    fn send(&mut self, mut bytes: &[u8]) -> Result<bool, Failure> {
        while !bytes.is_empty() {
            let left = self.left()?;
            let wrote = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write(bytes));
            match wrote {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_closed(&error) => return Ok(false),
                Err(error) => self.judge(error)?,
            }
        }
        Ok(true)
    }

    /// Appends what is there, so that at most `limit` octets are held; 0: the other side has closed.
    fn receive(&mut self, bytes: &mut Vec<u8>, limit: usize) -> Result<usize, Failure> {
        let mut chunk = [0; 8192];
        let room = limit.saturating_sub(bytes.len()).min(chunk.len());
        if room == 0 {
            return Err(ProtocolError::HeadTooLong.into());
        }
        loop {
            let left = self.left()?;
            let chunk = chunk.get_mut(..room).unwrap_or_default();
            match self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(chunk)) {
                Ok(count) => {
                    bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(count);
                }
                Err(error) if is_closed(&error) => return Ok(0),
                Err(error) => self.judge(error)?,
            }
        }
    }

    fn left(&self) -> Result<Duration, Failure> {
        remaining(self.deadline).ok_or(Failure::Fatal(ClientError::Timeout(self.timeout)))
    }

    fn judge(&self, error: io::Error) -> Result<(), Failure> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Err(Failure::Fatal(ClientError::Timeout(self.timeout)))
            }
            _ => Err(ProtocolError::Io(error).into()),
        }
    }
}

/// Connects, waiting no longer than `timeout` for a place in the agent's queue.
fn dial(path: &Path, timeout: Duration) -> Result<UnixStream, ClientError> {
    let unreachable = |source| ClientError::Unreachable { path: path.to_path_buf(), source };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(unreachable)?;
    // For Unix sockets the send timeout bounds connect too (unix(7) says nothing of it, af_unix.c does it).
    socket.set_write_timeout(Some(timeout.max(Duration::from_millis(1)))).map_err(unreachable)?;
    match socket.connect(&SockAddr::unix(path).map_err(unreachable)?) {
        Ok(()) => Ok(UnixStream::from(socket)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ClientError::Timeout(timeout)),
        Err(error) => Err(unreachable(error)),
    }
}

fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted)
}

fn encode_request(method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>, ProtocolError> {
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(ProtocolError::Path);
    }
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: vrouter\r\nAccept: application/json\r\n");
    if let Some(body) = body {
        // Writing to a String cannot fail.
        let _ = write!(head, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    let mut request = head.into_bytes();
    request.extend_from_slice(body.unwrap_or_default());
    Ok(request)
}

/// The head, once it is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ProtocolError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(size) = response.parse(bytes)? else { return Ok(None) };
    let mut length = None;
    let mut keep_alive = response.version == Some(1);
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            // RFC 9112 §6.3: lengths that differ are an error, and what they frame cannot be trusted.
            let value =
                std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<u64>().ok());
            if value.is_none() || (length.is_some() && length != value) {
                return Err(ProtocolError::Length);
            }
            length = value;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(ProtocolError::Length);
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep_alive &= !header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let (status, length) = (response.code.unwrap_or(0), length.ok_or(ProtocolError::Length)?);
    Ok(Some(Head { size, status, length, keep_alive }))
}
