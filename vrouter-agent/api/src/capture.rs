//! What `vrouterctl capture` asks for. The reply is a pcapng file (see [`crate::pcapng`]) that goes on until a limit is
//! reached or either side has had enough.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// Asks for copies of packets. It travels as a query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Where: `underlay`, or a port by number, by its host's interface, by its workload's name or `namespace/name`.
    pub point: String,
    /// Only these packets; `host 10.0.0.1 and tcp`, see the help of `vrouterctl capture`.
    pub filter: Option<String>,
    /// Only this way; `None`: both.
    pub direction: Option<CaptureDirection>,
    /// Octets kept of each packet; `None`: all.
    pub snaplen: Option<u32>,
    /// Ends after so many packets.
    pub count: Option<u64>,
    /// Ends after so many seconds.
    pub seconds: Option<u64>,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureDirection {
    /// From the workload, or from the wire.
    In,
    /// To the workload, or to the wire.
    Out,
}

/// A word that is no direction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a direction is \"in\" or \"out\"")]
pub struct DirectionError;

impl FromStr for CaptureDirection {
    type Err = DirectionError;

    fn from_str(text: &str) -> Result<CaptureDirection, DirectionError> {
        match text {
            "in" => Ok(CaptureDirection::In),
            "out" => Ok(CaptureDirection::Out),
            _ => Err(DirectionError),
        }
    }
}

impl Display for CaptureDirection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CaptureDirection::In => "in",
            CaptureDirection::Out => "out",
        })
    }
}
