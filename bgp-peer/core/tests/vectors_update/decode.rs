//! `updates.json`: valid UPDATEs, field by field, and written again.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use bgp_core::wire::as_path::AsPath;
use bgp_core::wire::attr::check::Attributes;
use bgp_core::wire::attr::{code, flag};
use bgp_core::wire::community::{communities, large_communities};
use bgp_core::wire::ext_community::{ext_communities, route_targets};
use bgp_core::wire::nlri::{Nlri, Nlris};
use bgp_core::wire::update::Update;
use bgp_core::{Negotiated, PeerId, PeerPolicy, Rib, RibConfig, VrfImport};
use serde_json::{Value, json};
use vrouter_types::{Asn, VpnPrefix, VrfId};

use crate::load::*;

/// Families that this speaker never offers; an UPDATE of theirs is read as one without routes.
fn is_ours(case: &Value) -> bool {
    let families = list(&case["negotiated"], "families");
    let routes =
        case["decoded"]["nlri"].as_array().into_iter().chain(case["decoded"]["withdrawn"].as_array());
    let is_carried = routes.flatten().all(|route| family(text(route, "family")).is_some());
    // Path identifiers (RFC 7911) are never negotiated: there the same octets mean something else.
    families.iter().any(|name| family(name).is_some())
        && is_carried
        && case["negotiated"]["addpath"].is_null()
}

fn route(nlri: Nlri, is_withdrawn: bool, field: bgp_core::Family) -> Value {
    let (afi, safi) = field.code();
    let family = format!("{afi}/{safi}");
    match nlri {
        Nlri::Unicast(prefix) => json!({"family": family, "prefix": prefix.to_string()}),
        Nlri::Vpn(key, label) => {
            let mut route =
                json!({"family": family, "rd_hex": hex(&key.rd.octets()), "prefix": key.prefix.to_string()});
            if !is_withdrawn {
                route["labels"] = json!([label.value()]);
            }
            route
        }
        Nlri::Rtc(membership) => json!({"family": family, "length": membership.bits()}),
    }
}

