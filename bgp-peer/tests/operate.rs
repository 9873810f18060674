//! What an operator does to a speaker while it runs, and what it does by itself for a bad link: over real sockets.
//! Nothing here measures time: a test waits for what it wants to see, and fails when a generous while has passed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod nodes;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_peer::{
    ChangeKind, ClearError, ClearKind, MonitorKind, NeighborConfig, NeighborView, SpeakerConfig,
    SpeakerError, State,
};
use nodes::{
    Node, address, config, import, neighbor, next_route, pair, route, spawn, until, until_established,
};
use tokio::sync::broadcast::error::RecvError;

const ROUTE: &str = "192.0.2.1:1:10.20.11.5/32";

/// Two with one route from the first in the second; both configurations.
async fn with_route(
    change: impl Fn(&mut SpeakerConfig, &mut SpeakerConfig),
) -> ((Node, SpeakerConfig), (Node, SpeakerConfig)) {
    let (a, b) = (address(1), address(2));
    let mut first = config(a, 1, vec![neighbor(b, a.ip())]);
    let mut second = config(b, 2, vec![neighbor(a, b.ip())]);
    second.neighbors[0].passive = true;
    change(&mut first, &mut second);
    let (a, mut b) = (spawn(first.clone()), spawn(second.clone()));
    b.handle.set_imports(import()).await;
    a.handle.originate(route(ROUTE, 100)).await;
    assert_eq!(next_route(&mut b, "10.20.11.5/32").await.paths.len(), 1);
    ((a, first), (b, second))
}

fn sessions(view: &NeighborView) -> (u64, u64) {
    (view.connections_established, view.connections_dropped)
}

#[tokio::test]
async fn hard_clear_ends_the_session_its_routes_go_and_all_comes_back() {
    let ((a, _), (mut b, _)) = with_route(|_, _| {}).await;
    let who = b.handle.neighbors().await[0].address;
    b.handle.clear(who, ClearKind::Hard).await.unwrap();
    assert!(next_route(&mut b, "10.20.11.5/32").await.paths.is_empty(), "gone, graceful restart or not");
    assert_eq!(next_route(&mut b, "10.20.11.5/32").await.paths.len(), 1);
    let view = until_established(&a).await;
    assert!(view.last_error.unwrap().contains("Administrative Reset"), "the neighbor was told");
    let stranger = "203.0.113.1".parse().unwrap();
    assert_eq!(b.handle.clear(stranger, ClearKind::Hard).await, Err(ClearError::NoNeighbor(stranger)));
}

#[tokio::test]
async fn soft_clears_ask_and_tell_once_more_over_the_same_session() {
    let ((a, _), (b, _)) = with_route(|_, _| {}).await;
    let before = until(&b, "refreshed", |view| view.routes.received == 1).await;
    b.handle.clear(before.address, ClearKind::SoftIn).await.unwrap();
    let asked = |view: &NeighborView| view.sent.route_refreshes > before.sent.route_refreshes;
    until(&b, "asked", asked).await;
    let told = |view: &NeighborView| view.received.updates > before.received.updates;
    let between = until(&b, "told", told).await;
    a.handle.clear(a.handle.neighbors().await[0].address, ClearKind::SoftOut).await.unwrap();
    let after = until(&b, "told again", |view| view.received.updates > between.received.updates).await;
    assert_eq!(sessions(&after), sessions(&before));
    assert_eq!(after.routes.received, 1);
}

#[tokio::test]
async fn a_description_touches_no_session_and_another_hold_time_one() {
    let ((a, mut first), (mut b, _)) = with_route(|_, _| {}).await;
    assert_eq!(a.handle.reconfigure(first.clone()).await.unwrap(), []);
    first.neighbors[0].description = Some("edge 1".into());
    let changes = a.handle.reconfigure(first.clone()).await.unwrap();
    assert_eq!(changes.iter().map(|change| change.kind).collect::<Vec<_>>(), [ChangeKind::Updated]);
    let view = a.handle.neighbors().await.remove(0);
    assert_eq!((view.description.as_deref(), sessions(&view)), (Some("edge 1"), (1, 0)));

    first.neighbors[0].hold_time = Some(30);
    let changes = a.handle.reconfigure(first.clone()).await.unwrap();
    assert_eq!(changes[0].kind, ChangeKind::Reset);
    let again = |view: &NeighborView| view.hold_time == Duration::from_secs(30);
    assert_eq!(sessions(&until(&a, "with the new hold time", again).await), (2, 1));
    until(&b, "up again", |view| sessions(view) == (2, 1) && view.state == State::Established).await;
    // With graceful restart the route never left: what comes next is what was done to it next.
    a.handle.withdraw(ROUTE.parse().unwrap()).await;
    a.handle.originate(route("192.0.2.1:1:10.20.11.6/32", 101)).await;
    assert_eq!(next_route(&mut b, "10.20.11.6/32").await.paths.len(), 1);

    first.asn = vrouter_types::Asn(65_000);
    assert!(matches!(a.handle.reconfigure(first).await, Err(SpeakerError::Fixed(_))));
}

