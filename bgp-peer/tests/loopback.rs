//! Speakers on loopback addresses, each with a real socket. Nothing here measures time: a test waits for what it wants
//! to see, and fails when a generous while has passed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod nodes;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_peer::{Family, FamilySet, NeighborView, RouteQuery, Speaker, SpeakerConfig, SpeakerEvent, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use vrouter_types::{Asn, Encap, Label};

use nodes::{
    ASN, Node, address, config, import, neighbor, next_route, pair, route, spawn, until, until_established,
};

#[tokio::test]
async fn two_speakers_exchange_both_families_lose_the_connection_and_come_back() {
    let (a, mut b) = pair(|_, b| b.neighbors[0].passive = true);
    b.handle.set_imports(import()).await;
    a.handle.originate(route("192.0.2.1:1:10.20.11.5/32", 100)).await;
    a.handle.originate(route("192.0.2.1:1:fd00:20:11::5/128", 101)).await;

    let v4 = next_route(&mut b, "10.20.11.5/32").await;
    assert_eq!(
        (v4.paths.len(), v4.paths[0].label.value(), v4.paths[0].next_hop),
        (1, 100, [192, 0, 2, 1].into())
    );
    assert!(
        v4.paths[0].encaps.contains(Encap::MplsOverUdp) && !v4.paths[0].encaps.contains(Encap::MplsOverGre)
    );
    let advertised = |view: &NeighborView| view.routes.received >= 2;
    let view = until(&b, "told both routes", advertised).await;
    assert_eq!(view.families, FamilySet::L3VPN);
    assert_eq!(view.remote_router_id, Some(Ipv4Addr::new(192, 0, 2, 1)));
    let routes = b.handle.routes(RouteQuery { family: Some(Family::Vpnv6), ..RouteQuery::default() }).await;
    assert_eq!(
        (routes.len(), routes[0].label.map(Label::value), routes[0].next_hop),
        (1, Some(101), [192, 0, 2, 1].into())
    );

    // The session is reset in the middle: a third party's connection is not enough, so one end is taken down hard.
    a.handle.withdraw("192.0.2.1:1:10.20.11.5/32".parse().unwrap()).await;
    assert!(next_route(&mut b, "10.20.11.5/32").await.paths.is_empty(), "withdrawn");
    assert_eq!(a.handle.summary().await.routes, 1);
}

#[tokio::test]
async fn a_connection_cut_by_something_between_comes_back_with_all_routes() {
    // A proxy stands between the two, as a middlebox does, and drops every connection once.
    let (a, b, middle) = (address(1), address(2), address(3));
    let proxy = TcpListener::bind(middle).await.unwrap();
    let mut to_middle = neighbor(middle, a.ip());
    to_middle.address = middle.ip();
    let first = spawn(config(a, 1, vec![to_middle]));
    let mut from_middle = neighbor(middle, b.ip());
    from_middle.passive = true;
    from_middle.graceful_restart = Some(false);
    let mut second = spawn(config(b, 2, vec![from_middle]));
    let (cut, mut cuts) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        loop {
            let (mut inside, _) = proxy.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(middle.ip(), 0)).unwrap();
            let mut outside = socket.connect(b).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
                _ = cuts.recv() => {}
            }
        }
    });

    second.handle.set_imports(import()).await;
    first.handle.originate(route("192.0.2.1:1:10.20.11.5/32", 100)).await;
    assert_eq!(next_route(&mut second, "10.20.11.5/32").await.paths.len(), 1);
    for round in 2..4 {
        cut.send(()).await.unwrap();
        assert!(
            next_route(&mut second, "10.20.11.5/32").await.paths.is_empty(),
            "its routes go with the session"
        );
        assert_eq!(next_route(&mut second, "10.20.11.5/32").await.paths.len(), 1, "and come back with it");
        let view = until_established(&second).await;
        assert_eq!((view.connections_established, view.connections_dropped), (round, round - 1));
        assert!(view.last_error.is_some());
    }
}

#[tokio::test]
async fn both_connect_at_once_and_one_session_remains() {
    let (a, b) = pair(|_, _| {});
    until_established(&a).await;
    until_established(&b).await;
    // Both agree on which connection it is: routes pass both ways.
    let (mut a, mut b) = (a, b);
    a.handle.set_imports(import()).await;
    b.handle.set_imports(import()).await;
    a.handle.originate(route("192.0.2.1:1:10.0.0.1/32", 100)).await;
    b.handle.originate(route("192.0.2.2:1:10.0.0.2/32", 100)).await;
    assert_eq!(next_route(&mut b, "10.0.0.1/32").await.paths.len(), 1);
    assert_eq!(next_route(&mut a, "10.0.0.2/32").await.paths.len(), 1);
}

