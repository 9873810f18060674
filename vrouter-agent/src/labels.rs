//! Labels of our own: from 16 up, one per port, never reused at once.

/// What a label is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelUse {
    /// It leads to this port.
    InUse(vrouter_types::PortId),
    /// It is withdrawn, and not yet to be used again.
    Resting,
}
