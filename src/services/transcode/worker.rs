//! The thread of one rendition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::form::{Form, FrameRate};
use super::order::DisplayOrder;
use super::scaler::Scaler;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::base::stop::StopToken;
use crate::hub::{EndReason, Publisher, Stream};
use crate::media::picture::YuvPicture;
use crate::media::time::Timestamp;
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::decode::{DecodeError, StreamDecoder};
use crate::services::encode::{EncodeError, EncoderSettings, H264Encoder};
use crate::services::vod::VodKind;

/// Units (of sound, too) that may wait for this thread: three seconds' worth.
const LIVE_QUEUE: usize = 256;
/// With more than this in the queue pictures are decoded and not encoded, so that the thread catches up.
const BEHIND_UNITS: usize = 12;
/// A stream that says nothing is looked at so often: whether somebody still watches.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks whether the viewer of a file of its own has come.
const VIEWER_INTERVAL: Duration = Duration::from_millis(10);
/// Between two keyframes that are asked for: many viewers may lose packets at once.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(500);

/// What one rendition owns.
pub(super) struct Worker {
    source: Arc<Stream>,
    form: Form,
    publisher: Publisher,
    /// Viewers want a keyframe.
    rung: Receiver<()>,
    pixels_max: u64,
}

impl Worker {
    pub(super) fn new(
        source: Arc<Stream>,
        form: Form,
        publisher: Publisher,
        rung: Receiver<()>,
        pixels_max: u64,
    ) -> Self {
        Self { source, form, publisher, rung, pixels_max }
    }

    /// Makes pictures until the stream ends, `is_unwatched` says that nobody is there, the stream turns out to be one that cannot
    /// be decoded, or the server stops.
    pub(super) fn run(
        self,
        is_unwatched: &dyn Fn() -> bool,
        stop: &StopToken,
        metrics: &Metrics,
        clock: &Clock,
    ) {
        let Self { source, form, publisher, rung, pixels_max } = self;
        let name = source.publication().name.clone();
        metrics.renditions.inc();
        let mut making = Making {
            source: &source,
            form,
            publisher: &publisher,
            rung,
            decoder: StreamDecoder::new(pixels_max, metrics.clone()),
            order: DisplayOrder::default(),
            scaler: Scaler::default(),
            rate: FrameRate::default(),
            encoder: None,
            keyframe_at: None,
            metrics,
        };
        let reason = match making.follow(is_unwatched, stop, clock) {
            Ok(reason) => reason,
            Err(error) => {
                tracing::warn!("{name} cannot be made anew: {error}");
                EndReason::Internal
            }
        };
        metrics.renditions.dec();
        tracing::info!("{name} is no longer made anew: {reason}");
        publisher.end(reason);
    }
}

/// Why a rendition ends before its time.
#[derive(Debug, thiserror::Error)]
enum MakingError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A picture and when it is shown.
struct Shown {
    picture: YuvPicture,
    pts: Timestamp,
}

struct Making<'a> {
    source: &'a Arc<Stream>,
    form: Form,
    publisher: &'a Publisher,
    rung: Receiver<()>,
    decoder: StreamDecoder,
    order: DisplayOrder<Shown>,
    scaler: Scaler,
    rate: FrameRate,
    encoder: Option<H264Encoder>,
    /// When the last keyframe was made.
    keyframe_at: Option<Instant>,
    metrics: &'a Metrics,
}

