//! Session descriptions (RFC 8866) as WebRTC uses them (RFC 8829, RFC 9429): reading offers, writing answers.
//!
//! What belongs here: the text, its meaning, and the choice of codecs. What does not: the transports that the text
//! describes (`ice`, `dtls`) and the tracks (`rtp`).

pub mod answer;
pub mod codec;
pub mod offer;
pub mod viewer;

pub use answer::{Negotiated, NegotiationError};
pub use offer::Offer;

/// Largest offer that is read. Chromium's offers with every codec are 6–12 KiB; a conference of many sections 60.
pub const OFFER_MAX_BYTES: usize = 128 * 1024;
/// Most lines of an offer. Chromium writes some 150 per section of video.
pub const OFFER_MAX_LINES: usize = 2000;
/// Longest line. The longest in practice is an `m=` line with all 128 payload types.
pub const LINE_MAX_BYTES: usize = 4096;
/// Most `m=` lines of an offer.
pub const SECTIONS_MAX: usize = 16;
/// Most formats in one `m=` line: payload types have 7 bits.
pub const FORMATS_MAX: usize = 128;
/// Most sources in one section: three layers of simulcast with repair are twelve.
pub const SSRCS_MAX: usize = 32;
/// Most header extensions in one section; identifiers of the one-byte form end at 14.
pub const EXTENSIONS_MAX: usize = 64;
/// Most certificate fingerprints in one section.
pub const FINGERPRINTS_MAX: usize = 8;

/// Why an offer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// The text does not begin with `v=0`.
    #[error("not a session description")]
    NotSdp,
    /// More bytes than [`OFFER_MAX_BYTES`].
    #[error("session description of {0} bytes, at most {OFFER_MAX_BYTES} are read")]
    TooLong(usize),
    /// More lines than [`OFFER_MAX_LINES`].
    #[error("session description has more than {OFFER_MAX_LINES} lines")]
    TooManyLines,
    /// A line is longer than [`LINE_MAX_BYTES`].
    #[error("line {line} is longer than {LINE_MAX_BYTES} bytes")]
    LineTooLong {
        /// Number of the line, from 1.
        line: usize,
    },
    /// More of something than its bound allows.
    #[error("more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// An `m=` line has fewer than its four parts or an impossible port.
    #[error("line {line}: not a media description")]
    BadMedia {
        /// Number of the line, from 1.
        line: usize,
    },
    /// No `m=` line.
    #[error("no media")]
    NoMedia,
    /// Something without which no transport comes up.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The offer asks for something that this server does not do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

#[cfg(test)]
mod tests;