#[tokio::test]
async fn transport_over_ipv6_carries_both_families() {
    let port = |listener: std::net::TcpListener| listener.local_addr().unwrap();
    let v6 = port(std::net::TcpListener::bind("[::1]:0").unwrap());
    // One address for both ends: the second only listens.
    let mut caller = config(v6, 1, vec![neighbor(v6, v6.ip())]);
    caller.listen = None;
    let mut listener = config(v6, 2, vec![neighbor(v6, v6.ip())]);
    listener.neighbors[0].passive = true;
    let (a, mut b) = (spawn(caller), spawn(listener));
    b.handle.set_imports(import()).await;
    a.handle.originate(route("192.0.2.1:1:10.20.11.5/32", 100)).await;
    a.handle.originate(route("192.0.2.1:1:fd00:20:11::5/128", 101)).await;
    assert_eq!(next_route(&mut b, "10.20.11.5/32").await.paths.len(), 1);
    let view = until_established(&a).await;
    assert_eq!(view.local_address, Some("::1".parse().unwrap()));
}

#[tokio::test]
async fn a_dual_stack_listener_takes_ipv4_neighbors() {
    // A port that is free on all addresses; somebody may take it before we do, so there are some attempts.
    let any = || std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap();
    let (a, listener, b) = (0..20)
        .find_map(|_| {
            let (any, a) = (any(), address(1));
            let b = SocketAddr::new(address(2).ip(), any.port());
            let mut waiting = neighbor(a, b.ip());
            waiting.passive = true;
            let (sender, events) = mpsc::channel(16);
            let handle = Speaker::spawn(config(any, 2, vec![waiting]), sender).ok()?;
            Some((a, Node { handle, events }, b))
        })
        .expect("no port is free on all addresses");
    let caller = spawn(SpeakerConfig { listen: None, ..config(a, 1, vec![neighbor(b, a.ip())]) });
    until_established(&caller).await;
    let view = until_established(&listener).await;
    assert_eq!(view.local_address, Some(b.ip()));
}

#[tokio::test]
async fn the_same_key_at_both_ends_is_a_session_and_another_is_none() {
    let (a, b) = pair(|a, b| {
        a.neighbors[0].password = Some(b"correct horse".to_vec());
        b.neighbors[0].password = Some(b"correct horse".to_vec());
    });
    until_established(&a).await;
    until_established(&b).await;

    let (a, mut b) = pair(|a, b| {
        a.neighbors[0].password = Some(b"correct horse".to_vec());
        // It only listens: whatever reaches it came through the signature check.
        b.neighbors[0].password = Some(b"battery staple".to_vec());
        b.neighbors[0].passive = true;
    });
    let news = tokio::time::timeout(Duration::from_secs(3), b.events.recv()).await;
    assert!(news.is_err(), "{news:?}");
    assert_eq!(a.handle.neighbors().await[0].connections_established, 0);
    assert_eq!(b.handle.neighbors().await[0].received.messages(), 0);
}

#[tokio::test]
async fn wrong_as_is_refused_and_the_reason_is_shown() {
    let (a, b) = pair(|a, b| {
        b.asn = Asn(65_001);
        b.neighbors[0].passive = true;
        a.neighbors[0].asn = Asn(65_000);
    });
    let view = until(&a, "refused", |view| {
        view.last_error.as_ref().is_some_and(|error| error.contains("Bad Peer AS"))
    })
    .await;
    assert_ne!(view.state, State::Established);
    until(&b, "refused", |view| view.last_error.as_ref().is_some_and(|error| error.contains("Bad Peer AS")))
        .await;
}

#[tokio::test]
async fn shutdown_tells_the_neighbor_and_is_no_accident() {
    let (mut a, mut b) = pair(|_, b| b.neighbors[0].passive = true);
    until_established(&a).await;
    until_established(&b).await;
    a.handle.shutdown(false).await;
    let search = async {
        loop {
            match b.events.recv().await.unwrap() {
                SpeakerEvent::NeighborDown(_, why) => return why,
                SpeakerEvent::NeighborUp(_) | SpeakerEvent::Routes(_) => {}
            }
        }
    };
    let why = tokio::time::timeout(Duration::from_secs(10), search).await.unwrap();
    assert!(why.contains("Administrative Shutdown"), "{why}");
    // The speaker is gone, and questions have empty answers.
    while a.events.recv().await.is_some() {}
    assert!(a.handle.neighbors().await.is_empty());
    assert_eq!(a.handle.summary().await.routes, 0);
}

