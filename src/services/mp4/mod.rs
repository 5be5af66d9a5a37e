//! MP4 files (ISO/IEC 14496-12): what recordings are written as, and what playback of files reads.
//!
//! ```text
//! file ──boxes.rs──► moov, moof ──movie.rs──► Movie: tracks, samples in decoding order, edits     (reading)
//! file ◄──write.rs── head, fragments, index                                                       (writing)
//! ```
//!
//! The boxes themselves are encoded and decoded by the crate `shiguredo_mp4`, which nobody else names. Here stand the
//! bounds: a file is outside input, so that every count is held against the bytes that must back it before anything is
//! allocated, and every sample lies inside the file. Where samples go and what they mean to a stream is not known here.

mod boxes;
mod check;
mod edits;
mod entry;
mod movie;
mod write;

pub use boxes::{BoxHead, ReadAt};
pub use edits::{Edit, MediaMoment};
pub use entry::{EntryCodec, OPUS_PRE_SKIP};
pub use movie::{Entry, Movie, Sample, Track, TrackKind};
pub(in crate::services) use write::{FragmentSample, FragmentTrack, NewTrack, fragment, head, index};

/// Most bytes of a file's index (`moov`): tables of some ten million samples.
pub const MOOV_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of one fragment's head (`moof`).
pub const MOOF_BYTES_MAX: u64 = 2 << 20;
/// Most samples of a file, all tracks together: twenty hours of picture and sound, 128 MiB of memory.
pub const SAMPLES_MAX: usize = 4_000_000;
/// Most tracks that are looked at.
pub const TRACKS_MAX: usize = 32;
/// Most boxes at the top of a file: fragments of one second for sixty hours.
pub const TOP_BOXES_MAX: usize = 500_000;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Mp4Error {
    /// The system does not read or write.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is no such file, or one that is damaged where it must not be.
    #[error("not a usable MP4 file: {0}")]
    Format(String),
    /// More of something than is taken.
    #[error("not a usable MP4 file: too many or too large {0}")]
    TooLarge(&'static str),
}

impl From<shiguredo_mp4::Error> for Mp4Error {
    fn from(error: shiguredo_mp4::Error) -> Self {
        Self::Format(error.to_string())
    }
}

/// A fault of the format, in a few words.
fn format_error(what: &str) -> Mp4Error {
    Mp4Error::Format(what.to_owned())
}
