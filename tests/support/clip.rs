//! A clip to publish again and again: a prepared H.264 byte stream, cut into payloads once for all who send it, or VP8.

use std::sync::Arc;
use std::time::Duration;

use stillcast::base::clock::Clock;
use stillcast::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use stillcast::media::time::Timestamp;
use stillcast::media::track::VideoCodec;
use stillcast::media::unit::AccessUnit;
use stillcast::media::vp8::FrameUnits;
use stillcast::proto::rtp::pack_h264::{PAYLOAD_BYTES_MAX, pack};

/// One picture of a [`Clip`].
pub struct ClipPicture {
    /// As the server should get it, but for its times.
    pub unit: AccessUnit,
    /// The same as RTP payloads; shared by all who send it. Empty for VP8, whose payloads are numbered by each sender.
    pub payloads: Vec<Vec<u8>>,
}

/// Pictures in sending order; the first one is an IDR picture.
pub struct Clip {
    pub pictures: Vec<ClipPicture>,
    /// Time from one picture to the next.
    pub interval: Duration,
}

/// Why a byte stream is no clip.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// A picture cannot be used.
    #[error("picture {0}: {1}")]
    Picture(usize, String),
    /// Pictures are shown in another order than they are sent, which WebRTC has no time stamps for.
    #[error("picture {0} is a B picture")]
    Reordered(usize),
    /// Nothing that can be shown.
    #[error("the first picture is not an IDR picture")]
    NoIdr,
}

impl Clip {
    /// Reads an Annex B byte stream of `fps` pictures a second.
    pub fn read(stream: &[u8], fps: u32) -> Result<Arc<Self>, ClipError> {
        let mut builder = UnitBuilder::new(u64::MAX);
        let mut pictures = Vec::new();
        let (arrived, zero) = (Clock::manual().now(), Timestamp::video(0));
        for (number, nals) in annex_b_pictures(stream).into_iter().enumerate() {
            nals.into_iter().for_each(|nal| builder.push(nal));
            let unit = builder
                .finish(UnitTimes { arrived, pts: zero, dts: zero })
                .map_err(|error| ClipError::Picture(number, error.to_string()))?;
            let Some(unit) = unit else { continue };
            if unit.bidirectional {
                return Err(ClipError::Reordered(number));
            }
            let payloads = pack(&unit, PAYLOAD_BYTES_MAX)
                .map_err(|error| ClipError::Picture(number, error.to_string()))?;
            pictures.push(ClipPicture { unit, payloads });
        }
        Self::new(pictures, fps)
    }

    /// Reads IVF files with VP8, one after the other: 32 bytes of header each, then frames after 12 bytes that begin with
    /// the frame's size.
    pub fn read_ivf(files: &[Vec<u8>], fps: u32) -> Result<Arc<Self>, ClipError> {
        let (mut units, mut pictures) = (FrameUnits::new(u64::MAX), Vec::new());
        for file in files {
            let mut rest = file.get(32..).unwrap_or_default();
            while let Some((head, after)) = rest.split_first_chunk::<12>() {
                let size = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
                let (frame, after) = after.split_at(size);
                rest = after;
                let unit = units.unit(frame, Clock::manual().now(), Timestamp::video(0));
                let unit = unit.map_err(|error| ClipError::Picture(pictures.len(), error.to_string()))?;
                pictures.push(ClipPicture { unit, payloads: Vec::new() });
            }
        }
        Self::new(pictures, fps)
    }

    fn new(pictures: Vec<ClipPicture>, fps: u32) -> Result<Arc<Self>, ClipError> {
        if !pictures.first().is_some_and(|picture| picture.unit.key) {
            return Err(ClipError::NoIdr);
        }
        Ok(Arc::new(Self { pictures, interval: Duration::from_secs(1) / fps.max(1) }))
    }

    /// Whether it is VP8.
    pub fn is_vp8(&self) -> bool {
        self.pictures.iter().all(|picture| picture.unit.params.codec == VideoCodec::Vp8)
    }
}

/// A clip being shown: it loops, and time goes on.
pub struct Playback {
    clip: Arc<Clip>,
    next: usize,
    shown: u64,
    wants_key: bool,
    /// A wish for a keyframe leads back to the IDR picture before, not on to the next one.
    rewinds: bool,
}

impl Playback {
    /// Begins with the first picture. With `rewinds`, a wish for a keyframe leads back to the newest IDR picture;
    /// without, on to the next one of the clip.
    pub fn new(clip: Arc<Clip>, rewinds: bool) -> Self {
        Self { clip, next: 0, shown: 0, wants_key: false, rewinds }
    }

    /// The next picture will be an IDR picture.
    pub fn want_keyframe(&mut self) {
        self.wants_key = true;
    }

    /// Pictures shown.
    pub fn shown(&self) -> u64 {
        self.shown
    }

    /// When picture `shown` is due after the first one.
    pub fn due(&self) -> Duration {
        Duration::from_nanos(self.clip.interval.as_nanos() as u64 * self.shown)
    }

    /// The next picture, with its time in ticks of 90 kHz since the first one.
    pub fn next(&mut self) -> (&ClipPicture, u64) {
        let pictures = &self.clip.pictures;
        let mut position = self.next % pictures.len();
        if std::mem::take(&mut self.wants_key) {
            let is_key = |at: &usize| pictures[*at].unit.key;
            let before = (0..=position).rev().find(is_key);
            let after = (position..pictures.len()).find(is_key);
            // The first picture of a clip is an IDR picture.
            position = if self.rewinds { before } else { after }.unwrap_or(0);
        }
        let ticks = (self.due().as_nanos() * 90_000 / 1_000_000_000) as u64;
        self.next = position + 1;
        self.shown += 1;
        (&pictures[position], ticks)
    }
}
