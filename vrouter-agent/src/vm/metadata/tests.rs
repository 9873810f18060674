use super::*;
use std::collections::HashMap;

use dataplane_core::nat::service_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vrouter_types::PortId;

use crate::config::Password;

const PORT: PortId = PortId(7);

fn machine(instance: Option<&str>) -> Machine {
    let address = Some("10.0.0.2".parse().unwrap());
    Machine { instance: instance.map(str::to_owned), project: Some("p-1".to_owned()), address }
}

fn proxy(port: u16, machines: &[(PortId, Machine)]) -> Arc<Proxy> {
    let directory = Directory::new();
    let machines = machines.iter().map(|(port, machine)| (*port, Arc::new(machine.clone())));
    directory.replace(machines.collect::<HashMap<_, _>>());
    let secret = Some(Password(b"secret".to_vec()));
    Arc::new(Proxy::new(MetadataConfig { host: "127.0.0.1".to_owned(), port, secret }, directory))
}

/// A service that answers one request with this, and tells what it heard.
async fn service(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut octets = [0; 1024];
            let len = stream.read(&mut octets).await.unwrap();
            assert_ne!(len, 0);
            heard.extend(&octets[..len]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(heard).unwrap()
    });
    (port, task)
}

/// What a machine behind this port hears when it says this and no more.
async fn say(proxy: &Arc<Proxy>, port: PortId, said: &[u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let peer = SocketAddr::new(service_address(port, true).unwrap(), 40000);
    let share = proxy.admit(peer).unwrap();
    let served = tokio::spawn(serve_connection(stream, peer, Arc::clone(proxy), share));
    client.write_all(said).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    served.await.unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn a_request_goes_on_with_who_asks_signed_and_the_answer_comes_back() {
    let (port, heard) =
        service("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kept: yes\r\nKeep-Alive: 9\r\n\r\nhello").await;
    let proxy = proxy(port, &[(PORT, machine(Some("i-1")))]);
    let said = b"GET /latest/meta-data/?a=b HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Instance-ID: forged\r\nX_Tenant_ID: forged\r\nConnection: close\r\n\r\n";
    let answer = say(&proxy, PORT, said).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(answer.contains("x-kept: yes") && !answer.contains("keep-alive"), "{answer}");
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("GET /latest/meta-data/?a=b HTTP/1.1\r\n"), "{heard}");
    let signed = signature(b"secret", "i-1");
    for line in [
        format!("host: 127.0.0.1:{port}"),
        "x-instance-id: i-1".to_owned(),
        format!("x-instance-id-signature: {signed}"),
        "x-tenant-id: p-1".to_owned(),
        "x-forwarded-for: 10.0.0.2".to_owned(),
    ] {
        assert_eq!(heard.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}: {heard}");
    }
    assert!(!heard.contains("forged"), "{heard}");
}

#[tokio::test]
async fn machines_that_nobody_knows_are_told_so() {
    let proxy = proxy(1, &[(PORT, machine(None))]);
    let said = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let without = say(&proxy, PORT, said).await;
    assert!(without.starts_with("HTTP/1.1 404 ") && without.contains("without an instance"), "{without}");
    let unknown = say(&proxy, PortId(8), said).await;
    assert!(unknown.starts_with("HTTP/1.1 404 ") && unknown.contains("no port"), "{unknown}");
    let strange: SocketAddr = "192.0.2.9:4000".parse().unwrap();
    assert!(proxy.admit(strange).is_none(), "nobody outside of the pipeline is served");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_503_with_its_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let proxy = proxy(port, &[(PORT, machine(Some("i-1")))]);
    let answer = say(&proxy, PORT, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains(&format!("cannot connect to the metadata service at 127.0.0.1:{port}")),
        "{answer}"
    );
}

#[tokio::test]
async fn large_bodies_and_nonsense_are_refused() {
    let proxy = proxy(1, &[(PORT, machine(Some("i-1")))]);
    let large = [
        &b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n"[..],
        &[0; 70_000],
    ]
    .concat();
    let answer = say(&proxy, PORT, &large).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let lines = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    for nonsense in [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", lines.as_bytes(), b"GET / HTTP/1.1\r\n"] {
        let answer = say(&proxy, PORT, nonsense).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test]
async fn one_machine_has_so_many_connections_and_no_more() {
    let proxy = proxy(1, &[]);
    let peer = |port| SocketAddr::new(service_address(PortId(port), true).unwrap(), 40000);
    let held: Vec<_> = (0..CONNECTIONS_EACH + 5).filter_map(|_| proxy.admit(peer(1))).collect();
    assert_eq!(held.len(), CONNECTIONS_EACH);
    assert!(proxy.admit(peer(2)).is_some());
}
