//! Names that follow from a port's key alone, so that DEL and a repeated ADD find them without any state.

use agent_api::PortKey;
use vrouter_types::MacAddr;

/// The host end of the veth pair: `vr` and 52 bits of the key's hash, 15 octets in all.
pub(crate) fn host_interface(key: &PortKey) -> String {
    format!("vr{:013x}", hash(key) >> 12)
}

/// The pod's MAC address, where the runtime asks for none: locally administered, and 40 bits of the hash.
pub(crate) fn pod_mac(key: &PortKey) -> MacAddr {
    mac(0x02, key)
}

/// The host end's own MAC address. It is not the gateway's: frames to the gateway are "for another host", and the kernel
/// discards its copy of them.
pub(crate) fn host_mac(key: &PortKey) -> MacAddr {
    mac(0x06, key)
}

fn mac(first: u8, key: &PortKey) -> MacAddr {
    let [_, _, _, a, b, c, d, e] = hash(key).to_be_bytes();
    MacAddr([first, a, b, c, d, e])
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv(octets: &[u8]) -> u64 {
    octets.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// FNV-1a. '/' cannot be in a container ID, so the text of a key is as unique as the key.
fn hash(key: &PortKey) -> u64 {
    let text = key.to_string();
    let fnv = fnv(text.as_bytes());
    // FNV leaves the high bits of short texts alike; the finaliser of splitmix64 spreads them.
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(container: &str, interface: &str) -> PortKey {
        PortKey { container: container.to_owned(), interface: interface.to_owned() }
    }

    #[test]
    fn names_are_stable_valid_and_differ() {
        // Running pods have these names: another version of the plugin must find them again.
        assert_eq!(host_interface(&key("c1", "eth0")), host_interface(&key("c1", "eth0")));
        let names: std::collections::HashSet<_> = (0..10_000)
            .map(|n| host_interface(&key(&format!("c{n}"), "eth0")))
            .inspect(|name| assert_eq!(name.len(), 15))
            .collect();
        assert_eq!(names.len(), 10_000);
        assert_ne!(host_interface(&key("c1", "eth0")), host_interface(&key("c1", "net1")));
    }

    #[test]
    fn macs_are_unicast_local_and_not_each_others() {
        let (pod, host) = (pod_mac(&key("c1", "eth0")), host_mac(&key("c1", "eth0")));
        for mac in [pod, host] {
            assert!(!mac.is_group() && mac.0[0] & 2 == 2 && mac != MacAddr::GATEWAY);
        }
        assert_ne!(pod, host);
    }
}
