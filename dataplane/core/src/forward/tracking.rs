//! Flows of ports that need state: which one a packet is of, whether it may go on, whether a new one may begin.
//!
//! A flow that is known passes without a look at the rules, until the policy changes: then it is checked once more, and
//! goes on only where the rules still allow what it began with.

use std::net::IpAddr;

use super::{Pipeline, Refusal, is_link_local};
use crate::fib::Port;
use crate::flow_table::{
    Begun, Class, Datagram, Direction, Flow, FlowTuple, NewFlow, Seen, Sender, Translation, classify,
};
use crate::packet::{Fragment, Packet, TCP};
use crate::policy::Question;
use crate::trace::Recorder;
use crate::verdict::DropReason;

impl Direction {
    /// Who begins a flow with a packet that goes this way.
    fn begun(self) -> Begun {
        match self {
            Direction::Out => Begun::Inside,
            Direction::In => Begun::Outside,
        }
    }

    fn reason(self) -> DropReason {
        match self {
            Direction::Out => DropReason::PolicyEgress,
            Direction::In => DropReason::PolicyIngress,
        }
    }

    pub(super) fn sender(self, begun: Begun) -> Sender {
        if self.begun() == begun { Sender::Beginner } else { Sender::Answerer }
    }
}

impl<'p, R: Recorder> Pipeline<'p, R> {
    /// The flow of a packet, which begins here if it may. `translation` says what others are to see of a new flow.
    /// `None`: the packet may pass, and is of no flow.
    pub(super) fn flow_of(
        &mut self,
        port: &'p Port,
        direction: Direction,
        (packet, bytes): (&Packet, &[u8]),
        translation: impl FnOnce(&mut Self) -> Result<Translation, Refusal>,
    ) -> Result<Option<Flow>, Refusal> {
        let now_ms = self.state.now_ms;
        match classify(port.id, direction, packet, bytes) {
            Class::Later(datagram) => self.flow_of_fragment(port, direction, &datagram),
            Class::Error(about) => {
                let flow = self.state.flow_table.find(&about, now_ms).filter(|flow| !flow.state.is_denied());
                if flow.is_none() {
                    self.ask_rules(port, direction, packet, bytes)?;
                } else {
                    self.steps.note(|| "it reports an error about a known flow".into());
                }
                Ok(flow)
            }
            Class::Alone => self.ask_rules(port, direction, packet, bytes).map(|()| None),
            Class::Flow { tuple, flags, begins } => {
                if let Some(flow) = self.go_on(port, direction, &tuple, flags)? {
                    self.expect_fragments(port, packet, &flow)?;
                    return Ok(Some(flow));
                }
                self.ask_rules(port, direction, packet, bytes)?;
                if !begins {
                    return Ok(None);
                }
                let translation = translation(self)?;
                if port.policy.is_none() && translation == Translation::None {
                    return Ok(None);
                }
                let flow = self.begin(port, direction, tuple, flags, (translation, None))?;
                self.expect_fragments(port, packet, &flow)?;
                Ok(Some(flow))
            }
        }
    }

    /// The flow of this tuple, if it is known and may go on.
    fn go_on(
        &mut self,
        port: &'p Port,
        direction: Direction,
        tuple: &FlowTuple,
        flags: u8,
    ) -> Result<Option<Flow>, Refusal> {
        let now_ms = self.state.now_ms;
        let Some(flow) = self.state.flow_table.find(tuple, now_ms) else { return Ok(None) };
        let seen = Seen { sender: direction.sender(flow.begun), flags };
        // The other end begins a new connection where an old one is over.
        let anew = seen.is_bare_syn() && seen.sender == Sender::Answerer && flow.state.is_closed();
        if anew || !self.is_translation_valid(port, &flow) {
            self.state.flow_table.remove(&flow);
            return Ok(None);
        }
        self.check_again(port, direction, &flow)?;
        self.steps.note(|| "it is of a known flow".into());
        self.state.flow_table.note(&flow, seen, now_ms);
        Ok(Some(flow))
    }

