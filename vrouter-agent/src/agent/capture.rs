//! Captures: which port is meant, and what the file says of itself.

use std::time::Duration;

use agent_api::pcapng::{self, Interface, LINK_ETHERNET, LINK_RAW_IP};
use agent_api::{ApiError, CaptureDirection, CaptureRequest, ErrorKind};
use dataplane::{CaptureConfig, CapturePoint, Direction, MAX_SNAPLEN};
use dataplane_core::Filter;
use vrouter_types::PortId;

use super::Agent;
use crate::overlay::{Overlay, Port};
use crate::server::{CaptureStream, Reply};

/// What stands for the tunnels.
const UNDERLAY: &str = "underlay";
const OF_PORTS: &str = "Ethernet frames at the workload's interface. Inbound is what the workload sent, before anything \
                        was changed in it. Superframes (TSO, USO) are one packet each and may have partial checksums. \
                        A packet that the pipeline dropped says so in its comment; those that the kernel refused do not.";
const OF_UNDERLAY: &str = "Tunnel packets, each as on the wire, segmented. The outer IP, UDP and GRE headers are made up \
                           from what the sockets tell: TTL, identification, DF, options and GRE keys of packets received \
                           are not theirs. A packet that the pipeline dropped says so in its comment.";

impl Agent {
    /// Begins a capture. It ends when the stream is dropped.
    pub(super) fn capture(&self, request: &CaptureRequest) -> Result<Reply, ApiError> {
        let bad = |text: String| ApiError::new(ErrorKind::BadRequest, text);
        let filter = request.filter.as_deref().filter(|text| !text.trim().is_empty());
        let filter: Option<Filter> = filter
            .map(str::parse)
            .transpose()
            .map_err(|error: dataplane_core::filter::FilterError| bad(error.to_string()))?;
        let (point, name, description) = if request.point == UNDERLAY {
            (CapturePoint::Underlay, UNDERLAY.to_owned(), "tunnels to other provider edges".to_owned())
        } else {
            let port = find(&self.overlay, &request.point)?;
            let interface = port.saved.request.host_interface.clone();
            let description = format!("port {} of VRF {}", port.saved.port, port.saved.vrf);
            (CapturePoint::Port(port.saved.port), interface, description)
        };
        let snaplen = request.snaplen.unwrap_or(MAX_SNAPLEN).clamp(1, MAX_SNAPLEN);
        let text = filter.as_ref().map(ToString::to_string);
        let is_port = matches!(point, CapturePoint::Port(_));
        let mut head = Vec::new();
        let interface = Interface {
            link: if is_port { LINK_ETHERNET } else { LINK_RAW_IP },
            snaplen,
            name: &name,
            description: &description,
            comment: if is_port { OF_PORTS } else { OF_UNDERLAY },
            filter: text.as_deref(),
        };
        pcapng::begin(&mut head, concat!("vrouter-agent ", env!("CARGO_PKG_VERSION")), &interface);
        let direction = request.direction.map(|direction| match direction {
            CaptureDirection::In => Direction::In,
            CaptureDirection::Out => Direction::Out,
        });
        let config = CaptureConfig { point, direction, snaplen, filter };
        let capture = self.dataplane.capture(config);
        let capture = capture.map_err(|error| ApiError::new(ErrorKind::Exhausted, error.to_string()))?;
        tracing::info!(point = request.point, filter = text.as_deref().unwrap_or("all"), "capture begins");
        let (count, time) = (request.count, request.seconds.map(Duration::from_secs));
        Ok(Reply::Capture(CaptureStream { capture, head, count, time }))
    }
}

/// The port of this number, interface or name.
fn find<'o>(overlay: &'o Overlay, wanted: &str) -> Result<&'o Port, ApiError> {
    let by_number = wanted.parse().ok().and_then(|number| overlay.port(PortId(number)));
    let interface = |port: &&Port| port.saved.request.host_interface == wanted;
    if let Some(port) = by_number.or_else(|| overlay.ports().find(interface)) {
        return Ok(port);
    }
    let is_named = |port: &&Port| {
        let (name, namespace) = (&port.saved.request.name, &port.saved.request.namespace);
        let Some(name) = name else { return false };
        name == wanted || namespace.as_ref().is_some_and(|namespace| format!("{namespace}/{name}") == wanted)
    };
    let mut named = overlay.ports().filter(is_named);
    let not_found = |text: String| ApiError::new(ErrorKind::NotFound, text);
    match (named.next(), named.next()) {
        (Some(port), None) => Ok(port),
        (Some(_), Some(_)) => Err(not_found(format!(
            "several ports are of {wanted:?}: name one by its number (vrouterctl show ports)"
        ))),
        (None, _) => Err(not_found(format!(
            "there is no port {wanted:?}: it is a number, interface or name as vrouterctl show ports has them, or \"underlay\""
        ))),
    }
}
