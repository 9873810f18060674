//! ROUTE-REFRESH (RFC 2918) and its delimiters (RFC 7313).
//!
//! ```text
//! | AFI (2) | subtype (1) | SAFI (1) |
//! ```
//! Outbound route filters (RFC 5291) are never negotiated: a message that carries one is not obeyed.

use bytes::{BufMut, BytesMut};

use crate::{Family, Negotiated, Notification};

use super::header::{self, MessageType};

/// What a ROUTE-REFRESH asks or says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteRefresh {
    /// Send me this family again.
    Request(Family),
    /// What follows is the whole family (BoRR).
    Begin(Family),
    /// The whole family has been sent (EoRR).
    End(Family),
}

impl RouteRefresh {
    /// Reads the body. `None`: nothing to do (another family, a subtype or filter that was not negotiated).
    pub fn decode(body: &[u8], negotiated: &Negotiated) -> Result<Option<RouteRefresh>, Notification> {
        let [afi_high, afi_low, subtype, safi, filter @ ..] = body else {
            let length = u16::try_from(header::LEN + body.len()).unwrap_or(u16::MAX);
            return Err(Notification::bad_message_length(length));
        };
        let delimits = matches!(*subtype, BEGIN | END) && negotiated.enhanced_route_refresh;
        if delimits && !filter.is_empty() {
            // RFC 7313 §5: the data is the whole message.
            let mut message = BytesMut::new();
            let start = header::begin(&mut message, MessageType::RouteRefresh);
            message.put_slice(body);
            header::finish(&mut message, start);
            return Err(Notification::refresh_length(&message));
        }
        let family = Family::from_code(u16::from_be_bytes([*afi_high, *afi_low]), *safi)
            .filter(|family| negotiated.families.contains(*family));
        let Some(family) = family else { return Ok(None) };
        Ok(match *subtype {
            REQUEST if filter.is_empty() && negotiated.route_refresh => Some(RouteRefresh::Request(family)),
            BEGIN if delimits => Some(RouteRefresh::Begin(family)),
            END if delimits => Some(RouteRefresh::End(family)),
            _ => None,
        })
    }

    /// Appends the whole message.
    pub fn encode(self, out: &mut BytesMut) {
        let (family, subtype) = match self {
            RouteRefresh::Request(family) => (family, REQUEST),
            RouteRefresh::Begin(family) => (family, BEGIN),
            RouteRefresh::End(family) => (family, END),
        };
        let (afi, safi) = family.code();
        let start = header::begin(out, MessageType::RouteRefresh);
        out.put_u16(afi);
        out.put_u8(subtype);
        out.put_u8(safi);
        header::finish(out, start);
    }
}

const REQUEST: u8 = 0;
const BEGIN: u8 = 1;
const END: u8 = 2;