#[tokio::test]
async fn neighbors_come_and_go_and_the_others_do_not_notice() {
    let ((a, mut first), (b, _)) = with_route(|_, _| {}).await;
    let c = address(3);
    let third = spawn(config(c, 3, vec![neighbor(first.listen.unwrap(), c.ip())]));
    first.neighbors.push(NeighborConfig { passive: true, ..neighbor(c, first.listen.unwrap().ip()) });
    let changes = a.handle.reconfigure(first.clone()).await.unwrap();
    assert_eq!((changes.len(), changes[0].kind), (1, ChangeKind::Added));
    until_established(&third).await;
    let views = a.handle.neighbors().await;
    assert_eq!(views.len(), 2);
    assert_ne!(views[0].id, views[1].id);

    first.neighbors.remove(0);
    let changes = a.handle.reconfigure(first).await.unwrap();
    assert_eq!((changes.len(), changes[0].kind), (1, ChangeKind::Removed));
    let why =
        |view: &NeighborView| view.last_error.as_ref().is_some_and(|why| why.contains("Peer De-configured"));
    until(&b, "removed", why).await;
    assert_eq!(sessions(&until_established(&third).await), (1, 0));
    assert_eq!(a.handle.neighbors().await.len(), 1);
}

#[tokio::test]
async fn another_key_at_both_ends_needs_no_new_session() {
    let ((a, mut first), (mut b, mut second)) = with_route(|a, b| {
        a.neighbors[0].password = Some(b"correct horse".to_vec());
        b.neighbors[0].password = Some(b"correct horse".to_vec());
    })
    .await;
    for (node, config) in [(&a, &mut first), (&b, &mut second)] {
        config.neighbors[0].password = Some(b"battery staple".to_vec());
        let changes = node.handle.reconfigure(config.clone()).await.unwrap();
        assert_eq!(changes[0].kind, ChangeKind::Rekeyed);
    }
    a.handle.originate(route("192.0.2.1:1:10.20.11.6/32", 101)).await;
    assert_eq!(next_route(&mut b, "10.20.11.6/32").await.paths.len(), 1);
    assert_eq!(sessions(&until_established(&a).await), (1, 0));
    // The listener knows the new key too: a session that begins anew finds each other.
    a.handle.clear(second.listen.unwrap().ip(), ClearKind::Hard).await.unwrap();
    until(&a, "up again", |view| sessions(view) == (2, 1) && view.state == State::Established).await;
}

