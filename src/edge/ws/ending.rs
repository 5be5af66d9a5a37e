//! Why a connection is over, which decides who says goodbye and how.

use std::fmt;

use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::proto::signal::CloseReason;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client said goodbye.
    ByClient,
    /// It went without a word.
    Gone(String),
    /// We close it and say why.
    ByUs(CloseCode, String),
    /// The server stops.
    Stop,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient => f.write_str("client left"),
            Self::Gone(why) | Self::ByUs(_, why) => f.write_str(why),
            Self::Stop => f.write_str("server stops"),
        }
    }
}

impl From<CloseReason> for Ending {
    fn from(reason: CloseReason) -> Self {
        let code = match reason {
            CloseReason::KeepAlive => CloseCode::Away,
            CloseReason::NoConnection | CloseReason::BadMessages | CloseReason::Refused => CloseCode::Policy,
        };
        Self::ByUs(code, reason.to_string())
    }
}

/// A close frame holds at most 125 bytes, two of which are the code (RFC 6455 section 5.5).
pub(super) fn close_frame(code: CloseCode, why: &str) -> CloseFrame {
    let mut end = why.len().min(123);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code, reason: why[..end].to_owned().into() }
}
