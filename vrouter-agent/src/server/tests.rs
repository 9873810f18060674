use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agent_api::{DetachPort, DetachedPort, ErrorKind, PortKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const SHORT: Duration = Duration::from_millis(50);

/// Limits that no test reaches, on however busy a machine.
fn limits() -> Limits {
    let long = Duration::from_secs(60);
    Limits { head_time: long, body_time: long, queue_time: long, answer_time: long, ..Limits::default() }
}

/// Limits that a test can wait for.
fn hasty() -> Limits {
    Limits { head_time: SHORT, body_time: SHORT, queue_time: SHORT, answer_time: SHORT, ..Limits::default() }
}

struct Served {
    path: PathBuf,
    calls: mpsc::Receiver<Call>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn served(limits: Limits) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = bind(&path).await.unwrap();
    let (sender, calls) = mpsc::channel(1);
    let server = tokio::spawn(serve_within(listener, sender, limits));
    Served { path, calls, server, _dir: dir }
}

/// Sends raw octets, and returns all that comes back until the server closes.
async fn raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8_lossy(&reply).into_owned()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn status_of(reply: &str) -> &str {
    reply.get(9..12).unwrap_or(reply)
}

fn error_of(reply: &str) -> ApiError {
    let body = reply.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

#[tokio::test]
async fn socket_is_for_root_alone_from_the_start() {
    let served = served(limits()).await;
    assert_eq!(std::fs::metadata(&served.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn live_socket_is_not_replaced() {
    let served = served(limits()).await;
    let error = bind(&served.path).await.unwrap_err();
    assert!(matches!(error, BindError::Served(_)), "{error}");
    assert_eq!(status_of(&raw(&served.path, &get("/nowhere")).await), "404");
}

#[tokio::test]
async fn socket_of_a_dead_agent_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/agent.sock");
    drop(bind(&path).await.unwrap());
    assert!(path.exists());
    bind(&path).await.unwrap();
}

#[tokio::test]
async fn file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&path).await, Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn call_reaches_the_loop_and_its_answer_the_caller() {
    let mut served = served(limits()).await;
    let path = served.path.clone();
    let client = tokio::task::spawn_blocking(move || {
        let mut client = agent_api::Client::connect(path, Duration::from_secs(20)).unwrap();
        let key = PortKey { container: "c1".into(), interface: "eth0".into() };
        client.detach(&DetachPort { key })
    });
    let call = served.calls.recv().await.unwrap();
    let Request::Detach(request) = call.request else { panic!("{:?}", call.request) };
    assert_eq!(request.key.to_string(), "c1/eth0");
    let reply = DetachedPort { existed: true, host_interface: Some("vr0".into()) };
    call.reply.send(Ok(Reply::Detached(reply.clone()))).unwrap();
    assert_eq!(client.await.unwrap().unwrap(), reply);
}

#[tokio::test]
async fn refusal_of_the_loop_keeps_its_kind() {
    let mut served = served(limits()).await;
    let (path, request) = (served.path.clone(), get("/v1/show/vrfs"));
    let (reply, ()) = tokio::join!(raw(&path, &request), async {
        let call = served.calls.recv().await.unwrap();
        assert_eq!(call.request, Request::Vrfs);
        call.reply.send(Err(ApiError::new(ErrorKind::NotAdmitted, "no"))).unwrap();
    });
    assert_eq!(status_of(&reply), "403");
    assert_eq!(error_of(&reply), ApiError::new(ErrorKind::NotAdmitted, "no"));
}

#[tokio::test]
async fn wrong_paths_and_methods_say_what_would_be_right() {
    let served = served(limits()).await;
    let reply = raw(&served.path, &get("/v2/status")).await;
    assert_eq!(status_of(&reply), "404");
    assert!(error_of(&reply).message.contains("/v2/status"));
    let reply = raw(&served.path, &post("/v1/status", "{}")).await;
    assert_eq!(status_of(&reply), "405");
    assert!(reply.contains("allow: GET\r\n"), "{reply}");
    assert!(error_of(&reply).message.contains("takes GET, not POST"));
    assert_eq!(status_of(&raw(&served.path, &get("/v1/ports/attach")).await), "405");
}

#[tokio::test]
async fn bad_json_says_what_and_where() {
    let served = served(limits()).await;
    for (body, expected) in [
        ("", "the body is empty"),
        ("{", "line 1 column 1"),
        ("{\"key\":{\"container\":\"c\",\"interface\":\"e\"},\"colour\":1}", "unknown field `colour`"),
        ("{\"key\":{\"container\":\"c\"}}", "missing field `interface`"),
        ("[]", "the body is no DetachPort"),
    ] {
        let reply = raw(&served.path, &post("/v1/ports/detach", body)).await;
        assert_eq!(status_of(&reply), "400", "{body}");
        assert!(error_of(&reply).message.contains(expected), "{body}: {reply}");
    }
}

#[tokio::test]
async fn bad_queries_say_what() {
    let served = served(limits()).await;
    for (path, expected) in [
        ("/v1/show/bgp/neighbors?address=x", "address=x"),
        ("/v1/show/bgp/routes?family=ipv4", "vpnv4, vpnv6 or rtc"),
        ("/v1/show/bgp/routes?received=true", "needs a `neighbor`"),
        ("/v1/show/bgp/routes?rt=1:1", "no route target"),
        ("/v1/show/routes?prefix=10.0.0.0/33", "no prefix"),
        ("/v1/show/routes?vrf=%zz", "percent-encoded"),
        ("/v1/show/routes?vrf=a&vrf=b", "twice"),
        ("/v1/show/ports?colour=red", "colour"),
    ] {
        let reply = raw(&served.path, &get(path)).await;
        assert_eq!(status_of(&reply), "400", "{path}");
        assert!(error_of(&reply).message.contains(expected), "{path}: {reply}");
    }
}

#[tokio::test]
async fn every_filter_arrives() {
    let mut served = served(limits()).await;
    let filter = RouteFilter {
        family: Some("vpnv4".into()),
        rd: Some("192.0.2.11:1".parse().unwrap()),
        rt: Some("target:64512:100".parse().unwrap()),
        neighbor: Some("2001:db8::1".parse().unwrap()),
        received: Some(false),
        prefix: Some("10.0.0.0/8".parse().unwrap()),
    };
    let target = agent_api::path::Target::bgp_routes(&filter);
    let _caller = {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(&get(target.as_str())).await.unwrap();
        stream
    };
    assert_eq!(served.calls.recv().await.unwrap().request, Request::BgpRoutes(filter));
}

#[tokio::test]
async fn large_body_is_refused_by_its_announced_and_by_its_real_length() {
    let served = served(Limits { body: 1024, ..limits() }).await;
    let reply = raw(&served.path, &post("/v1/trace", &" ".repeat(1025))).await;
    assert_eq!(status_of(&reply), "413");
    assert_eq!(error_of(&reply).kind, ErrorKind::TooLarge);
    let head = b"POST /v1/trace HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024)).repeat(2);
    assert_eq!(status_of(&raw(&served.path, &[head.as_slice(), chunk.as_bytes()].concat()).await), "413");
    assert_eq!(status_of(&raw(&served.path, &post("/v1/trace", &" ".repeat(1024))).await), "400");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let served = served(hasty()).await;
    let long_head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 2 * MAX_HEAD]].concat();
    for bytes in [b"\x16\x03\x01\x02\x00\x01\x00".as_slice(), b"GET\r\n\r\n", b"\0", b"", &long_head] {
        let reply = raw(&served.path, bytes).await;
        assert!(!reply.starts_with("HTTP/1.1 2"), "{reply}");
    }
    assert_eq!(status_of(&raw(&served.path, &get("/nowhere")).await), "404");
}

#[tokio::test]
async fn slow_heads_and_bodies_lose_their_place() {
    // One connection at a time: the last is served only because the slow ones were closed.
    let served = served(Limits { connections: 1, ..hasty() }).await;
    let mut slow_head = UnixStream::connect(&served.path).await.unwrap();
    slow_head.write_all(b"GET /v1/sta").await.unwrap();
    let mut slow_body = UnixStream::connect(&served.path).await.unwrap();
    slow_body.write_all(b"POST /v1/trace HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    let mut idle = UnixStream::connect(&served.path).await.unwrap();
    assert_eq!(status_of(&raw(&served.path, &get("/nowhere")).await), "404");
    let mut reply = String::new();
    slow_body.read_to_string(&mut reply).await.unwrap();
    assert!(error_of(&reply).message.contains("in time"), "{reply}");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert_ne!(status_of(&read_rest(&mut slow_head).await), "200");
}

#[tokio::test]
async fn reader_that_does_not_read_loses_its_place() {
    let limits = Limits { connections: 1, connection_time: Duration::from_millis(300), ..limits() };
    let mut served = served(limits).await;
    let mut lazy = UnixStream::connect(&served.path).await.unwrap();
    lazy.write_all(&get("/v1/show/tunnels")).await.unwrap();
    let call = served.calls.recv().await.unwrap();
    // More than the socket's buffers hold.
    let offloads = vec!["x".repeat(1 << 20); 8];
    let tunnels = Tunnels { local: None, interface: None, underlay_mtu: 0, offloads, tunnels: vec![] };
    call.reply.send(Ok(Reply::Tunnels(tunnels))).unwrap();
    assert_eq!(status_of(&raw(&served.path, &get("/nowhere")).await), "404");
}

#[tokio::test]
async fn busy_silent_and_absent_loops_are_unavailable() {
    let served = served(hasty()).await;
    // Nobody takes calls: the first fills the queue and is not answered, the second finds no place.
    let silent = raw(&served.path, &get("/v1/status")).await;
    assert_eq!(status_of(&silent), "503");
    assert!(error_of(&silent).message.contains("did not answer in time"), "{silent}");
    let busy = raw(&served.path, &get("/v1/status")).await;
    assert_eq!(error_of(&busy).kind, ErrorKind::Unavailable);
    assert!(error_of(&busy).message.contains("busy"), "{busy}");
}

#[tokio::test]
async fn loop_that_goes_is_unavailable() {
    let mut served = served(limits()).await;
    let mut waiting = UnixStream::connect(&served.path).await.unwrap();
    waiting.write_all(&get("/v1/status")).await.unwrap();
    drop(served.calls.recv().await.unwrap());
    let reply = read_rest(&mut waiting).await;
    assert!(error_of(&reply).message.contains("stopped before it answered"), "{reply}");
    served.calls.close();
    let reply = raw(&served.path, &get("/v1/status")).await;
    assert_eq!(status_of(&reply), "503");
    assert!(error_of(&reply).message.contains("stopping"), "{reply}");
}

async fn read_rest(stream: &mut UnixStream) -> String {
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn metrics_are_plain_text_at_their_path_and_nowhere_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut calls) = mpsc::channel::<Call>(1);
    let server = tokio::spawn(metrics::serve_on(listener, sender));
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            assert_eq!(call.request, Request::Metrics);
            let _ = call.reply.send(Ok(Reply::Metrics("# HELP x y\n# TYPE x gauge\nx 1\n".to_owned())));
        }
    });
    let exchange = |bytes: Vec<u8>| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8(reply).unwrap()
    };
    let reply = exchange(get("/metrics")).await;
    assert_eq!(status_of(&reply), "200");
    assert!(reply.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{reply}");
    assert!(reply.ends_with("\r\n\r\n# HELP x y\n# TYPE x gauge\nx 1\n"), "{reply}");
    assert_eq!(status_of(&exchange(get("/v1/status")).await), "404");
    assert_eq!(status_of(&exchange(post("/metrics", "")).await), "405");
    assert_eq!(status_of(&exchange(b"nonsense\r\n\r\n".to_vec()).await), "400");
    server.abort();
}

