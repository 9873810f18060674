//! From the host: IP packets for local ports, whatever their VRF, as far as the host FIB says.

use super::{Origin, Pipeline, Refusal, rewrite};
use crate::frame::Frame;
use crate::nat;
use crate::packet::Packet;
use crate::reply::icmp::{self, Error};
use crate::trace::Recorder;
use crate::verdict::{DropReason, Verdict};

impl<R: Recorder> Pipeline<'_, R> {
    pub(crate) fn host_packet(&mut self, frame: &mut Frame<'_>) -> Verdict {
        let packet = match read_ip(frame) {
            Ok(packet) => packet,
            Err(reason) => return Verdict::Drop(reason),
        };
        self.steps.note(|| format!("the host sends {} to {}: {} octets", packet.src, packet.dst, packet.len));
        if nat::is_service_address(packet.dst) {
            let verdict = self.host_to_service(&packet, frame);
            let port = nat::service_port(packet.dst).and_then(|id| self.fib.port(id));
            return verdict
                .unwrap_or_else(|refusal| self.refuse(Origin::Host(port), &packet, frame.bytes(), refusal));
        }
        // It left by the host, which must not lead it to another tenant's workload.
        if nat::is_service_address(packet.src) {
            return Verdict::Drop(DropReason::HostToStranger);
        }
        let port = self.fib.host.lookup(packet.dst).and_then(|id| self.fib.port(id));
        let verdict = match port {
            Some(port) => {
                // TTL stays: the host is the gateway, and nothing lies between it and its ports.
                self.fit_port(frame, &packet, port).map(|()| {
                    self.clamp(frame, &packet, port.mtu);
                    let (flows, now_ms) = (&self.state.host_flows, self.state.now_ms);
                    flows.begin(port.id, &packet, frame.bytes(), now_ms);
                    Verdict::ToPort(port.id)
                })
            }
            None => Err(Refusal { reason: DropReason::HostNoPort, error: Some(Error::HostUnreachable) }),
        };
        verdict.unwrap_or_else(|refusal| self.refuse(Origin::Host(port), &packet, frame.bytes(), refusal))
    }
}

fn read_ip(frame: &mut Frame<'_>) -> Result<Packet, DropReason> {
    let packet = Packet::parse(frame.bytes())?;
    frame.truncate(packet.len);
    // The kernel says hello on every new interface: listener reports, router solicitations.
    if packet.dst.is_multicast() {
        return Err(DropReason::Multicast);
    }
    if icmp::is_group(packet.dst) {
        return Err(DropReason::Broadcast);
    }
    rewrite::check_offload(frame, &packet)?;
    Ok(packet)
}
