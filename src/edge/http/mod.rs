//! HTTP/1.1 on a connection: reads requests within bounds, asks a [`Handler`], writes the responses.
//!
//! ```text
//! socket ─► head (httparse, limits) ─► body ─► rouille::Request ─► Handler ─► rouille::Response ─► socket
//! ```
//!
//! The thread of a connection sleeps in one place, on its socket and on the stop signal, and each step has a deadline
//! for the whole of it, so that a client that dribbles bytes or does not read its answer loses the connection, never
//! more. What is answered belongs in [`super::rest`] and [`super::web`]; accepting and TLS in `accept` and `tls`.

pub mod body;
mod connection;
pub mod head;
mod line;
mod response;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use connection::HttpServer;
pub use head::HeadLimits;
pub(crate) use response::{reason, unless_known};
use rouille::{Request, Response};

/// Bounds and patience of HTTP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Bounds of a request's head.
    pub head: HeadLimits,
    /// Most bytes of a request's body.
    pub body_bytes_max: usize,
    /// From the first byte of a request (on a new connection: from its beginning, TLS handshake included) to the end of
    /// its head.
    pub head_deadline: Duration,
    /// From the end of the head to the end of the body.
    pub body_deadline: Duration,
    /// How long a connection may stay without a request after an answer.
    pub idle_deadline: Duration,
    /// How long a client may take nothing of its answer.
    pub write_stall: Duration,
    /// Slowest reader that is waited for, in bytes a second over the whole answer.
    pub write_rate_min: u64,
}

impl HttpSettings {
    /// What the server uses: 16 KiB and 64 lines of head in 10 s, 64 KiB of body in 10 s, 30 s between requests, and
    /// readers of at least 8 KiB/s that never pause for 10 s.
    #[must_use]
    pub fn usual() -> Self {
        Self {
            head: HeadLimits { bytes: 16 * 1024, headers: 64 },
            body_bytes_max: 64 * 1024,
            head_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(10),
            idle_deadline: Duration::from_secs(30),
            write_stall: Duration::from_secs(10),
            write_rate_min: 8 * 1024,
        }
    }
}

/// Answers requests. One is shared by all connections of all HTTP ports.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request whose head and body are whole. A panic becomes a 500 and is counted.
    fn handle(&self, request: &Request) -> Response;

    /// Words the answer to a request that never reaches [`Handler::handle`]; `path` is empty where it is not known.
    fn refuse(&self, error: RequestError, path: &str) -> Response;
}

/// Why a request is not handled. The connection is closed after the answer, as its further bytes mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The grammar is broken, or two readers could understand it differently; says where.
    #[error("Malformed request: {0}")]
    Malformed(&'static str),
    /// More head than [`HeadLimits`] allow.
    #[error("Request header is too large")]
    HeadTooLarge,
    /// The request line alone is more than that.
    #[error("Request target is too long")]
    TargetTooLong,
    /// More body than [`HttpSettings::body_bytes_max`].
    #[error("Request body is too large")]
    BodyTooLarge,
    /// A transfer coding other than `chunked`.
    #[error("Transfer coding is not supported")]
    TransferCoding,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("HTTP version is not supported")]
    Version,
    /// The client did not send the whole request in time.
    #[error("Request was not received in time")]
    Late,
    /// An expectation other than `100-continue`.
    #[error("Expectation cannot be met")]
    Expectation,
    /// An upgrade to WebSocket, which has ports of its own.
    #[error("WebSocket is not served on this port: use ws.port or wss.port")]
    WebSocket,
    /// The handler panicked.
    #[error("Internal error")]
    Panic,
}

impl RequestError {
    /// The status that says it (RFC 9110 section 15).
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed(_) | Self::WebSocket => 400,
            Self::Late => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::Panic => 500,
            Self::TransferCoding => 501,
            Self::Version => 505,
        }
    }

    /// The kind under which bad input is counted.
    fn kind(self) -> &'static str {
        match self {
            Self::Malformed(_) => "http_malformed",
            Self::HeadTooLarge | Self::TargetTooLong => "http_head_too_large",
            Self::BodyTooLarge => "http_body_too_large",
            Self::TransferCoding | Self::Version | Self::Expectation => "http_unsupported",
            Self::Late => "http_late",
            Self::WebSocket => "http_websocket",
            Self::Panic => "http_panic",
        }
    }
}
