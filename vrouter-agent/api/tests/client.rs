//! The client against a scripted agent: what it makes of short reads, silence, garbage and too much.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use agent_api::{ApiError, Client, ClientError, DetachPort, DetachedPort, PortKey, ProtocolError, path};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(60);

/// What the agent does on one connection, after it has read a request.
type Scene = Box<dyn FnOnce(&mut UnixStream) + Send>;

/// An agent that plays its scenes, one connection each, and returns the requests it read.
struct Agent {
    path: PathBuf,
    thread: JoinHandle<Vec<String>>,
    _dir: tempfile::TempDir,
}

fn agent(scenes: Vec<Scene>) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for scene in scenes {
            let (mut stream, _) = listener.accept().unwrap();
            requests.push(read_request(&mut stream));
            scene(&mut stream);
        }
        requests
    });
    Agent { path, thread, _dir: dir }
}

fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return text,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn says(text: &'static str) -> Scene {
    Box::new(move |stream| {
        let _ = stream.write_all(text.as_bytes());
    })
}

fn silent() -> Scene {
    Box::new(|stream| {
        // Until the client gives up.
        let _ = stream.read(&mut [0; 1]);
    })
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn detach() -> DetachPort {
    DetachPort { key: PortKey { container: "c1".into(), interface: "eth0".into() } }
}

fn call(scenes: Vec<Scene>, timeout: Duration) -> (Result<DetachedPort, ClientError>, Vec<String>) {
    let agent = agent(scenes);
    let result = Client::connect(&agent.path, timeout).and_then(|mut client| client.detach(&detach()));
    (result, agent.thread.join().unwrap())
}

#[test]
fn absent_agent_is_known_at_connect() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(dir.path().join("none.sock"), LONG).unwrap_err();
    assert!(
        matches!(&error, ClientError::Unreachable { source, .. } if source.kind() == ErrorKind::NotFound),
        "{error}"
    );
    assert!(error.to_string().contains("none.sock"), "{error}");
}

#[test]
fn stale_socket_file_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    drop(UnixListener::bind(&path).unwrap());
    let error = Client::connect(&path, LONG).unwrap_err();
    assert!(
        matches!(&error, ClientError::Unreachable { source, .. } if source.kind() == ErrorKind::ConnectionRefused)
    );
}

#[test]
fn path_too_long_for_a_socket_is_unreachable() {
    let error = Client::connect(format!("/tmp/{}", "x".repeat(200)), LONG).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[test]
fn full_queue_ends_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    // An agent that accepts nothing: connects succeed until its queue is full.
    let _listener = UnixListener::bind(&path).unwrap();
    let mut held = Vec::new();
    let error = loop {
        match Client::connect(&path, SHORT) {
            Ok(client) => held.push(client),
            Err(error) => break error,
        }
        assert!(held.len() < 10_000, "the queue is never full");
    };
    assert!(matches!(error, ClientError::Timeout(SHORT)), "{error}");
}

#[test]
fn request_is_what_the_agent_reads() {
    let (result, requests) =
        call(vec![Box::new(|s| s.write_all(ok("{\"existed\":true}").as_bytes()).unwrap())], LONG);
    assert_eq!(result.unwrap(), DetachedPort { existed: true, host_interface: None });
    assert_eq!(
        requests[0],
        "POST /v1/ports/detach HTTP/1.1\r\nHost: vrouter\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: 45\r\n\r\n\
         {\"key\":{\"container\":\"c1\",\"interface\":\"eth0\"}}"
    );
}

#[test]
fn reply_in_single_octets_is_put_together() {
    let (result, _) = call(
        vec![Box::new(|stream| {
            for octet in ok("{\"existed\":false,\"hostInterface\":\"vr0\"}").bytes() {
                stream.write_all(&[octet]).unwrap();
            }
        })],
        LONG,
    );
    assert_eq!(result.unwrap().host_interface.as_deref(), Some("vr0"));
}

#[test]
fn two_calls_share_a_connection() {
    let agent = agent(vec![Box::new(|stream| {
        stream.write_all(ok("{\"existed\":true}").as_bytes()).unwrap();
        assert!(read_request(stream).starts_with("POST"));
        stream.write_all(ok("{\"existed\":false}").as_bytes()).unwrap();
    })]);
    let mut client = Client::connect(&agent.path, LONG).unwrap();
    assert!(client.detach(&detach()).unwrap().existed);
    assert!(!client.detach(&detach()).unwrap().existed);
    agent.thread.join().unwrap();
}

