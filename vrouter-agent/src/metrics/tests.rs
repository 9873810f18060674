use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bgp_peer::PeerCounts;
use vrouter_types::Asn;

use super::*;
use crate::config::Config;

/// As a speaker sees it that has just begun, in another state.
async fn view(address: &str, state: State) -> NeighborView {
    let neighbor = bgp_peer::NeighborConfig {
        address: address.parse().unwrap(),
        asn: Asn(65001),
        passive: true,
        ..bgp_peer::NeighborConfig::default()
    };
    let config = bgp_peer::SpeakerConfig {
        asn: Asn(64512),
        router_id: "192.0.2.11".parse().unwrap(),
        neighbors: vec![neighbor],
        ..bgp_peer::SpeakerConfig::default()
    };
    let (events, _receiver) = tokio::sync::mpsc::channel(16);
    let speaker = bgp_peer::Speaker::spawn(config, events).unwrap();
    let mut view = speaker.neighbors().await.remove(0);
    view.state = state;
    view.received = MessageCounts { updates: 7, ..MessageCounts::default() };
    view.routes = PeerCounts { received: 4, ..PeerCounts::default() };
    view
}

fn page(neighbors: Vec<NeighborView>) -> String {
    let text = "[agent]\nname = \"gw\"\n[[vrf]]\nname = \"city\"\nrd = \"1:1\"\n";
    let overlay = Overlay::new(Arc::new(Config::parse(text, Path::new("agent.toml")).unwrap()));
    let router_id = "192.0.2.11".parse().unwrap();
    let speaker = SpeakerSummary { router_id, asn: Asn(64512), neighbors, routes: 9 };
    render(&Sources {
        overlay: &overlay,
        speaker: &speaker,
        rib_bytes: 1234,
        uptime: Duration::from_secs(60),
        usage: Usage { rss: 5_000_000, peak: 6_000_000 },
        port: &|_| PortCounters::default(),
        tunnel: &|_, _| TunnelCounters::default(),
        drops: DropReason::ALL.iter().map(|reason| (*reason, 3)).collect(),
        workings: Workings {
            health: vec![::dataplane::WorkerHealth { worker: 0, turns: 8, stuck_for_ms: 2000, moves: false }],
            port_drops: &|_| vec![(DropReason::NoRoute, 3)],
            captures: 1,
            unlearned: 4,
            flows: dataplane_core::FlowUse {
                flows: 7,
                slots: 9,
                capacity: 65536,
                node_ports: 2,
                refused: 3,
                octets: 1024,
            },
            node_ports: 8192,
        },
    })
}

/// The samples of a page, which must be of the text format: each family announced once, by HELP then TYPE, its samples
/// together, names and labels legal, label values closed and escaped, no sample twice, each value a number.
fn parse(page: &str) -> BTreeMap<String, f64> {
    assert!(page.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let (mut announced, mut helped, mut current) = (BTreeSet::new(), None, None);
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect(line);
            assert!(!help.is_empty() && announced.insert(name.to_owned()), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert_eq!(helped.as_deref(), Some(name), "{line}");
            assert!(matches!(kind, "gauge" | "counter"), "{line}");
            current = Some(name.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert_eq!(current.as_deref(), Some(name), "{line}: not with its family");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
            check_labels(labels, line);
            let value = value.parse().unwrap_or_else(|_| panic!("{line}: no number"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{line}: twice");
        }
    }
    samples
}

fn check_labels(labels: &str, line: &str) {
    if labels.is_empty() {
        return;
    }
    let mut rest = labels;
    loop {
        let (name, behind) = rest.split_once("=\"").expect(line);
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
        let mut letters = behind.char_indices();
        let end = loop {
            match letters.next().expect(line) {
                (_, '\\') => assert!(matches!(letters.next(), Some((_, '\\' | '"' | 'n'))), "{line}"),
                (at, '"') => break at,
                _ => {}
            }
        };
        rest = &behind[end + 1..];
        match rest {
            "}" => return,
            _ => rest = rest.strip_prefix(',').expect(line),
        }
    }
}

#[tokio::test]
async fn page_is_of_the_text_format() {
    let samples = parse(&page(vec![
        view("192.0.2.1", State::Established).await,
        view("2001:db8::1", State::Active).await,
    ]));
    assert!(samples.len() > 40, "{samples:?}");
    parse(&page(Vec::new()));
}

#[tokio::test]
async fn names_are_those_that_frr_and_gobgp_users_look_for() {
    let samples = parse(&page(vec![
        view("192.0.2.1", State::Established).await,
        view("192.0.2.2", State::Active).await,
    ]));
    let of = |peer: &str| {
        format!(
            "{{vrf=\"default\",afi=\"all\",safi=\"vpn\",local_as=\"64512\",peer=\"{peer}\",peer_as=\"65001\"}}"
        )
    };
    assert_eq!(samples[&format!("frr_bgp_peer_state{}", of("192.0.2.1"))], 1.0);
    assert_eq!(samples[&format!("frr_bgp_peer_state{}", of("192.0.2.2"))], 0.0);
    assert_eq!(samples[&format!("frr_bgp_peer_uptime_seconds{}", of("192.0.2.2"))], 0.0);
    assert_eq!(samples[&format!("frr_bgp_peer_prefixes_received_count_total{}", of("192.0.2.1"))], 4.0);
    assert_eq!(samples["bgp_received_update_total{peer=\"192.0.2.1\"}"], 7.0);
    assert_eq!(samples["vrouter_worker_moves{worker=\"0\"}"], 0.0);
    assert_eq!(samples["vrouter_worker_turns_total{worker=\"0\"}"], 8.0);
    assert_eq!((samples["vrouter_flows"], samples["vrouter_flow_slots_max"]), (7.0, 65536.0));
    assert_eq!((samples["vrouter_flows_refused_total"], samples["vrouter_node_ports_max"]), (3.0, 8192.0));
    assert_eq!((samples["vrouter_captures"], samples["vrouter_unlearned_total"]), (1.0, 4.0));
    assert_eq!(samples["process_resident_memory_bytes"], 5_000_000.0);
    assert_eq!(samples["vrouter_vrf_routes{vrf=\"city\"}"], 0.0);
    for reason in DropReason::ALL {
        assert_eq!(samples[&format!("vrouter_drops_total{{reason=\"{}\"}}", reason.name())], 3.0);
    }
}

#[test]
fn what_people_name_things_is_escaped() {
    let mut page = Page::default();
    page.family("x", "gauge", "y");
    page.sample("x", &[("a", "q\"b\\s\nn"), ("b", "ü{},")], 1);
    assert!(page.0.ends_with("x{a=\"q\\\"b\\\\s\\nn\",b=\"ü{},\"} 1\n"), "{}", page.0);
    parse(&page.0);
}
