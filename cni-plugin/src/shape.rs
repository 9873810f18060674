//! Limits of a pod's bandwidth: a token bucket (tc-tbf) on either end of its veth pair.
//!
//! ```text
//!   to the pod     on the host's end: the agent sees it when it opens the port, and sends through it instead of past it
//!   from the pod   on the pod's end, where the pod's packets pass before anybody reads them
//! ```
//! Runtimes that know no burst name the largest number there is; so a burst is a fifth of a second's worth at most.

use netlink_packet_core::Emitable;
use serde_json::{Map, Value};

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const NESTED: u16 = 0x8000;
const TC_H_ROOT: u32 = 0xffff_ffff;
/// `1:`
const HANDLE: u32 = 1 << 16;
const LINKLAYER_ETHERNET: u8 = 1;
/// Less would hold up single packets.
const LEAST_BURST: u64 = 16 << 10;

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Octets per second.
    rate: u64,
    /// Octets that may pass at once.
    burst: u32,
}

/// What the `bandwidth` capability asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) to_pod: Option<Limit>,
    pub(crate) from_pod: Option<Limit>,
}

impl Bandwidth {
    /// Reads it, whatever case its keys have. A rate of zero is none, and so is one that makes no sense.
    pub(crate) fn read(map: &Map<String, Value>) -> Bandwidth {
        let number = |name: &str| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1.as_u64();
        let limit = |rate, burst| Limit::new(number(rate)?, number(burst));
        Bandwidth {
            to_pod: limit("ingressRate", "ingressBurst"),
            from_pod: limit("egressRate", "egressBurst"),
        }
    }
}

impl Limit {
    /// Both in bits, as CNI has them.
    fn new(rate: u64, burst: Option<u64>) -> Option<Limit> {
        let (rate, burst) = (rate / 8, burst.filter(|bits| *bits > 0).map_or(u64::MAX, |bits| bits / 8));
        let burst = burst.min(rate / 5).max(LEAST_BURST);
        (rate > 0).then_some(Limit { rate, burst: u32::try_from(burst).unwrap_or(u32::MAX) })
    }
}

/// RTM_NEWQDISC's body: the token bucket at the root of a link.
///
/// `tcmsg`: family 1, padding 3 | index 4 | handle 4 | parent 4 | info 4.
pub(crate) fn token_bucket(index: u32, limit: Limit) -> Message {
    let mut message = Message(vec![0; 4]);
    for word in [index, HANDLE, TC_H_ROOT, 0] {
        message.0.extend_from_slice(&word.to_ne_bytes());
    }
    message.put(TCA_KIND, b"tbf\0");
    let mut options = Message(Vec::new());
    options.put(TCA_TBF_PARMS, &parameters(limit));
    options.put(TCA_TBF_BURST, &limit.burst.to_ne_bytes());
    if limit.rate > u64::from(u32::MAX) {
        options.put(TCA_TBF_RATE64, &limit.rate.to_ne_bytes());
    }
    message.put(TCA_OPTIONS | NESTED, &options.0);
    message
}

/// `tc_tbf_qopt`: two `tc_ratespec` (cell log 1, link layer 1, overhead 2, cell align 2, mpu 2, rate 4), limit 4, buffer 4,
/// MTU 4. The queue holds a burst and what 25 ms let through.
fn parameters(limit: Limit) -> Vec<u8> {
    let rate = u32::try_from(limit.rate).unwrap_or(u32::MAX);
    let queue = u64::from(limit.burst) + limit.rate / 40;
    let mut octets = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    octets.extend_from_slice(&rate.to_ne_bytes());
    octets.extend_from_slice(&[0; 12]);
    for word in [u32::try_from(queue).unwrap_or(u32::MAX), 0, 0] {
        octets.extend_from_slice(&word.to_ne_bytes());
    }
    octets
}

/// A message of route netlink: octets in order.
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn put(&mut self, kind: u16, value: &[u8]) {
        // Our values are a few octets.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Bandwidth {
        Bandwidth::read(value.as_object().unwrap())
    }

    #[test]
    fn both_cases_are_read_and_bursts_are_bounded() {
        let crio = read(
            json!({ "ingressRate": 8_000_000, "ingressBurst": 400_000, "egressRate": 0, "egressBurst": 0 }),
        );
        assert_eq!(
            crio,
            Bandwidth { to_pod: Some(Limit { rate: 1_000_000, burst: 50_000 }), from_pod: None }
        );
        let containerd = read(json!({ "EgressRate": 8_000_000, "EgressBurst": 4_294_967_295_u64 }));
        assert_eq!(containerd.from_pod, Some(Limit { rate: 1_000_000, burst: 200_000 }));
        assert_eq!(
            read(json!({ "ingressRate": 64_000 })).to_pod,
            Some(Limit { rate: 8_000, burst: 16 << 10 })
        );
        for odd in [
            json!({}),
            json!({ "ingressRate": "8M" }),
            json!({ "egressRate": -1 }),
            json!({ "ingressRate": 7 }),
        ] {
            assert_eq!(read(odd), Bandwidth::default());
        }
    }

    #[test]
    fn the_message_is_what_tc_sends() {
        let message = token_bucket(7, Limit { rate: 1_000_000, burst: 50_000 }).0;
        assert_eq!(message.len(), 20 + 8 + 4 + 40 + 8);
        assert_eq!(message[4..8], 7_u32.to_ne_bytes());
        assert_eq!(&message[24..28], b"tbf\0");
        assert_eq!(message[44..48], 1_000_000_u32.to_ne_bytes());
        assert_eq!(message[60..64], 75_000_u32.to_ne_bytes());
        let fast = token_bucket(7, Limit { rate: 1 << 40, burst: 1 << 20 }).0;
        assert_eq!(fast[fast.len() - 8..], (1_u64 << 40).to_ne_bytes());
    }
}
