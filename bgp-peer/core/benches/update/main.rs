//! Nanoseconds per route: reading and writing UPDATEs, ours beside the decoders of the differential tests, and the way
//! of a route through the RIB. `cargo bench -p bgp-core`; the best of forty batches, since others only ever add time.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot go on stops")]

mod messages;

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use bgp_core::Family;
use bgp_core::wire::header;
use bgp_core::wire::nlri::Nlri;
use bgp_core::wire::update::Update;
use bgp_core::wire::update::writer::{UpdateWriter, message_limit};
use bytes::BytesMut;
use messages::{NEXT_HOP, attributes, message, routes, session};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

const BATCHES: u32 = 40;

/// The least time of a batch, by routes.
fn measure(what: &str, routes: u32, mut work: impl FnMut()) {
    let rounds = 200_000 / routes.max(20);
    let batch = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        start.elapsed().as_secs_f64()
    };
    let least = (0..BATCHES).map(|_| batch(&mut work)).fold(f64::INFINITY, f64::min);
    println!("{what:32} {routes:>4} routes  {:>8.1} ns per route", least / f64::from(rounds * routes) * 1e9);
}

fn main() {
    let (session, attributes) = (session(), attributes());
    for count in [1, 200] {
        let message = message(count);
        let body = &message[header::LEN..];
        measure("read", count, || {
            let update = Update::decode(black_box(body), &session).unwrap();
            update.reach.unwrap().routes.for_each(|route| {
                black_box(route);
            });
        });
        measure("read by routecore", count, || {
            let config = routecore::bgp::message::SessionConfig::modern();
            let update =
                routecore::bgp::message::UpdateMessage::from_octets(black_box(&message[..]), &config)
                    .unwrap();
            update.announcements().unwrap().for_each(|route| {
                black_box(route.unwrap());
            });
        });
        measure("read by rustbgpd-wire", count, || {
            let mut body = black_box(body);
            let length = body.len();
            let update = rustbgpd_wire::UpdateMessage::decode(&mut body, length).unwrap();
            black_box(update.parse_revised(true, true, false, &[]).unwrap());
        });
        measure("read by netgauze-bgp-pkt", count, || {
            let mut context =
                BgpParsingContext::new(true, HashMap::new(), HashMap::new(), true, true, true, true);
            black_box(BgpMessage::parse(&mut SliceReader::new(black_box(&message)), &mut context).unwrap());
        });
        let routes: Vec<Nlri> = routes(count).collect();
        let mut out = BytesMut::with_capacity(header::MAX_LEN);
        measure("write", count, || {
            out.clear();
            let limit = message_limit(&session);
            let mut message = UpdateWriter::announce(&mut out, Family::Vpnv4, NEXT_HOP, &attributes, limit);
            black_box(&routes).iter().for_each(|route| assert!(message.push(route)));
            black_box(message.finish());
        });
    }
}
