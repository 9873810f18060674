use super::*;
use std::collections::HashMap;

use crate::vm::Machine;
use dataplane_core::nat::service_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PORT: PortId = PortId(7);

fn forwarder(resolvers: Vec<SocketAddr>) -> Forwarder {
    let directory = Directory::new();
    let machine = Machine { instance: None, project: None, address: None };
    directory.replace(HashMap::from([(PORT, Arc::new(machine))]));
    let mut forwarder = Forwarder::new(Arc::new(Resolvers::fixed(resolvers)), directory);
    forwarder.patience = Duration::from_millis(300);
    forwarder
}

/// A resolver that answers each query with what `answer` makes of it.
async fn resolver(answer: impl Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
            for message in answer(buffer[..len].to_vec()) {
                let _ = socket.send_to(&message, peer).await;
            }
        }
    });
    address
}

fn answered(mut query: Vec<u8>) -> Vec<u8> {
    query[2] |= 0x80;
    query.extend(b"the answer");
    query
}

#[tokio::test]
async fn a_query_goes_on_under_another_number_and_its_answer_comes_back_under_its_own() {
    let (seen, mut numbers) = tokio::sync::mpsc::unbounded_channel();
    let server = resolver(move |query| {
        seen.send(message::number(&query)).unwrap();
        // What a stranger might make up comes first.
        let (mut forged, mut other) = (answered(query.clone()), answered(query.clone()));
        forged[0] ^= 1;
        other[13] ^= 1;
        vec![forged, other, vec![0; 3], query.clone(), answered(query)]
    })
    .await;
    let forwarder = forwarder(vec![server]);
    for _ in 0..3 {
        let query = message::query(0x1234, "a.example");
        assert_eq!(forwarder.resolve(&query).await, answered(query));
    }
    let [a, b, c] = [(); 3].map(|()| numbers.try_recv().unwrap());
    assert!(a != b && b != c, "numbers that do not repeat: {a:?} {b:?} {c:?}");
}

#[tokio::test]
async fn the_next_resolver_is_asked_and_in_the_end_the_machine_is_told() {
    let silent = resolver(|_| Vec::new()).await;
    let good = resolver(|query| vec![answered(query)]).await;
    let query = message::query(9, "a.example");
    assert_eq!(forwarder(vec![silent, good]).resolve(&query).await, answered(query.clone()));
    for nobody in [vec![silent], vec![]] {
        let failed = forwarder(nobody).resolve(&query).await;
        assert!(message::answers(&failed, &query));
        assert_eq!(failed[3] & 0x0f, 2, "SERVFAIL");
    }
}

#[tokio::test]
async fn long_answers_come_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let len = stream.read_u16().await.unwrap();
            let mut query = vec![0; len.into()];
            stream.read_exact(&mut query).await.unwrap();
            let mut answer = answered(query);
            answer.resize(60_000, 7);
            stream.write_u16(60_000).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    let forwarder = Arc::new(forwarder(vec![server]));
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(own.local_addr().unwrap()).await.unwrap();
    let (stream, _) = own.accept().await.unwrap();
    let share = forwarder.connections.take(PORT).unwrap();
    tokio::spawn(stream::serve(stream, PORT, Arc::clone(&forwarder), share));
    for number in [1, 2] {
        let query = message::query(number, "a.example");
        client.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        client.write_all(&query).await.unwrap();
        let len = client.read_u16().await.unwrap();
        let mut answer = vec![0; len.into()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((len, message::number(&answer)), (60_000, number.to_be_bytes()));
        assert!(message::answers(&answer, &query));
    }
    // What is no query ends the connection.
    client.write_all(&[0, 2, 1, 1]).await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_port_has_so_many_queries_on_their_way_and_strangers_have_none() {
    let forwarder = forwarder(Vec::new());
    let held: Vec<_> = (0..1000).filter_map(|_| forwarder.admit(PORT)).collect();
    assert_eq!(held.len(), OUTSTANDING_EACH);
    assert!(forwarder.admit(PortId(8)).is_some());
    assert_eq!(forwarder.asker(service_address(PORT, false).unwrap()), Some(PORT));
    for stranger in ["192.0.2.1".parse().unwrap(), service_address(PortId(9), true).unwrap()] {
        assert_eq!(forwarder.asker(stranger), None);
    }
}
