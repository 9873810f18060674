//! Reading and writing routes allocates nothing per route: a counting allocator says so.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../benches/update/messages.rs"]
mod messages;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use bgp_core::Family;
use bgp_core::wire::header;
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::Update;
use bgp_core::wire::update::writer::{UpdateWriter, message_limit};
use bytes::BytesMut;
use messages::{NEXT_HOP, attributes, message, routes, session};

struct Counting;

thread_local! {
    // Per thread: the test harness allocates on its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Where the thread's own storage is gone, it ends, and nobody counts any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it came; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about the memory, its layout and the new size is passed on.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about the memory and its layout is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.get();
    let outcome = run();
    (outcome, ALLOCATIONS.get() - before)
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| black_box(vec![1_u8])).1, 1);
}

#[test]
fn reading_an_update_allocates_nothing() {
    let session = session();
    for count in [1, 10, 200] {
        let message = message(count);
        let body = &message[header::LEN..];
        let (read, allocations) = allocations(|| {
            let update = Update::decode(body, &session).unwrap();
            assert_eq!(update.malformed, None);
            let targets =
                bgp_core::wire::ext_community::route_targets(update.attributes.ext_communities).count();
            assert_eq!(targets, 2);
            update.reach.unwrap().routes.map(black_box).count()
        });
        assert_eq!((read, allocations), (usize::try_from(count).unwrap(), 0));
    }
}

#[test]
fn writing_an_update_into_a_buffer_with_room_allocates_nothing() {
    let (session, attributes) = (session(), attributes());
    for count in [1, 10, 200] {
        let routes: Vec<Nlri> = routes(count).collect();
        let mut out = BytesMut::with_capacity(header::MAX_LEN);
        let (written, allocations) = allocations(|| {
            let limit = message_limit(&session);
            let mut message = UpdateWriter::announce(&mut out, Family::Vpnv4, NEXT_HOP, &attributes, limit);
            routes.iter().for_each(|route| assert!(message.push(route)));
            message.finish()
        });
        assert_eq!((written, allocations), (routes.len(), 0));
        let mut out = BytesMut::with_capacity(header::MAX_LEN);
        let ((), allocations) = self::allocations(|| {
            let mut message = UpdateWriter::withdraw(&mut out, Family::Vpnv4, message_limit(&session));
            routes.iter().for_each(|route| assert!(message.push(route)));
            assert_eq!(message.finish(), routes.len());
        });
        assert_eq!(allocations, 0);
    }
}