#[test]
fn connection_closed_meanwhile_is_opened_again_once() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"existed\":true}";
    let (result, requests) = call(vec![says(""), says(answer)], LONG);
    assert!(result.unwrap().existed);
    assert_eq!(requests[0], requests[1]);
    let (result, _) = call(vec![says(""), says("")], LONG);
    assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::Closed))));
}

#[test]
fn connection_that_the_agent_closes_is_not_used_again() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"existed\":true}";
    let agent = agent(vec![says(answer), says(answer)]);
    let mut client = Client::connect(&agent.path, LONG).unwrap();
    assert!(client.detach(&detach()).unwrap().existed);
    assert!(client.detach(&detach()).unwrap().existed);
    assert_eq!(agent.thread.join().unwrap().len(), 2);
}

#[test]
fn silence_ends_at_the_deadline() {
    let (result, _) = call(vec![silent()], SHORT);
    assert!(matches!(result, Err(ClientError::Timeout(SHORT))), "{result:?}");
}

#[test]
fn trickle_ends_at_the_deadline() {
    // Each octet comes in time; all of them together do not.
    let (result, _) = call(
        vec![Box::new(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        })],
        SHORT,
    );
    assert!(matches!(result, Err(ClientError::Timeout(_))), "{result:?}");
}

#[test]
fn refusal_is_the_agents_own_words() {
    let body = "{\"kind\":\"notAdmitted\",\"message\":\"VRF a admits only b\"}";
    let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (result, _) = call(vec![Box::new(move |s| s.write_all(head.as_bytes()).unwrap())], LONG);
    let Err(ClientError::Refused(ApiError { message, .. })) = result else { panic!("{result:?}") };
    assert_eq!(message, "VRF a admits only b");
}

#[test]
fn garbage_is_named() {
    type Check = fn(&ProtocolError) -> bool;
    let cases: [(&'static str, Check); 10] = [
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", |e| matches!(e, ProtocolError::Head(_))),
        ("\u{0}\u{1}\u{2}", |e| matches!(e, ProtocolError::Head(_))),
        ("HTTP/1.1 200 OK\r\n\r\n{}", |e| matches!(e, ProtocolError::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", |e| matches!(e, ProtocolError::Length)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", |e| {
            matches!(e, ProtocolError::Length)
        }),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", |e| {
            matches!(e, ProtocolError::Length)
        }),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", |e| {
            matches!(e, ProtocolError::TooLarge(99_999_999_999))
        }),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", |e| matches!(e, ProtocolError::Closed)),
        ("HTTP/1.1 200 OK\r\nContent-Len", |e| matches!(e, ProtocolError::Closed)),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\n<p>", |e| {
            matches!(e, ProtocolError::Json { status: 502, .. })
        }),
    ];
    for (text, expected) in cases {
        let (result, _) = call(vec![says(text)], LONG);
        let Err(ClientError::Protocol(error)) = result else { panic!("{text:?}: {result:?}") };
        assert!(expected(&error), "{text:?}: {error}");
    }
}

#[test]
fn endless_head_is_cut_off() {
    let (result, _) = call(
        vec![Box::new(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        })],
        LONG,
    );
    assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::HeadTooLong))), "{result:?}");
}

#[test]
fn reply_larger_than_the_bound_is_refused_before_it_is_read() {
    let agent = agent(vec![says("HTTP/1.1 200 OK\r\nContent-Length: 1025\r\n\r\n")]);
    let mut client = Client::connect(&agent.path, LONG).unwrap().with_max_reply(1024);
    let result = client.get::<serde_json::Value>(path::DROPS);
    assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::TooLarge(1025)))), "{result:?}");
}

#[test]
fn refusal_before_the_request_was_read_is_still_heard() {
    let body = "{\"kind\":\"tooLarge\",\"message\":\"too large\"}";
    let head = format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    });
    let mut client = Client::connect(&path, LONG).unwrap();
    let result: Result<(), _> = client.post("/v1/trace", &"x".repeat(4 << 20));
    assert!(
        matches!(&result, Err(ClientError::Refused(error)) if error.message == "too large"),
        "{result:?}"
    );
    thread.join().unwrap();
}

#[test]
fn path_cannot_smuggle_a_second_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path, LONG).unwrap();
    let result = client.get::<()>("/v1/status HTTP/1.1\r\nX: y");
    assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::Path))), "{result:?}");
}
