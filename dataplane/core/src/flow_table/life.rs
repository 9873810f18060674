//! How a flow's life goes on with each packet, and when it is over.

use crate::packet::{ICMP, ICMPV6, TCP, UDP};

/// Flags of TCP (RFC 9293 §3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Milliseconds without a packet until a flow is over. What both ends keep up lives as RFC 5382 (2 hours and 4 minutes
/// for TCP), RFC 4787 (2 minutes for UDP) and RFC 5508 (60 seconds for echoes) ask at least. What nobody has answered, and
/// connections that open or close, get less than the 4 and 2 minutes there, as Linux has it: a flood is over sooner.
const TCP_OPENING_MS: u64 = 60_000;
const TCP_OPEN_MS: u64 = 7_440_000;
const TCP_CLOSING_MS: u64 = 120_000;
const TCP_CLOSED_MS: u64 = 30_000;
const TCP_RESET_MS: u64 = 10_000;
const UDP_ASKED_MS: u64 = 30_000;
const UDP_ANSWERED_MS: u64 = 180_000;
const ECHO_MS: u64 = 60_000;
const OTHER_MS: u64 = 180_000;
const DENIED_MS: u64 = 120_000;
/// Later fragments follow at once, or were lost.
pub(super) const FRAGMENT_MS: u64 = 5_000;

/// Who sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// Who began the flow.
    Beginner,
    /// Who answers.
    Answerer,
}

/// What a packet tells of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sender: Sender,
    /// Of TCP; zero for others.
    pub(crate) flags: u8,
}

impl Seen {
    /// Whether it asks for a new connection.
    pub(crate) fn is_bare_syn(self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }
}

/// How far a flow has come. One octet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowState(pub(super) u8);

impl FlowState {
    const ANSWERED: u8 = 0x01;
    const OPEN: u8 = 0x02;
    const FIN_BEGINNER: u8 = 0x04;
    const FIN_ANSWERER: u8 = 0x08;
    const RESET_BEGINNER: u8 = 0x10;
    const DENIED: u8 = 0x20;
    const RESET_ANSWERER: u8 = 0x40;
    const FINS: u8 = Self::FIN_BEGINNER | Self::FIN_ANSWERER;
    const RESETS: u8 = Self::RESET_BEGINNER | Self::RESET_ANSWERER;

    /// After the first packet.
    pub(super) fn first(protocol: u8, seen: Seen) -> FlowState {
        FlowState(0).after(protocol, seen)
    }

    /// After one more packet.
    pub(super) fn after(self, protocol: u8, Seen { sender, flags }: Seen) -> FlowState {
        let mut state = self.0;
        if sender == Sender::Answerer {
            state |= Self::ANSWERED;
        }
        if protocol != TCP {
            return FlowState(state);
        }
        let bare_syn = flags & (SYN | ACK | RST) == SYN;
        if bare_syn && sender == Sender::Beginner && self.is_closed() {
            return FlowState(0);
        }
        let reset = if sender == Sender::Beginner { Self::RESET_BEGINNER } else { Self::RESET_ANSWERER };
        if flags & RST != 0 {
            state |= reset;
        } else if flags & SYN == 0 {
            // Whoever resets a connection says nothing more: it was somebody else, in its name (RFC 5961 §3), or an
            // older connection that was meant.
            state &= !reset;
        }
        if flags & FIN != 0 {
            state |= if sender == Sender::Beginner { Self::FIN_BEGINNER } else { Self::FIN_ANSWERER };
        }
        // Whoever began acknowledges the answer: both ends have shown themselves. A flow whose beginning was not seen,
        // as after a restart, is open once both have spoken.
        if sender == Sender::Beginner && flags & SYN == 0 && state & Self::ANSWERED != 0 {
            state |= Self::OPEN;
        }
        FlowState(state)
    }

    pub(super) fn denied(self) -> FlowState {
        FlowState(self.0 | Self::DENIED)
    }

    pub(super) fn allowed(self) -> FlowState {
        FlowState(self.0 & !Self::DENIED)
    }

    /// Whether the rules have cut it off.
    pub fn is_denied(self) -> bool {
        self.0 & Self::DENIED != 0
    }

    /// Whether a new connection may take its place.
    pub(crate) fn is_closed(self) -> bool {
        self.0 & Self::RESETS != 0 || self.0 & Self::FINS == Self::FINS
    }

    /// How long it may be quiet.
    pub(super) fn idle_ms(self, protocol: u8) -> u64 {
        let state = self.0;
        if self.is_denied() {
            return DENIED_MS;
        }
        match protocol {
            TCP if state & Self::RESETS != 0 => TCP_RESET_MS,
            TCP if state & Self::FINS == Self::FINS => TCP_CLOSED_MS,
            TCP if state & Self::FINS != 0 => TCP_CLOSING_MS,
            TCP if state & Self::OPEN != 0 => TCP_OPEN_MS,
            TCP => TCP_OPENING_MS,
            UDP if state & Self::ANSWERED != 0 => UDP_ANSWERED_MS,
            UDP => UDP_ASKED_MS,
            ICMP | ICMPV6 => ECHO_MS,
            _ => OTHER_MS,
        }
    }

    /// One word for it.
    pub fn name(self, protocol: u8) -> &'static str {
        let state = self.0;
        match protocol {
            _ if self.is_denied() => "denied",
            TCP if state & Self::RESETS != 0 => "reset",
            TCP if state & Self::FINS == Self::FINS => "closed",
            TCP if state & Self::FINS != 0 => "closing",
            TCP if state & Self::OPEN != 0 => "established",
            TCP => "opening",
            _ if state & Self::ANSWERED != 0 => "answered",
            _ => "asked",
        }
    }
}