impl Making<'_> {
    fn follow(
        &mut self,
        is_unwatched: &dyn Fn() -> bool,
        stop: &StopToken,
        clock: &Clock,
    ) -> Result<EndReason, MakingError> {
        let facts = self.source.facts();
        self.publisher.expect_tracks(facts.has_video, facts.has_audio);
        self.publisher.set_publishing();
        // A file that is played to one viewer begins when somebody watches: that shall be the viewer, not this thread.
        let is_waited_for = VodKind::is_personal(self.source);
        while is_waited_for && self.publisher.stream().facts().watchers == 0 {
            if stop.wait(VIEWER_INTERVAL) {
                return Ok(EndReason::Shutdown);
            }
            if is_unwatched() || self.source.ended().is_some() {
                return Ok(EndReason::Unwatched);
            }
        }
        let subscription = self.source.subscribe(LIVE_QUEUE, None);
        if subscription.backlog.units.is_empty() {
            self.source.request_keyframe();
        }
        self.catch_up(&subscription.backlog.units, clock.now())?;
        let live = subscription.live.receiver();
        let mut missed = 0;
        loop {
            let unit = select! {
                recv(live) -> unit => unit.map_err(|_| RecvTimeoutError::Disconnected),
                recv(stop.channel()) -> _ => return Ok(EndReason::Shutdown),
                default(LOOK_INTERVAL) => Err(RecvTimeoutError::Timeout),
            };
            if is_unwatched() {
                return Ok(EndReason::Unwatched);
            }
            match unit {
                Ok(MediaUnit::Video(unit)) => {
                    let wanted = live.len() <= BEHIND_UNITS;
                    for shown in self.decode(&unit, wanted)? {
                        self.encode(shown, clock.now())?;
                    }
                }
                Ok(MediaUnit::Audio(frame)) => self.publisher.push_audio((*frame).clone()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Those that waited for others to be shown before them.
                    for shown in self.order.flush() {
                        self.encode(shown, clock.now())?;
                    }
                    return Ok(self.source.ended().unwrap_or(EndReason::Internal));
                }
            }
            let missed_now = subscription.live.missed();
            if missed_now > std::mem::replace(&mut missed, missed_now) {
                self.source.request_keyframe();
            }
        }
    }

    /// Brings the decoder to the present. Of what is shown until then only the last picture is encoded: the others are past.
    fn catch_up(&mut self, group: &[Arc<AccessUnit>], now: Instant) -> Result<(), MakingError> {
        let reorders = group.iter().any(|unit| unit.bidirectional);
        let wanted_from = group.len().saturating_sub(if reorders { REORDERED_UNITS } else { 1 });
        let mut last = None;
        for (at, unit) in group.iter().enumerate() {
            if !unit.hidden {
                self.rate.note(unit.pts);
            }
            last = self.decode(unit, at >= wanted_from)?.pop().or(last);
        }
        // Times in decoding order say how many pictures a second there are only where none is reordered.
        if reorders {
            self.rate = FrameRate::default();
        }
        if let Some(shown) = last {
            self.encode(shown, now)?;
        }
        Ok(())
    }

    /// Decodes a unit; returns the pictures whose turn to be shown it is. After damage there are none until a keyframe comes.
    ///
    /// # Errors
    /// When this stream cannot be decoded.
    fn decode(&mut self, unit: &AccessUnit, wanted: bool) -> Result<Vec<Shown>, DecodeError> {
        let picture = match self.decoder.step(unit, wanted && !unit.hidden) {
            Ok(picture) => picture,
            // The decoder that can do these begins with the group again.
            Err(DecodeError::Bidirectional) => {
                let group = self.source.gop();
                match self.decoder.picture(&group, unit.seq) {
                    Ok(picture) => Some(picture).filter(|_| wanted && !unit.hidden),
                    Err(error) => return self.damaged(error),
                }
            }
            Err(error) => return self.damaged(error),
        };
        let pts = unit.pts;
        Ok(self.order.push(unit, picture.map(|picture| Shown { picture, pts })))
    }

    /// Everything that a keyframe mends is waited out; the pictures decoded before are still shown.
    fn damaged(&mut self, error: DecodeError) -> Result<Vec<Shown>, DecodeError> {
        match error {
            DecodeError::Unsupported(_)
            | DecodeError::TooLarge { .. }
            | DecodeError::Parameters
            | DecodeError::Start => Err(error),
            _ => {
                self.source.request_keyframe();
                Ok(self.order.flush())
            }
        }
    }

    fn encode(&mut self, shown: Shown, now: Instant) -> Result<(), EncodeError> {
        let Shown { picture, pts } = shown;
        self.rate.note(pts);
        let (width, height) = self.form.coded_size(&picture.params);
        let colour = picture.params.colour;
        let told = self.encoder.as_ref().map(H264Encoder::settings);
        let rate_fits = |told: &EncoderSettings| !self.rate.is_far_from(told.frames_per_second);
        let frames_per_second =
            told.filter(rate_fits).map_or_else(|| self.rate.per_second(), |told| told.frames_per_second);
        let bitrate_bps = Some(self.form.bitrate_bps((width, height), frames_per_second));
        let settings =
            EncoderSettings { width, height, frames_per_second, bitrate_bps, may_skip: true, colour };
        let encoder = match &mut self.encoder {
            Some(encoder) => {
                if told != Some(settings) {
                    encoder.change(settings)?;
                }
                encoder
            }
            none => none.insert(H264Encoder::new(settings)?),
        };
        let may_ask = self.keyframe_at.is_none_or(|at| now.saturating_duration_since(at) >= KEYFRAME_PAUSE);
        if may_ask && self.rung.try_recv().is_ok() {
            encoder.request_keyframe();
        }
        encoder.set_rotation(picture.params.rotation);
        let planes = self
            .scaler
            .scale(&picture, width, height)
            .map_err(|error| EncodeError::Library(error.to_string()))?;
        if let Some(unit) = encoder.encode(&planes, pts, picture.arrived)? {
            if unit.key {
                self.keyframe_at = Some(now);
                // Whoever asked before it came has it now.
                let _ = self.rung.try_recv();
            }
            self.publisher.push_video(unit);
            self.metrics.pictures_transcoded_total.inc();
        }
        self.decoder.recycle(picture);
        Ok(())
    }
}

/// So many of the last units of a group may hold the picture that is shown last (H.264 A.3.1, `MaxDpbFrames`, and itself).
const REORDERED_UNITS: usize = 17;