#[tokio::test]
async fn ttl_security_lets_neighbors_in_and_nobody_from_further_away() {
    let (a, b) = pair(|a, b| {
        a.neighbors[0].ttl_security = Some(1);
        b.neighbors[0].ttl_security = Some(1);
    });
    until_established(&a).await;
    until_established(&b).await;

    // Without it at the other end, packets come with the TTL of everybody, and none is heard.
    let (a, b) = pair(|a, _| {
        a.neighbors[0].ttl_security = Some(1);
        a.neighbors[0].passive = true;
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.handle.neighbors().await[0].received.messages(), 0);
    assert_eq!(b.handle.neighbors().await[0].connections_established, 0);
}

#[tokio::test]
async fn ttl_security_works_over_ipv6() {
    let any = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    let secured = |passive| NeighborConfig { ttl_security: Some(1), passive, ..neighbor(any, any.ip()) };
    let a = spawn(SpeakerConfig { listen: None, ..config(any, 1, vec![secured(false)]) });
    let _b = spawn(config(any, 2, vec![secured(true)]));
    until_established(&a).await;
}

#[tokio::test]
async fn a_removed_key_lets_in_who_has_none() {
    let ((a, mut first), (b, mut second)) = with_route(|a, b| {
        a.neighbors[0].password = Some(b"correct horse".to_vec());
        b.neighbors[0].password = Some(b"correct horse".to_vec());
    })
    .await;
    for (node, config) in [(&a, &mut first), (&b, &mut second)] {
        config.neighbors[0].password = None;
        let changes = node.handle.reconfigure(config.clone()).await.unwrap();
        assert_eq!(changes[0].kind, ChangeKind::Reset);
    }
    until(&b, "up without a key", |view| {
        view.connections_established >= 2 && view.state == State::Established
    })
    .await;
}

#[tokio::test]
async fn whoever_comes_from_the_prefix_is_a_neighbor_up_to_the_limit() {
    let a = address(1);
    let mut any = neighbor(a, a.ip());
    any.prefix = Some(format!("{}/24", Ipv4Addr::from(u32::from(v4(a)) & !0xff)).parse().unwrap());
    any.max_dynamic = 2;
    any.local_address = None;
    let reflector = spawn(config(a, 1, vec![any]));
    assert!(reflector.handle.neighbors().await.is_empty(), "nobody has come");
    let edge = |host: u8| {
        let own = address(host);
        spawn(config(own, host, vec![neighbor(a, own.ip())]))
    };
    let (second, third) = (edge(2), edge(3));
    until_established(&second).await;
    until_established(&third).await;
    let fourth = edge(4);
    until(&fourth, "refused", |view| view.last_error.is_some()).await;
    let views = reflector.handle.neighbors().await;
    assert_eq!(views.len(), 2, "{views:?}");
    assert!(views.iter().all(|view| view.dynamic.is_some() && view.state == State::Established));
    assert_eq!(fourth.handle.neighbors().await[0].connections_established, 0);
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => unreachable!(),
    }
}

#[tokio::test]
async fn too_many_routes_end_the_session_until_it_is_cleared() {
    let ((a, _), (b, _)) = with_route(|_, b| b.neighbors[0].max_prefixes = Some(3)).await;
    for index in 0..5 {
        a.handle.originate(route(&format!("192.0.2.1:1:10.1.0.{index}/32"), 200 + index)).await;
    }
    let view = until(&b, "over its limit", |view| view.is_over_limit && view.state == State::Idle).await;
    assert!(view.last_error.unwrap().contains("Maximum Number of Prefixes"));
    assert_eq!((view.limit_ends_in, b.handle.summary().await.routes), (None, 0));
    let told = |view: &NeighborView| {
        view.last_error.as_ref().is_some_and(|why| why.contains("Maximum Number of Prefixes"))
    };
    until(&a, "told", told).await;
    for index in 0..5 {
        a.handle.withdraw(format!("192.0.2.1:1:10.1.0.{index}/32").parse().unwrap()).await;
    }
    b.handle.clear(view.address, ClearKind::Hard).await.unwrap();
    until(&b, "back with what it may have", |view| view.routes.received == 1 && !view.is_over_limit).await;
}

#[tokio::test]
async fn too_many_routes_are_tried_again_after_the_configured_time() {
    let ((a, _), (b, _)) = with_route(|_, b| {
        b.neighbors[0].max_prefixes = Some(1);
        b.neighbors[0].max_prefixes_restart = Some(1);
    })
    .await;
    a.handle.originate(route("192.0.2.1:1:10.1.0.1/32", 200)).await;
    until(&b, "over its limit", |view| view.is_over_limit).await;
    a.handle.withdraw("192.0.2.1:1:10.1.0.1/32".parse().unwrap()).await;
    until(&b, "back", |view| view.routes.received == 1 && view.state == State::Established).await;
}

#[tokio::test]
async fn who_leaves_with_its_routes_kept_comes_back_and_nothing_has_moved() {
    let ((a, first), (mut b, _)) = with_route(|_, _| {}).await;
    a.handle.shutdown(true).await;
    let view = until(&b, "alone", |view| view.state != State::Established).await;
    assert!(view.restart_until.is_some());
    assert_eq!(b.handle.summary().await.routes, 1, "kept");
    // The same speaker, born anew: its forwarding went on, and its routes come one after the other.
    let again = SpeakerConfig { forwarding_kept: true, await_local_routes: true, ..first };
    let a = spawn(again);
    until(&b, "back", |view| sessions(view) == (2, 1) && view.state == State::Established).await;
    let theirs = b.handle.neighbors().await.remove(0).restart.unwrap().theirs.unwrap();
    assert!(theirs.restarting && theirs.notification && !theirs.forwarding_kept.is_empty(), "{theirs:?}");
    // Another route first: if the old one were swept before we are complete, its end would come before this.
    a.handle.originate(route("192.0.2.1:1:10.20.11.6/32", 101)).await;
    assert_eq!(next_route(&mut b, "10.20.11.6/32").await.paths.len(), 1);
    assert_eq!(b.handle.summary().await.routes, 2, "still kept: we have not said that this is all");
    a.handle.local_routes_complete().await;
    assert!(next_route(&mut b, "10.20.11.5/32").await.paths.is_empty(), "now it is known to be gone");
    assert_eq!(b.handle.summary().await.routes, 1);
}

