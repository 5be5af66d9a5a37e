//! The opening handshake (RFC 6455 section 4.2), and clear answers to whoever did not want a WebSocket.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::server::{NoCallback, ServerHandshake};
use tungstenite::protocol::WebSocketConfig;

/// Why a connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The request is none for a WebSocket; it was answered by this status.
    #[error("answered {status}: {cause}")]
    Answered {
        /// Status line without the version.
        status: &'static str,
        /// What was wrong.
        cause: tungstenite::Error,
    },
    /// No request came in time, or the connection broke, or TLS failed.
    #[error("no handshake: {0}")]
    Transport(#[source] io::Error),
}

/// Reads the request and answers it. Any path, origin and sub-protocol is accepted, and no extension is.
pub(super) fn accept<S: Read + Write>(stream: &mut S) -> Result<(), Refused> {
    // The WebSocket made here only lives through the handshake: its buffer can be small.
    let config = WebSocketConfig::default().read_buffer_size(0);
    let cause = match ServerHandshake::start(&mut *stream, NoCallback, Some(config)).handshake() {
        Ok(_) => return Ok(()),
        Err(HandshakeError::Failure(tungstenite::Error::Io(error))) => return Err(Refused::Transport(error)),
        Err(HandshakeError::Interrupted(_)) => {
            return Err(Refused::Transport(io::ErrorKind::TimedOut.into()));
        }
        Err(HandshakeError::Failure(cause)) => cause,
    };
    if matches!(cause, tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete)) {
        return Err(Refused::Transport(io::ErrorKind::UnexpectedEof.into()));
    }
    let (status, header) = status_of(&cause);
    let body = "This port speaks WebSocket. Web pages and the REST API are on other ports.\n";
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{header}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.flush();
    // What the client still sends is read, a little of it: closing over unread bytes would reset the connection
    // and take our answer with it.
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if !matches!(stream.read(&mut rest), Ok(1..)) {
            break;
        }
    }
    Err(Refused::Answered { status, cause })
}

/// The status line for a request that is no WebSocket handshake, and a header line that goes with it.
fn status_of(cause: &tungstenite::Error) -> (&'static str, &'static str) {
    use tungstenite::Error;
    match cause {
        Error::Protocol(ProtocolError::WrongHttpMethod) => ("405 Method Not Allowed", "Allow: GET\r\n"),
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => ("426 Upgrade Required", "Upgrade: websocket\r\n"),
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
        }
        Error::AttackAttempt | Error::Capacity(CapacityError::TooManyHeaders) => {
            ("431 Request Header Fields Too Large", "")
        }
        _ => ("400 Bad Request", ""),
    }
}