fn session(lines: u64) -> agent_api::MonitorEvent {
    agent_api::MonitorEvent::Lost { lines }
}

/// Answers one request to watch with these lines, and returns what says more.
async fn watch(served: &mut Served, first: u64) -> tokio::sync::broadcast::Sender<agent_api::MonitorEvent> {
    let (events, receiver) = tokio::sync::broadcast::channel(4);
    let call = served.calls.recv().await.unwrap();
    assert_eq!(call.request, Request::Monitor);
    call.reply.send(Ok(Reply::Monitor(Monitor::new(vec![session(first)], receiver)))).unwrap();
    events
}

#[tokio::test]
async fn a_monitor_is_lines_until_the_agent_stops() {
    let mut served = served(limits()).await;
    let path = served.path.clone();
    let client = tokio::task::spawn_blocking(move || {
        let client = agent_api::Client::connect(path, Duration::from_secs(60)).unwrap();
        let mut lines = Vec::new();
        let ended = client.stream(agent_api::path::BGP_MONITOR, |line| {
            lines.push(serde_json::from_str::<agent_api::MonitorEvent>(line).unwrap());
            true
        });
        (ended.is_ok(), lines)
    });
    let events = watch(&mut served, 1).await;
    events.send(session(2)).unwrap();
    drop(events);
    assert_eq!(client.await.unwrap(), (true, vec![session(1), session(2)]));
}

#[tokio::test]
async fn a_monitor_outlives_other_connections_and_there_are_only_so_many() {
    let mut served = served(Limits { connection_time: SHORT, ..limits() }).await;
    let mut kept = Vec::new();
    for _ in 0..lines::STREAMS {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(&get(agent_api::path::BGP_MONITOR)).await.unwrap();
        let events = watch(&mut served, 7).await;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        kept.push((stream, events));
    }
    let path = served.path.clone();
    let ninth = tokio::spawn(async move { raw(&path, &get(agent_api::path::BGP_MONITOR)).await });
    let _events = watch(&mut served, 7).await;
    let reply = ninth.await.unwrap();
    assert!(error_of(&reply).message.contains("monitors and captures run already"), "{reply}");
    // Twice the time after which another connection is closed.
    tokio::time::sleep(SHORT * 3).await;
    for (mut stream, events) in kept {
        events.send(session(99)).unwrap();
        drop(events);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("\"lines\":99") && rest.ends_with("0\r\n\r\n"), "{rest}");
    }
}
