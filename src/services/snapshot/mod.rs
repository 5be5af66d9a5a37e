//! Snapshots on request: the newest decodable picture of a stream as PNG, one decode for all who ask.
//!
//! ```text
//! request ─► desk ─jobs──► decode-k ──picture──► desk ─jobs──► snapshot-k ──PNG──► every reply that it serves
//!              │ picture is there: the caller's own thread makes the PNG ──────────►─┘
//!              ▲  │                     ▲
//!              │  └─ watch-… ───────────┘ (decodes in step with a stream that was asked for lately)
//!              └─ snapshot-desk: deadlines, and streams that owe a keyframe
//! ```
//!
//! Beside it, `stills` makes small pictures of newest keyframes for lists. `desk` decides and is pure; `service` carries out, `work` does the jobs, `watch` follows one stream. Nobody here is ever waited for
//! by a publisher. What pictures are (decoding, colour, PNG) belongs in the modules beside this one, what a door does
//! with a snapshot (HTTP headers, base64 in a message) in `edge`.

#[cfg(test)]
mod by_hand;
mod desk;
mod service;
mod stills;
#[cfg(test)]
mod tests;
mod watch;
mod work;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use bytes::Bytes;

use super::decode::DecodeError;
use super::png::PngError;
use super::scale::ScaleError;
pub use super::scale::{Fit, Scale};
pub use service::{SnapshotService, Snapshots};
pub use stills::{STILL_SIDE_MAX, StillSource};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRequest {
    /// Name of the stream.
    pub stream_name: String,
    /// Make it smaller; `None`: the stream's own size. [`Scale::check`] tells beforehand whether the box is usable.
    pub scale: Option<Scale>,
    /// Refuse a picture that is older than this when the answer is given; `None`: any age.
    pub max_age: Option<Duration>,
    /// Longest wait; `None`: the configured one.
    pub limit: Option<Duration>,
}

/// A finished picture. It is shared by all who asked for the same moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The stream that it shows.
    pub stream_name: String,
    /// The file.
    pub png: Bytes,
    /// Pixels in a row of the file.
    pub width: u32,
    /// Rows of the file.
    pub height: u32,
    /// Width : height of one pixel; 1:1 almost always. Scaling keeps it.
    pub sample_aspect_ratio: (u16, u16),
    /// When the picture's first byte reached the server, by the wall clock.
    pub captured: SystemTime,
    /// The same moment on the monotonic clock: ages are counted from it.
    pub captured_at: Instant,
    /// Which publication it belongs to ([`Stream::epoch`](crate::hub::Stream::epoch)).
    pub epoch: u64,
    /// Which of its units it is.
    pub seq: u64,
    base64: OnceLock<String>,
}

impl Snapshot {
    /// The file in base64 (RFC 4648 section 4), made at the first call.
    pub fn base64(&self) -> &str {
        self.base64.get_or_init(|| base64::engine::general_purpose::STANDARD.encode(&self.png))
    }

    /// How old the picture is.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.captured_at)
    }
}

/// Why there is no snapshot. The text is the one for clients (protocol document, sections 4.2 and 9.2).
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nobody publishes under this name.
    #[error("Stream not found")]
    StreamNotFound,
    /// The stream has sound alone.
    #[error("Stream has no video")]
    NoVideo,
    /// Nothing can be decoded before the next keyframe, for which this caller does not wait.
    #[error("No keyframe yet")]
    NoKeyframe,
    /// No picture in time.
    #[error("Snapshot response timeout")]
    Timeout,
    /// The newest picture is older than the caller allows.
    #[error("Newest picture is {} ms old", .0.as_millis())]
    TooOld(Duration),
    /// More is asked for than the server can do.
    #[error("Snapshot taking error: server is busy")]
    Busy,
    /// The stream cannot be decoded.
    #[error("Snapshot taking error: {0}")]
    Decode(#[source] DecodeError),
    /// The stream uses something that we cannot decode.
    #[error("Snapshot taking error: {0} cannot be decoded")]
    Unsupported(&'static str),
    /// The picture cannot be written.
    #[error("Snapshot taking error: {0}")]
    Encode(#[source] Arc<PngError>),
    /// The picture cannot be scaled so.
    #[error("Snapshot taking error: {0}")]
    Scale(#[source] ScaleError),
    /// A fault of ours; the log tells which.
    #[error("Snapshot taking error")]
    Internal,
    /// The server stops.
    #[error("Snapshot taking error: server stops")]
    Stopping,
    /// The stream ended while its picture was taken.
    #[error("Distributor stopped")]
    StreamEnded,
}

impl SnapshotError {
    /// `result` in the counts.
    fn label(&self) -> &'static str {
        match self {
            Self::StreamNotFound => "not_found",
            Self::NoVideo => "no_video",
            Self::NoKeyframe => "no_keyframe",
            Self::Timeout => "timeout",
            Self::TooOld(_) => "too_old",
            Self::Busy => "busy",
            Self::Decode(_) => "decode",
            Self::Unsupported(_) => "unsupported",
            Self::Encode(_) => "encode",
            Self::Scale(_) => "scale",
            Self::Internal => "internal",
            Self::Stopping => "stopping",
            Self::StreamEnded => "ended",
        }
    }
}

impl From<DecodeError> for SnapshotError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Unsupported(what) => Self::Unsupported(what),
            error => Self::Decode(error),
        }
    }
}

/// What the service may spend.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// Longest wait of a request that names none (`snapshot_taking_interval_ms`).
    pub limit: Duration,
    /// Parts into which the wait for a keyframe is divided: in each the stream is looked at again and the publisher
    /// is asked again (`snapshot_taking_attempts`).
    pub attempts: u32,
    /// How long a stream's decoder runs in step after a request (`snapshot_watch_ms`); zero: never.
    pub watch: Duration,
    /// Streams watched at once (`snapshot_watched_max`); the one asked for longest ago is let go first.
    pub watched_max: usize,
    /// Threads that decode (`snapshot_decoders`).
    pub decoders: usize,
    /// Threads that make PNG files (`snapshot_encoders`).
    pub encoders: usize,
    /// Streams that may wait for a decoder (`snapshot_queue_max`); more are refused as busy.
    pub queue_max: usize,
    /// More units than this to decode: the publisher is asked for a keyframe, and whichever picture is ready first
    /// is taken.
    pub keyframe_units: u64,
    /// Most pixels of a coded picture.
    pub pixels_max: u64,
}