fn routes(fields: &[Option<Nlris<'_>>], is_withdrawn: bool) -> Vec<Value> {
    let fields = fields.iter().flatten();
    fields.flat_map(|field| field.map(|nlri| route(nlri, is_withdrawn, field.family()))).collect()
}

/// The expected routes, without what this decoder does not tell: RD as text, octets of the label.
fn expected_routes(case: &Value, key: &str) -> Vec<Value> {
    let mut expected = case["decoded"][key].as_array().cloned().unwrap_or_default();
    for route in &mut expected {
        let fields = route.as_object_mut().unwrap();
        for unread in ["label_hex", "rd"] {
            fields.remove(unread);
        }
    }
    expected
}

fn path(path: AsPath<'_>) -> Value {
    path.segments()
        .map(|(is_set, numbers)| {
            let asns: Vec<u32> = numbers.map(|asn| asn.0).collect();
            json!({"type": if is_set { "set" } else { "sequence" }, "asns": asns})
        })
        .collect()
}

fn attributes(attributes: &Attributes<'_>) -> Value {
    let mut all = json!({});
    let mut put = |key: &str, value: Value| {
        if !value.is_null() && value != json!([]) {
            all[key] = value;
        }
    };
    put("origin", attributes.origin.map(|origin| origin.to_string().to_lowercase()).into());
    if let Some(as_path) = attributes.as_path {
        put("as_path", path(as_path));
    }
    put("as4_path", attributes.as4_path.map(path).unwrap_or_default());
    put("next_hop", attributes.next_hop.map(|next_hop| next_hop.to_string()).into());
    put("med", attributes.med.into());
    put("local_pref", attributes.local_pref.into());
    put("atomic_aggregate", attributes.atomic_aggregate.then_some(true).into());
    put("aggregator", aggregator(attributes.aggregator));
    put("as4_aggregator", aggregator(attributes.as4_aggregator));
    put("communities", communities(attributes.communities).map(|c| c.to_string()).collect());
    put("originator_id", attributes.originator_id.map(|id| id.to_string()).into());
    let clusters = attributes.cluster_list.chunks(4);
    put("cluster_list", clusters.map(|c| format!("{}.{}.{}.{}", c[0], c[1], c[2], c[3])).collect());
    put("ext_communities", ext_communities(attributes.ext_communities).map(|c| hex(&c)).collect());
    let targets = route_targets(attributes.ext_communities);
    put("route_targets", targets.map(|t| t.to_string().trim_start_matches("target:").to_owned()).collect());
    put(
        "large_communities",
        large_communities(attributes.large_communities).map(|c| c.to_string()).collect(),
    );
    let opaque = attributes.opaque.iter().map(
        |a| json!({"type": a.code, "flags": a.flags & !flag::EXTENDED_LENGTH, "value_hex": hex(a.value)}),
    );
    put("other", opaque.collect());
    all
}

fn aggregator(aggregator: Option<(Asn, std::net::Ipv4Addr)>) -> Value {
    aggregator.map_or(Value::Null, |(asn, id)| json!({"as": asn.0, "id": id.to_string()}))
}

fn expected_attributes(case: &Value) -> Value {
    let mut expected = case["decoded"]["attributes"].clone();
    if let Some(fields) = expected.as_object_mut() {
        // An empty path is a present path, which the decoder tells apart; the comparison does not.
        fields.retain(|_, value| *value != json!([]));
    }
    expected
}

fn compare(case: &Value) -> Result<(), String> {
    let id = text(case, "id");
    let session = session(case);
    let (_, body) =
        body(&octets(text(case, "message_hex")), &session).map_err(|sent| format!("{id}: {sent}"))?;
    let update = Update::decode(&body, &session).map_err(|sent| format!("{id}: {sent}"))?;
    if let Some(malformed) = update.malformed
        && case["decode_only"] != true
    {
        return Err(format!("{id}: {malformed}"));
    }
    let reach = update.reach.map(|reach| reach.routes);
    let ipv4_next_hop = update.attributes.next_hop.filter(|_| !update.announced.is_empty());
    let next_hop = update.reach.map(|reach| reach.next_hop).or(ipv4_next_hop.map(IpAddr::V4));
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let eor = update.end_of_rib.map(|(afi, safi)| format!("{afi}/{safi}"));
    let expected_next_hop = case["decoded"]["next_hop"].as_str().map(address);
    let link_local = update.reach.and_then(|reach| reach.link_local);
    let expected_link_local =
        case["decoded"]["next_hop_link_local"].as_str().map(|text| text.parse::<Ipv6Addr>().unwrap());
    let pairs = [
        (routes(&[Some(update.announced), reach], false).into(), expected_routes(case, "nlri").into()),
        (
            routes(&[Some(update.withdrawn), update.unreach], true).into(),
            expected_routes(case, "withdrawn").into(),
        ),
        (attributes(&update.attributes), expected_attributes(case)),
        (json!(next_hop), json!(expected_next_hop)),
        (json!(link_local), json!(expected_link_local)),
        (json!(eor), case["decoded"]["eor"].clone()),
    ];
    let different = pairs.iter().find(|(read, expected): &&(Value, Value)| read != expected);
    different
        .map_or(Ok(()), |(read, expected)| Err(format!("{id}:\n  read     {read}\n  expected {expected}")))
}

#[test]
fn valid_updates_read_as_their_sources_read_them() {
    let all = cases("updates.json");
    let ours: Vec<&Value> = all.iter().filter(|case| is_ours(case)).collect();
    assert!(all.is_empty() || ours.len() > 100, "{}", ours.len());
    let failures: Vec<String> = ours.into_iter().filter_map(|case| compare(case).err()).collect();
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn prefix_sid_is_passed_on_as_it_came() {
    for case in cases("updates.json").iter().filter(|case| text(case, "id") == "netgauze-bmp-cisco-202-9") {
        let session = session(case);
        let (_, body) = body(&octets(text(case, "message_hex")), &session).unwrap();
        let update = Update::decode(&body, &session).unwrap();
        let mut canonical = Vec::new();
        update.attributes.canonical(update.reach.unwrap().next_hop, &mut canonical);
        let set = bgp_core::wire::attr::set::AttrSet::new(&canonical);
        assert!(hex(set.value(code::PREFIX_SID)).starts_with("0500220001001e00fcbabe"));
    }
}

const CAPTURES: [&str; 6] = [
    "300-traffic-00",
    "301-traffic-00",
    "302-traffic-00",
    "302-traffic-01",
    "302-traffic-02",
    "500-traffic-00",
];

/// UPDATEs of real routers, as cases of `updates.json`.
fn captured(capture: &str) -> Vec<Value> {
    let messages = cases(&format!("pcaps/{capture}.messages.json"));
    let updates = messages.into_iter().filter(|message| message["decoded"]["type"] == "update");
    updates
        .map(|mut message| {
            message["id"] = format!("{capture} message {}", message["n"]).into();
            message["negotiated"] = json!({"as4": true, "families": ["1/1", "1/128", "2/128"]});
            message
        })
        .collect()
}

#[test]
fn updates_of_real_routers_read_as_another_decoder_reads_them() {
    for capture in CAPTURES {
        let updates = captured(capture);
        let failures: Vec<String> = updates.iter().filter_map(|case| compare(case).err()).collect();
        assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    }
}

#[test]
fn a_rib_takes_the_sessions_of_real_routers_and_holds_what_they_left() {
    for capture in CAPTURES {
        let updates = captured(capture);
        let now = Instant::now();
        let mut rib = rib_importing(&updates, now);
        let mut held = BTreeSet::new();
        for case in &updates {
            let session = session(case);
            let (_, body) = body(&octets(text(case, "message_hex")), &session).unwrap();
            rib.handle_update(PeerId(0), &body, now).unwrap();
            follow(&body, &session, &mut held);
        }
        assert_eq!(rib.counts().paths, held.len(), "{capture}");
        rib.peer_down(PeerId(0), bgp_core::PeerDown::Purge, now);
        assert_eq!((rib.counts().routes, rib.counts().attribute_sets), (0, 0));
    }
}

/// A RIB that imports every route target that occurs.
fn rib_importing(updates: &[Value], now: Instant) -> Rib {
    let attributes = updates.iter().map(|case| &case["decoded"]["attributes"]);
    let targets = attributes.flat_map(|attributes| list(attributes, "route_targets"));
    let import = targets.map(|target| format!("target:{target}").parse().unwrap()).collect();
    let config =
        RibConfig { asn: Asn(4_199_999_999), router_id: LOCAL_ID, cluster_id: LOCAL_ID, max_paths: 10_000 };
    let mut rib = Rib::new(config);
    rib.set_imports(vec![VrfImport { vrf: VrfId(0), import }], now);
    if let Some(first) = updates.first() {
        let policy = PeerPolicy::new(PEER.into());
        rib.peer_up(PeerId(0), policy, &session(first), now);
    }
    rib
}

/// The routes with a target that are announced and not withdrawn again.
fn follow(body: &[u8], session: &Negotiated, held: &mut BTreeSet<VpnPrefix>) {
    let update = Update::decode(body, session).unwrap();
    let key = |route| if let Nlri::Vpn(key, _) = route { Some(key) } else { None };
    for key in update.unreach.into_iter().flatten().filter_map(key) {
        held.remove(&key);
    }
    let has_target = route_targets(update.attributes.ext_communities).next().is_some();
    for key in update.reach.into_iter().flat_map(|reach| reach.routes).filter_map(key) {
        if has_target {
            held.insert(key);
        } else {
            held.remove(&key);
        }
    }
}
