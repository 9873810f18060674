//! What an epoll event is about, in its sixty-four bits.

use vrouter_types::PortId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// Something has changed: the snapshot, or it is time to stop.
    Wake,
    Port(PortId),
    /// Which of the worker's UDP receivers.
    Udp(usize),
    Gre,
    Host,
    /// The watchdog asks.
    Probe,
}

const KIND: u32 = 32;

impl Token {
    pub(crate) fn write(self) -> u64 {
        let (kind, value) = match self {
            Token::Wake => (0u64, 0),
            Token::Port(port) => (1, port.0),
            Token::Udp(place) => (2, u32::try_from(place).unwrap_or(u32::MAX)),
            Token::Gre => (3, 0),
            Token::Host => (4, 0),
            Token::Probe => (5, 0),
        };
        kind << KIND | u64::from(value)
    }

    pub(crate) fn read(token: u64) -> Token {
        let value = u32::try_from(token & u64::from(u32::MAX)).unwrap_or(0);
        match token >> KIND {
            1 => Token::Port(PortId(value)),
            2 => Token::Udp(value as usize),
            3 => Token::Gre,
            4 => Token::Host,
            5 => Token::Probe,
            _ => Token::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for token in [
            Token::Wake,
            Token::Port(PortId(u32::MAX)),
            Token::Port(PortId(0)),
            Token::Udp(1),
            Token::Gre,
            Token::Host,
            Token::Probe,
        ] {
            assert_eq!(Token::read(token.write()), token);
        }
    }
}