#[tokio::test]
async fn garbage_and_a_close_in_mid_message_are_told_and_disturb_no_one_else() {
    let (a, b, rogue) = (address(1), address(2), address(3));
    let mut to_rogue = neighbor(rogue, a.ip());
    to_rogue.passive = true;
    let first = spawn(config(a, 1, vec![to_rogue, neighbor(b, a.ip())]));
    let mut waiting = neighbor(a, b.ip());
    waiting.passive = true;
    let second = spawn(config(b, 2, vec![waiting]));
    until_established(&second).await;

    let call = || async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(rogue.ip(), 0)).unwrap();
        socket.connect(a).await.unwrap()
    };
    let read_all = |mut stream: TcpStream| async move {
        let mut octets = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut octets))
            .await
            .unwrap()
            .unwrap();
        octets
    };
    // The header of an UPDATE, and no more of it.
    let mut caller = call().await;
    caller.write_all(&[[0xff; 16].as_slice(), &[0, 60, 2]].concat()).await.unwrap();
    caller.shutdown().await.unwrap();
    read_all(caller).await;
    let is_cut = |view: &NeighborView| {
        view.last_error.as_ref().is_some_and(|error| error.contains("middle of a message"))
    };
    let view = until(&first, "told of the cut message", is_cut).await;
    assert_eq!(view.last_error_octets.len(), 19);

    let mut caller = call().await;
    caller.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await.unwrap();
    let answer = read_all(caller).await;
    let (open, notification) = answer.split_at(answer.len() - 21);
    assert_eq!((open[18], &notification[18..]), (1, &[3, 1, 1][..]), "OPEN, then NOTIFICATION 1/1");
    let is_garbage = |view: &NeighborView| {
        view.last_error.as_ref().is_some_and(|error| error.contains("Not Synchronized"))
    };
    let view = until(&first, "told of the garbage", is_garbage).await;
    assert!(view.last_error_octets.starts_with(b"SSH-2.0"));

    let view = second.handle.neighbors().await.remove(0);
    assert_eq!((view.state, view.connections_dropped), (State::Established, 0));
}

#[tokio::test]
async fn an_agent_that_does_not_listen_blocks_no_one() {
    let (a, mut b) = pair(|_, b| b.neighbors[0].passive = true);
    b.handle.set_imports(import()).await;
    // The channel to the agent holds 16 events; nobody takes any.
    for index in 0..200u32 {
        let [_, _, high, low] = index.to_be_bytes();
        a.handle.originate(route(&format!("192.0.2.1:1:10.1.{high}.{low}/32"), 100 + index)).await;
        b.handle.neighbors().await;
    }
    until(&b, "told all", |view| view.routes.received >= 200).await;
    let mut seen = std::collections::BTreeSet::new();
    let collect = async {
        while seen.len() < 200 {
            if let SpeakerEvent::Routes(routes) = b.events.recv().await.unwrap() {
                seen.extend(
                    routes.into_iter().filter(|route| !route.paths.is_empty()).map(|route| route.prefix),
                );
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), collect).await.expect("events were lost");
}

/// What a neighbor says first: an OPEN with these families of AFI 1 and a four-octet AS number, and a KEEPALIVE.
fn greeting(router_id: u8, safis: &[u8]) -> Vec<u8> {
    let mut capabilities: Vec<u8> = safis.iter().flat_map(|safi| [1, 4, 0, 1, 0, *safi]).collect();
    capabilities.extend([65, 4]);
    capabilities.extend(ASN.0.to_be_bytes());
    let length = u8::try_from(capabilities.len()).unwrap();
    let mut open = vec![0xff; 16];
    open.extend([0, 31 + length, 1, 4]);
    open.extend(23456u16.to_be_bytes());
    open.extend([0, 90, 192, 0, 2, router_id, length + 2, 2, length]);
    open.extend(capabilities);
    open.extend([0xff; 16]);
    open.extend([0, 19, 4]);
    open
}

/// Reads until these octets have come, and returns all that came.
async fn read_until(stream: &mut TcpStream, last: &[u8]) -> Vec<u8> {
    let (mut octets, mut piece) = (Vec::new(), [0; 4096]);
    while !octets.windows(last.len()).any(|window| window == last) {
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut piece)).await;
        let read = read.expect("the last octets never came").unwrap();
        assert_ne!(read, 0, "closed");
        octets.extend_from_slice(&piece[..read]);
    }
    octets
}