#[tokio::test]
async fn who_watches_sees_sessions_and_routes_and_how_much_it_missed() {
    let ((a, _), (b, _)) = with_route(|_, _| {}).await;
    let mut watch = b.handle.subscribe().await;
    let who = b.handle.neighbors().await[0].address;
    b.handle.clear(who, ClearKind::Hard).await.unwrap();
    let (mut states, mut routes) = (Vec::new(), Vec::new());
    while routes.len() < 2 {
        let event = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await.unwrap().unwrap();
        match event.kind {
            MonitorKind::Session { neighbor, to, cause, .. } => {
                assert_eq!(neighbor, who);
                states.push((to, cause));
            }
            MonitorKind::Route(route) => routes.push(route.paths.len()),
        }
    }
    assert_eq!(routes, [0, 1]);
    assert!(states[0].1.as_ref().unwrap().contains("Administrative Reset"), "{states:?}");
    assert_eq!(states.last().unwrap(), &(State::Established, None));

    // It reads no more; what does not fit is lost, and counted.
    for index in 0..6000u32 {
        let [_, _, high, low] = index.to_be_bytes();
        a.handle.originate(route(&format!("192.0.2.1:1:10.1.{high}.{low}/32"), 200)).await;
    }
    let mut b = b;
    while next_route(&mut b, "10.1.23.111/32").await.paths.is_empty() {}
    assert!(matches!(watch.recv().await, Err(RecvError::Lagged(missed)) if missed > 0));
}

#[tokio::test]
async fn a_listen_address_that_is_not_there_yet_is_no_error() {
    // 203.0.113.0/24 is for documentation (RFC 5737): nobody has it.
    let later = SocketAddr::from(([203, 0, 113, 9], 1790));
    let node = spawn(config(later, 1, vec![neighbor(address(2), address(1).ip())]));
    assert_eq!(node.handle.neighbors().await.len(), 1);
}

#[tokio::test]
async fn a_neighbor_that_a_prefix_brought_keeps_its_number_and_its_routes_over_a_restart() {
    let (a, b) = (address(1), address(2));
    let mut any = neighbor(b, a.ip());
    any.prefix = Some(format!("{}/24", Ipv4Addr::from(u32::from(v4(a)) & !0xff)).parse().unwrap());
    any.route_reflector_client = true;
    let reflector = spawn(config(a, 1, vec![any]));
    reflector.handle.set_imports(import()).await;
    let edge = config(b, 2, vec![neighbor(a, b.ip())]);
    let first = spawn(edge.clone());
    first.handle.originate(route("192.0.2.2:1:10.20.11.5/32", 100)).await;
    let view = until_first(&reflector, |view| view.routes.received == 1).await;
    first.handle.shutdown(true).await;
    until_first(&reflector, |view| view.restart_until.is_some()).await;
    assert_eq!(reflector.handle.summary().await.routes, 1);
    let again = spawn(SpeakerConfig { forwarding_kept: true, ..edge });
    again.handle.originate(route("192.0.2.2:1:10.20.11.5/32", 100)).await;
    let back = until_first(&reflector, |view| sessions(view) == (2, 1) && view.routes.received == 1).await;
    assert_eq!((back.id, back.address), (view.id, view.address));
    assert_eq!(reflector.handle.summary().await.routes, 1);
}

/// Waits until there is a neighbor of which it is true.
async fn until_first(node: &Node, is_so: impl Fn(&NeighborView) -> bool) -> NeighborView {
    for _ in 0..3000 {
        if let Some(view) = node.handle.neighbors().await.into_iter().find(&is_so) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {:?}", node.handle.neighbors().await);
}
