//! Ours, as the process under test: a reflector, or an edge that imports every route target of the recipe and says how
//! far it is.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use bgp_peer::{
    Family, FamilySet, NeighborConfig, Speaker, SpeakerConfig, SpeakerEvent, VrfImport, VrfRoute,
};
use tokio::sync::mpsc;
use vrouter_types::{Asn, VrfId};

use crate::contender::DUT;
use crate::recipe::{ASN, VRFS, edge_hash};

/// Runs until it is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Import instead of reflect
    #[arg(long)]
    edge: bool,
    /// Offer RT constraint
    #[arg(long)]
    rtc: bool,
    /// Addresses that may connect
    clients: Vec<Ipv4Addr>,
}

/// Runs the speaker on one thread.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut events) = mpsc::channel(64);
    let speaker = Speaker::spawn(configuration(options), sender)?;
    if options.edge {
        let import = |vrf: u32, number: u32| {
            Ok::<_, Box<dyn std::error::Error>>(VrfImport {
                vrf: VrfId(vrf),
                import: vec![format!("target:{ASN}:{number}").parse()?],
            })
        };
        // The first target of each VRF for a VRF of its own; the second target is nobody's.
        let imports = (1..=VRFS).map(|vrf| import(vrf, vrf)).collect::<Result<_, _>>()?;
        speaker.set_imports(imports).await;
    }
    let (mut held, mut sum) = (0_u64, 0_u64);
    while let Some(event) = events.recv().await {
        if let (SpeakerEvent::Routes(routes), true) = (event, options.edge) {
            routes.iter().for_each(|route| count(route, &mut held, &mut sum));
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
            writeln!(std::io::stdout(), "held {held} {sum} {now}")?;
        }
    }
    Ok(())
}

/// Every route is announced once and withdrawn once here, so there is no need to remember what it was.
fn count(route: &VrfRoute, held: &mut u64, sum: &mut u64) {
    let [path] = &route.paths[..] else {
        *held -= 1;
        return;
    };
    if let (IpAddr::V4(prefix), IpAddr::V4(next_hop)) = (route.prefix.addr(), path.next_hop) {
        let hash = edge_hash(&path.rd.octets(), u32::from(prefix), path.label.value(), next_hop);
        (*held, *sum) = (*held + 1, sum.wrapping_add(hash));
    }
}

fn configuration(options: &Options) -> SpeakerConfig {
    let mut families = FamilySet::from_iter([Family::Vpnv4]);
    if options.rtc {
        families.insert(Family::Rtc);
    }
    let neighbor = |client: &Ipv4Addr| NeighborConfig {
        address: IpAddr::V4(*client),
        asn: Asn(ASN),
        passive: true,
        local_address: Some(IpAddr::V4(DUT)),
        families,
        route_reflector_client: !options.edge,
        // The bench's peers offer none, and a session that offers it is not the same for all.
        graceful_restart: Some(false),
        ..NeighborConfig::default()
    };
    SpeakerConfig {
        asn: Asn(ASN),
        router_id: DUT,
        hold_time: 180,
        listen: Some(SocketAddr::from((DUT, 179))),
        neighbors: options.clients.iter().map(neighbor).collect(),
        max_paths: 4_000_000,
        ..SpeakerConfig::default()
    }
}
