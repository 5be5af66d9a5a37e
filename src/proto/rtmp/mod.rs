//! RTMP: publishing into us, playing from us, and playing from other servers.
//!
//! ```text
//! bytes ─► handshake ─► chunk ─► link (control messages) ─► server | client (commands) ─► media_reader ─► access units
//! bytes ◄────────────── chunk ◄─ link ◄──────────────────── server (play) ◄─────────────── media_writer ◄─ units
//! ```
//!
//! Sources: Adobe's Real-Time Messaging Protocol 1.0 (2012; "section" without a name is one of it), AMF 0 (2007), FLV
//! 10.1 annex E, and Enhanced RTMP v2 (Veovera, 2024). Sockets and the hub do not belong here.

pub mod amf0;
pub mod chunk;
pub mod client;
pub mod flv;
pub mod handshake;
mod link;
pub mod media_reader;
mod media_writer;
pub mod server;
mod timeline;
pub mod url;

pub use media_reader::MediaOutput;
pub use media_writer::Unplayable;

use amf0::AmfError;
use thiserror::Error;

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RtmpError {
    /// Another version of the protocol, or another protocol.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// A chunk refers to an earlier header that never came.
    #[error("chunk without a header before it")]
    NoHeader,
    /// A new message begins within an unfinished one of the same chunk stream.
    #[error("message interrupted by another")]
    Interrupted,
    /// More than [`chunk::CHUNK_STREAMS_MAX`].
    #[error("too many chunk streams")]
    TooManyChunkStreams,
    /// More than [`chunk::MESSAGE_BYTES_MAX`].
    #[error("message of {0} bytes")]
    MessageTooLarge(usize),
    /// Unfinished messages claim more than [`chunk::UNFINISHED_BYTES_MAX`].
    #[error("too many unfinished messages")]
    TooMuchUnfinished,
    /// 0, or more than 31 bits.
    #[error("chunk size of {0}")]
    ChunkSize(u32),
    /// A control message, an aggregate or a command is not as it has to be; says which.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The values of a command cannot be read.
    #[error("malformed command: {0}")]
    Amf(#[from] AmfError),
}

impl RtmpError {
    /// The kind under which bad input is counted.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Version(_) => "rtmp_version",
            Self::NoHeader | Self::Interrupted | Self::ChunkSize(_) => "rtmp_chunk",
            Self::TooManyChunkStreams | Self::TooMuchUnfinished => "rtmp_chunk_streams",
            Self::MessageTooLarge(_) => "rtmp_message_too_large",
            Self::Malformed(_) | Self::Amf(_) => "rtmp_malformed",
        }
    }
}
