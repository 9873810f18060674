//! Messages of our own: every family, announced and withdrawn, with every attribute that we write.

use std::net::IpAddr;

use bgp_core::Family;
use bgp_core::wire::as_path::AsPath;
use bgp_core::wire::attr::check::{Attributes, Origin};
use bgp_core::wire::attr::set::AttrSet;
use bgp_core::wire::header;
use bgp_core::wire::nlri::{Nlri, RtMembership};
use bgp_core::wire::update::writer::{UpdateWriter, put_end_of_rib};
use bytes::BytesMut;
use vrouter_types::{Asn, Label, Prefix, RouteDistinguisher, RouteTarget, VpnPrefix};

use super::{Message, session};

/// xorshift64*: the same messages in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    fn octets<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.octet())
    }

    fn list<const N: usize>(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).flat_map(|_| self.octets::<N>()).collect()
    }

    fn asn(&mut self) -> u32 {
        let low = u32::try_from(self.below(60_000)).unwrap() + 1;
        if self.below(2) == 0 { low } else { low + 4_000_000_000 }
    }
}

/// Six hundred messages of ours: every family, announced and withdrawn, with every attribute that we write.
pub(crate) fn own_messages() -> Vec<Message> {
    let mut chance = Chance(42);
    let mut messages: Vec<Message> = (0..600).map(|number| own_message(number, &mut chance)).collect();
    for family in Family::ALL {
        let mut out = BytesMut::new();
        put_end_of_rib(&mut out, family);
        messages.push(own(format!("our End-of-RIB of {family}"), &out));
    }
    messages
}

fn own(id: String, octets: &[u8]) -> Message {
    Message { id, octets: octets.to_vec(), as4: true, is_ibgp: true, is_ours: true }
}

fn own_message(number: usize, chance: &mut Chance) -> Message {
    let family = Family::ALL[number % Family::ALL.len()];
    let routes: Vec<Nlri> = (0..1 + chance.below(40)).map(|_| own_route(family, chance)).collect();
    let mut out = BytesMut::new();
    if number % 4 == 3 {
        let mut message = UpdateWriter::withdraw(&mut out, family, header::MAX_LEN);
        routes.iter().for_each(|route| assert!(message.push(route)));
        message.finish();
        return own(format!("our withdrawal {number} of {family}"), &out);
    }
    let next_hop = match (family, chance.below(2)) {
        (Family::Ipv4Unicast, _) | (_, 0) => IpAddr::from([10, chance.octet(), chance.octet(), 1]),
        _ => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, chance.octet(), 1]),
    };
    let exported = own_attributes(family, next_hop, chance);
    let mut message = UpdateWriter::announce(&mut out, family, next_hop, &exported, header::MAX_LEN);
    routes.iter().for_each(|route| assert!(message.push(route)));
    message.finish();
    own(format!("our announcement {number} of {family}"), &out)
}

fn own_attributes(family: Family, next_hop: IpAddr, chance: &mut Chance) -> Vec<u8> {
    let mut path = Vec::new();
    for kind in [2, 1].into_iter().take(usize::try_from(chance.below(3)).unwrap()) {
        let numbers: Vec<u32> = (0..1 + chance.below(4)).map(|_| chance.asn()).collect();
        path.extend([kind, u8::try_from(numbers.len()).unwrap()]);
        numbers.iter().for_each(|asn| path.extend(asn.to_be_bytes()));
    }
    let mut ext_communities = Vec::new();
    for _ in 0..chance.below(6) {
        let value: [u8; 6] = chance.octets();
        let kind = [[0, 2], [1, 2], [2, 2], [0, 3], [0x80, 6]][usize::try_from(chance.below(5)).unwrap()];
        ext_communities.extend(kind.into_iter().chain(value));
    }
    ext_communities.extend([3, 0x0c, 0, 0, 0, 0, 0, if chance.below(2) == 0 { 11 } else { 13 }]);
    let (communities, large, clusters) = (chance.list::<4>(5), chance.list::<12>(3), chance.list::<4>(3));
    let med = chance.below(1 << 33);
    let attributes = Attributes {
        origin: Origin::from_octet(u8::try_from(chance.below(3)).unwrap()),
        as_path: Some(AsPath::new(&path, true).unwrap()),
        med: u32::try_from(med).ok(),
        local_pref: u32::try_from(chance.below(1000)).ok(),
        communities: &communities,
        originator_id: (!clusters.is_empty()).then(|| chance.octets().into()),
        cluster_list: &clusters,
        ext_communities: &ext_communities,
        large_communities: &large,
        ..Attributes::default()
    };
    let (mut canonical, mut exported) = (Vec::new(), Vec::new());
    attributes.canonical(next_hop, &mut canonical);
    let session = session(&own(String::new(), &[]));
    AttrSet::new(&canonical).export(family, &session, &mut exported);
    exported
}

fn own_route(family: Family, chance: &mut Chance) -> Nlri {
    let v4 = |chance: &mut Chance| {
        let length = u8::try_from(chance.below(33)).unwrap();
        Prefix::new(IpAddr::from([10, chance.octet(), chance.octet(), chance.octet()]), length).unwrap()
    };
    let v6 = |chance: &mut Chance| {
        let mut octets: [u8; 16] = chance.octets();
        (octets[0], octets[1]) = (0x20, 1);
        Prefix::new(IpAddr::from(octets), u8::try_from(chance.below(129)).unwrap()).unwrap()
    };
    let labelled = |prefix: Prefix, chance: &mut Chance| {
        let mut rd: [u8; 8] = chance.octets();
        (rd[0], rd[1]) = (0, u8::try_from(chance.below(3)).unwrap());
        let label = Label::new(u32::try_from(16 + chance.below(1_000_000)).unwrap()).unwrap();
        Nlri::Vpn(VpnPrefix { rd: RouteDistinguisher::from_octets(rd), prefix }, label)
    };
    match family {
        Family::Ipv4Unicast => Nlri::Unicast(v4(chance)),
        Family::Ipv6Unicast => Nlri::Unicast(v6(chance)),
        Family::Vpnv4 => labelled(v4(chance), chance),
        Family::Vpnv6 => labelled(v6(chance), chance),
        Family::Rtc => {
            let value: [u8; 6] = chance.octets();
            let target = RouteTarget::from_ext_community(
                [[u8::try_from(chance.below(3)).unwrap(), 2].as_slice(), &value].concat().try_into().unwrap(),
            );
            Nlri::Rtc(RtMembership::full(Asn(chance.asn()), target.unwrap()))
        }
    }
}
