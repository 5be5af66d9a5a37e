//! Why a connection is over, which decides who says goodbye and how.

use std::fmt;

use tungstenite::protocol::frame::coding::CloseCode;

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
