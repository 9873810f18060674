//! The program itself, against a scripted agent: what it asks, what it prints, how it exits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::JoinHandle;

/// Runs `vrouterctl` with this socket; the words of `line` are its further arguments.
fn vrouterctl(socket: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vrouterctl"))
        .arg("--socket")
        .arg(socket)
        .args(line.split_whitespace())
        .output()
        .unwrap()
}

/// An agent that answers one request and returns it.
fn agent(socket: &Path, status: &'static str, reply: &'static str) -> JoinHandle<String> {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", reply.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(reply.as_bytes()).unwrap();
        request
    })
}

fn read_request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "the request broke off: {text:?}");
        bytes.extend_from_slice(&chunk[..count]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// One call: its output, and what the agent was asked.
fn call(line: &str, status: &'static str, reply: &'static str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let agent = agent(&socket, status, reply);
    let output = vrouterctl(&socket, line);
    (output, agent.join().unwrap())
}

#[test]
fn table_goes_to_stdout_and_exit_code_is_0() {
    let (output, request) = call("show labels", "200 OK", r#"{"labels":[{"label":16,"state":"resting"}]}"#);
    assert!(request.starts_with("GET /v1/show/labels HTTP/1.1\r\n"), "{request}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "Label  State    Port  VRF  Interface\n   16  resting     -  -    -\n");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn json_is_the_reply_with_what_this_version_does_not_know() {
    let (output, _) = call("--json show labels", "200 OK", r#"{"labels":[],"later":{"x":1}}"#);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({"labels": [], "later": {"x": 1}}));
}

#[test]
fn filters_travel_in_the_query() {
    let reply = r#"{"routes":{},"totalPrefixCounter":0,"totalPathCounter":0}"#;
    let line = "show bgp routes --family vpnv4 --rt 64512:100 --neighbor 192.0.2.1 --advertised 10.0.0.0/8";
    let (output, request) = call(line, "200 OK", reply);
    let expected = "GET /v1/show/bgp/routes?family=vpnv4&rt=target:64512:100&neighbor=192.0.2.1&received=false\
                    &prefix=10.0.0.0/8 HTTP/1.1\r\n";
    assert!(request.starts_with(expected), "{request}");
    assert_eq!(text(&output.stdout), "There are no such routes.\n");
}

#[test]
fn port_add_attaches_a_tap_by_its_own_name() {
    let reply = r#"{"port":3,"vrf":"v","label":19,"addresses":["10.0.0.9"],"mtu":1468,"gateway4":"169.254.1.1",
                    "gateway6":"fe80::1","gatewayMac":"00:00:5e:00:01:00"}"#;
    let line =
        "port add --vrf v --interface tap0 --mac 52:54:00:12:34:56 --address 10.0.0.9 --prefix 10.9.0.0/16";
    let (output, request) = call(line, "200 OK", reply);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/ports/attach HTTP/1.1\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "key": {"container": "tap0", "interface": "tap0"}, "kind": "tap", "hostInterface": "tap0",
            "mac": "52:54:00:12:34:56", "vrf": "v", "addresses": ["10.0.0.9"], "prefixes": ["10.9.0.0/16"],
        })
    );
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("tap0 is port 3 in VRF v, label 19, MTU 1468\n"));
}

#[test]
fn refusal_is_exit_code_1_with_the_agents_words() {
    let reply = r#"{"kind":"notFound","message":"there is no VRF blue"}"#;
    let (output, _) = call("trace --vrf blue 10.0.0.1 10.0.0.2", "404 Not Found", reply);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "vrouterctl: there is no VRF blue\n");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn status_is_a_verdict() {
    let healthy = r#"{"name":"gw","version":"0","uptimeMsec":1,"ready":true,"problems":[],"ports":0,
                      "established":0,"neighbors":0}"#;
    let (output, request) = call("status", "200 OK", healthy);
    assert!(request.starts_with("GET /v1/status HTTP/1.1\r\n"), "{request}");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("gw is healthy\n"));
    let ill = r#"{"name":"gw","version":"0","uptimeMsec":1,"ready":true,"problems":["no uplink"],"ports":0,
                  "established":0,"neighbors":0}"#;
    let (output, _) = call("status", "200 OK", ill);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).starts_with("gw has 1 problem:\n  no uplink\n"));
    let (output, _) = call("--json status", "200 OK", ill);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["problems"][0], "no uplink");
}

#[test]
fn reload_says_what_changed_or_every_mistake() {
    let reply = r#"{"changed":["VRF b added"],"needsRestart":["[bgp] asn"]}"#;
    let (output, request) = call("reload", "200 OK", reply);
    assert!(request.starts_with("POST /v1/reload HTTP/1.1\r\n"), "{request}");
    assert_eq!(output.status.code(), Some(0));
    let out = text(&output.stdout);
    assert!(out.contains("VRF b added") && out.contains("after a restart only:\n  [bgp] asn"), "{out}");
    let refusal = r#"{"kind":"badRequest","message":"agent.toml:2: unknown key \"x\""}"#;
    let (output, _) = call("reload", "400 Bad Request", refusal);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "vrouterctl: agent.toml:2: unknown key \"x\"\n");
}

/// An agent that says these lines to whoever watches, and stops.
fn watched(line: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream);
        assert!(request.starts_with("GET /v1/monitor/bgp HTTP/1.1\r\n"), "{request}");
        let event =
            "{\"event\":\"session\",\"atEpochMsec\":0,\"peer\":\"192.0.2.1\",\"state\":\"Established\"}\n";
        let (one, two) = event.split_at(20);
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let all = format!("{head}{}{}0\r\n\r\n", chunk(one), chunk(two));
        stream.write_all(all.as_bytes()).unwrap();
    });
    let output = vrouterctl(&socket, line);
    agent.join().unwrap();
    output
}

#[test]
fn monitor_prints_lines_and_says_when_the_agent_stops() {
    let output = watched("monitor bgp");
    assert_eq!(text(&output.stdout), "00:00:00.000Z session 192.0.2.1 Established\n");
    assert!(text(&output.stderr).starts_with("The agent has stopped"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
    let output = watched("--json monitor bgp");
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["state"]), (1, &serde_json::json!("Established")));
}

#[test]
fn monitor_ends_well_with_an_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_vrouterctl"))
        .arg("--socket")
        .arg(&socket)
        .args(["monitor", "bgp"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut stream);
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx\n\r\n").unwrap();
    let mut first = [0; 2];
    watcher.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"x\n");
    assert!(Command::new("kill").args(["-INT", &watcher.id().to_string()]).status().unwrap().success());
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "\nThat is all; the agent goes on.\n");
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let output = vrouterctl(&dir.path().join("none.sock"), "show bgp routes --family ipv4");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("vpnv4"), "{}", text(&output.stderr));
}

#[test]
fn absent_agent_is_exit_code_3_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = vrouterctl(&dir.path().join("none.sock"), "show vrfs");
    assert_eq!(output.status.code(), Some(3));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("none.sock") && stderr.contains("systemctl start vrouter-agent"), "{stderr}");
}

#[test]
fn agent_that_speaks_another_protocol_is_exit_code_3() {
    let (output, _) = call("show vrfs", "200 OK", "[1,2,3]");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("another version"), "{}", text(&output.stderr));
}

#[test]
fn agent_that_is_stuck_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    // Its queue takes the connection; nobody ever accepts it.
    let _listener = UnixListener::bind(&socket).unwrap();
    let output = vrouterctl(&socket, "--timeout 1 show vrfs");
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("did not answer within"), "{}", text(&output.stderr));
}
