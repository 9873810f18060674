use serde::{Deserialize, Serialize};

/// Why the agent said no. The kind decides the HTTP status and, for a CNI call, the error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// 400: the request cannot be understood.
    BadRequest,
    /// 403: the VRF does not admit this workload.
    NotAdmitted,
    /// 404: no such VRF, port, neighbor.
    NotFound,
    /// 409: the interface, address or port is another's.
    Conflict,
    /// 413: the body is larger than the agent reads.
    TooLarge,
    /// 507: no address, label or port is left.
    Exhausted,
    /// 503: not now; the same call may succeed later.
    Unavailable,
    /// 500: our fault, or the kernel's.
    Internal,
}

impl ErrorKind {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            ErrorKind::BadRequest => 400,
            ErrorKind::NotAdmitted => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::Conflict => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::Exhausted => 507,
            ErrorKind::Unavailable => 503,
            ErrorKind::Internal => 500,
        }
    }
}

/// The body of every reply that is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong, for programs.
    pub kind: ErrorKind,
    /// What went wrong and what to do about it, for people.
    pub message: String,
}

impl ApiError {
    /// An error of this kind with this message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into() }
    }
}