    /// Whether the address that others see of the flow still stands for the port's.
    pub(super) fn is_translation_valid(&self, port: &Port, flow: &Flow) -> bool {
        match flow.translation {
            Translation::None => true,
            Translation::Floating(address, vrf) => port
                .nat
                .iter()
                .any(|nat| nat.fixed == flow.tuple.local && nat.floating == address && nat.vrf == vrf),
            // Unlike the others, these come back to an address of the port's number, not of its own.
            _ if !is_own(port, flow.tuple.local) => false,
            Translation::Node(..) => {
                let snat = self.fib.vrf(port.vrf).and_then(|vrf| vrf.snat);
                snat.is_some_and(|snat| snat.covers(flow.tuple.local))
            }
            Translation::Metadata(..) => port.services.as_ref().is_some_and(|services| services.metadata),
            Translation::Dns(..) => port.services.as_ref().is_some_and(|services| services.dns),
        }
    }

    /// Whether the rules still allow a flow.
    pub(super) fn check_again(
        &mut self,
        port: &Port,
        direction: Direction,
        flow: &Flow,
    ) -> Result<(), Refusal> {
        let Some(policy) = &port.policy else { return Ok(()) };
        if matches!(flow.translation, Translation::Metadata(..) | Translation::Dns(..)) {
            return Ok(());
        }
        let table = &self.state.flow_table;
        if table.stamp(flow) == Some(policy.generation) {
            return if flow.state.is_denied() { Err(direction.reason().into()) } else { Ok(()) };
        }
        if policy.allows(&Question::of_flow(&flow.tuple, flow.begun)) {
            table.allow(flow, policy.generation);
            return Ok(());
        }
        self.steps.note(|| "the rules have changed, and no longer allow its flow".into());
        if flow.tuple.protocol == TCP {
            table.deny(flow, policy.generation);
        } else {
            table.remove(flow);
        }
        Err(direction.reason().into())
    }

    fn flow_of_fragment(
        &mut self,
        port: &Port,
        direction: Direction,
        datagram: &Datagram,
    ) -> Result<Option<Flow>, Refusal> {
        match self.state.flow_table.find_fragment(datagram, self.state.now_ms) {
            Some(flow) => self.check_again(port, direction, &flow).map(|()| Some(flow)),
            None if port.policy.is_none() => Ok(None),
            None => Err(DropReason::FlowFragment.into()),
        }
    }

    fn ask_rules(
        &mut self,
        port: &Port,
        direction: Direction,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        let Some(policy) = &port.policy else { return Ok(()) };
        let allowed = policy.allows(&Question::of_packet(direction.begun(), packet, bytes));
        self.steps.note(|| {
            let way = if direction == Direction::Out { "out of" } else { "in to" };
            let verb = if allowed { "a rule lets" } else { "no rule lets" };
            format!("{verb} it {way} port {}", port.id)
        });
        if allowed { Ok(()) } else { Err(direction.reason().into()) }
    }

    pub(super) fn begin(
        &mut self,
        port: &Port,
        direction: Direction,
        tuple: FlowTuple,
        flags: u8,
        (translation, other_end): (Translation, Option<(IpAddr, u16)>),
    ) -> Result<Flow, Refusal> {
        let policy = port.policy.as_ref().map_or(0, |policy| policy.generation);
        let seen = Seen { sender: Sender::Beginner, flags };
        let new = NewFlow { tuple, begun: direction.begun(), translation, other_end, seen, policy };
        Ok(self.state.flow_table.begin(&new, self.state.now_ms)?)
    }

    /// Where this is the first fragment of a datagram, the others are of the same flow.
    pub(super) fn expect_fragments(
        &mut self,
        port: &Port,
        packet: &Packet,
        flow: &Flow,
    ) -> Result<(), Refusal> {
        let Fragment::First(id) = packet.fragment else { return Ok(()) };
        let datagram = Datagram::of(port.id, packet, id);
        Ok(self.state.flow_table.begin_fragment(&datagram, flow, self.state.now_ms)?)
    }
}

/// Whether the workload may still have the address. Its link-local addresses it makes itself.
fn is_own(port: &Port, local: IpAddr) -> bool {
    (local.is_ipv6() && is_link_local(local)) || port.has(local)
}
