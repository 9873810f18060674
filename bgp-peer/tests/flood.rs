//! Whatever a neighbor sends, and however slowly it reads: memory stays within what is configured. The allocator of this
//! test counts; the figures are those of the whole process, this test's own buffers included.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod nodes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bgp_peer::{SpeakerConfig, State};
use nodes::{ASN, Node, address, config, import, neighbor, route, spawn, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Octets that are in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A speaker that waits for one neighbor, and the neighbor's address.
fn victim(change: impl Fn(&mut SpeakerConfig)) -> (Node, SocketAddr, SocketAddr) {
    let (own, rogue) = (address(1), address(2));
    let mut waiting = neighbor(rogue, own.ip());
    waiting.passive = true;
    let mut config = config(own, 1, vec![waiting]);
    change(&mut config);
    (spawn(config), own, rogue)
}

async fn call(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(SocketAddr::new(from.ip(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap();
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// An OPEN for VPNv4 with four-octet AS numbers, and a KEEPALIVE.
fn greeting() -> Vec<u8> {
    let mut body = vec![4];
    body.extend(23456u16.to_be_bytes());
    body.extend([0, 90, 192, 0, 2, 2, 14, 2, 12, 1, 4, 0, 1, 0, 128, 65, 4]);
    body.extend(ASN.0.to_be_bytes());
    [message(1, &body), message(4, &[])].concat()
}

/// UPDATE number `index`: 100 VPNv4 routes that nobody had before, with attributes that nobody had before.
fn update(index: u32) -> Vec<u8> {
    let mut reach = vec![0, 1, 128, 12, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2, 0];
    for host in 0..100u8 {
        let [_, a, b, c] = index.to_be_bytes();
        reach.extend([120, 0, 6, 0x41, 0, 1, 192, 0, 2, 2, 0, 1, a, b, c, host]);
    }
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100, 0x80, 4, 4];
    attributes.extend(index.to_be_bytes());
    // target:4200000100:7
    attributes.extend([0xc0, 16, 8, 2, 2]);
    attributes.extend(ASN.0.to_be_bytes());
    attributes.extend(7u16.to_be_bytes());
    attributes.extend([0x90, 14]);
    attributes.extend(u16::try_from(reach.len()).unwrap().to_be_bytes());
    attributes.extend(reach);
    let mut body = vec![0, 0];
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    message(2, &body)
}

/// The most that was in use while this ran, beyond what was before.
async fn growth(work: impl Future<Output = ()>) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    let most = AtomicUsize::new(0);
    let watch = async {
        loop {
            most.fetch_max(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = watch => {}
    }
    most.load(Ordering::Relaxed).saturating_sub(before)
}

#[tokio::test]
async fn routes_without_end_fill_what_is_configured_and_no_more() {
    const PATHS: usize = 1000;
    let (node, own, rogue) = victim(|config| config.max_paths = PATHS);
    node.handle.set_imports(import()).await;
    let mut stream = call(rogue, own).await;
    stream.write_all(&greeting()).await.unwrap();
    let grown = growth(async {
        // Half a million routes, 16 octets of NLRI each: none is like another.
        for index in 0..5000 {
            stream.write_all(&update(index)).await.unwrap();
        }
        until(&node, "taken all", |view| view.received.updates >= 5000).await;
    })
    .await;
    let view = until(&node, "still up", |view| view.state == State::Established).await;
    assert!(view.routes.received <= PATHS, "{}", view.routes.received);
    assert!(grown < 4_000_000, "{grown} octets");
}

#[tokio::test]
async fn routes_that_nobody_imports_leave_nothing() {
    let (node, own, rogue) = victim(|_| {});
    let mut stream = call(rogue, own).await;
    stream.write_all(&greeting()).await.unwrap();
    let grown = growth(async {
        for index in 0..5000 {
            stream.write_all(&update(index)).await.unwrap();
        }
        until(&node, "taken all", |view| view.received.updates >= 5000).await;
    })
    .await;
    assert_eq!(node.handle.summary().await.routes, 0);
    assert!(grown < 2_000_000, "{grown} octets");
}

#[tokio::test]
async fn connections_and_garbage_without_end_leave_nothing() {
    let (node, own, rogue) = victim(|_| {});
    let stranger = address(3);
    let grown = growth(async {
        for round in 0..500u32 {
            let who = if round % 2 == 0 { rogue } else { stranger };
            let mut stream = call(who, own).await;
            let what = match round % 5 {
                0 => vec![0xff; 4096],
                1 => greeting(),
                2 => message(1, &[4; 200]),
                3 => message(2, &[0xff; 4000]),
                _ => vec![0x2a; 3000],
            };
            // It may be refused in the middle of it.
            let _ = stream.write_all(&what).await;
        }
    })
    .await;
    assert!(grown < 4_000_000, "{grown} octets");
    // Who behaves is let in once the wait is over.
    let mut stream = None;
    for _ in 0..600 {
        let mut attempt = call(rogue, own).await;
        let mut octet = [0];
        attempt.write_all(&greeting()).await.unwrap();
        if attempt.read(&mut octet).await.is_ok_and(|read| read == 1) {
            stream = Some(attempt);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stream.is_some(), "never let in again: {:?}", node.handle.neighbors().await);
}

#[tokio::test]
async fn who_never_reads_is_sent_what_fits_and_the_rest_is_not_kept_for_it() {
    let (node, own, rogue) = victim(|_| {});
    let mut stream = call(rogue, own).await;
    stream.write_all(&greeting()).await.unwrap();
    until(&node, "up", |view| view.state == State::Established).await;
    let grown = growth(async {
        for index in 0..20_000u32 {
            let [_, _, _, low] = index.to_be_bytes();
            // The same 256 routes over and over: every change would be told to who reads.
            let label = 16 + index % 1000;
            node.handle.originate(route(&format!("192.0.2.1:1:10.1.0.{low}/32"), label)).await;
        }
        // What it asks for again and again is not queued either.
        for _ in 0..2000 {
            stream.write_all(&message(5, &[0, 1, 0, 128])).await.unwrap();
        }
        until(&node, "asked", |view| view.received.route_refreshes >= 2000).await;
    })
    .await;
    assert!(grown < 2_000_000, "{grown} octets");
}