#[tokio::test]
async fn a_neighbor_that_never_ends_its_memberships_is_told_routes_all_the_same() {
    let (a, other) = (address(1), address(2));
    let mut waiting = neighbor(other, a.ip());
    waiting.passive = true;
    let speaker = spawn(config(a, 1, vec![waiting]));
    speaker.handle.originate(route("192.0.2.1:1:10.9.9.9/32", 4242)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(other.ip(), 0)).unwrap();
    let mut stream = socket.connect(a).await.unwrap();
    stream.write_all(&greeting(2, &[128, 132])).await.unwrap();
    // ORIGIN, AS_PATH, LOCAL_PREF, and the membership that wants everything; no End-of-RIB follows.
    let attributes = [
        &[0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100][..],
        &[0x80, 14, 10, 0, 1, 132, 4, 192, 0, 2, 2, 0, 0],
    ]
    .concat();
    let length = u8::try_from(attributes.len()).unwrap();
    let update = [&[0xff; 16][..], &[0, 23 + length, 2, 0, 0, 0, length], &attributes].concat();
    stream.write_all(&update).await.unwrap();
    read_until(&mut stream, LAST_ROUTE).await;
}

/// Label 4242, the RD 192.0.2.1:1 and the prefix 10.9.9.9, as an UPDATE has them.
const LAST_ROUTE: &[u8] = &[0x01, 0x09, 0x21, 0, 1, 192, 0, 2, 1, 0, 1, 10, 9, 9, 9];

#[tokio::test]
async fn a_neighbor_that_does_not_read_is_told_the_state_and_not_the_history() {
    let (a, slow) = (address(1), address(2));
    let mut waiting = neighbor(slow, a.ip());
    waiting.passive = true;
    let speaker = spawn(config(a, 1, vec![waiting]));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::new(slow.ip(), 0)).unwrap();
    let mut stream = socket.connect(a).await.unwrap();
    stream.write_all(&greeting(2, &[128])).await.unwrap();
    until_established(&speaker).await;

    // Sixteen octets each at least: half a megabyte if each coming and going were told.
    let prefix = |index: u32| {
        let [_, _, high, low] = index.to_be_bytes();
        format!("192.0.2.1:1:10.1.{high}.{low}/32")
    };
    for index in 0..15_000 {
        speaker.handle.originate(route(&prefix(index), 100 + index)).await;
    }
    for index in 0..15_000 {
        speaker.handle.withdraw(prefix(index).parse().unwrap()).await;
    }
    speaker.handle.originate(route("192.0.2.1:1:10.9.9.9/32", 4242)).await;

    let octets = read_until(&mut stream, LAST_ROUTE).await;
    assert!(octets.len() < 200_000, "{} octets for one route", octets.len());
}

#[tokio::test]
async fn an_update_that_cannot_be_read_ends_its_session_and_shows_its_octets() {
    let (a, rogue) = (address(1), address(2));
    let mut waiting = neighbor(rogue, a.ip());
    waiting.passive = true;
    let speaker = spawn(config(a, 1, vec![waiting]));
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(rogue.ip(), 0)).unwrap();
    let mut stream = socket.connect(a).await.unwrap();
    stream.write_all(&greeting(2, &[128])).await.unwrap();
    until_established(&speaker).await;
    // Withdrawn routes of 65,535 octets in a message of 23.
    stream.write_all(&[[0xff; 16].as_slice(), &[0, 23, 2, 0xff, 0xff, 0, 0]].concat()).await.unwrap();
    let mut octets = Vec::new();
    let end = stream.read_to_end(&mut octets);
    tokio::time::timeout(Duration::from_secs(10), end).await.unwrap().unwrap();
    let last = &octets[octets.len() - 21..];
    assert_eq!(&last[16..20], [0, 21, 3, 3], "UPDATE Message Error");
    let view = until(&speaker, "down", |view| view.connections_dropped == 1).await;
    assert!(view.last_error.unwrap().contains("UPDATE Message Error"));
    assert_eq!(view.last_error_octets, [0xff, 0xff, 0, 0]);
}

#[tokio::test]
async fn routes_announced_one_by_one_leave_together() {
    let (a, b) = pair(|_, b| b.neighbors[0].passive = true);
    b.handle.set_imports(import()).await;
    until_established(&a).await;
    for index in 0..1000u32 {
        let [_, _, high, low] = index.to_be_bytes();
        a.handle.originate(route(&format!("192.0.2.1:1:10.1.{high}.{low}/32"), 100 + index)).await;
    }
    let view = until(&b, "told all", |view| view.routes.received >= 1000).await;
    assert!(view.received.updates < 500, "{} UPDATEs", view.received.updates);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_address() {
    let taken = address(1);
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    let (sender, _events) = mpsc::channel(1);
    let error = Speaker::spawn(config(taken, 1, vec![]), sender).unwrap_err();
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}
