//! The jobs: what a `decode-k` and a `snapshot-k` thread do once.

use std::sync::Arc;
use std::time::Instant;

use super::desk::Failure;
use super::service::Shared;
use super::{Snapshot, SnapshotError};
use crate::hub::{Gop, Stream};
use crate::media::picture::YuvPicture;
use crate::services::colour;
use crate::services::decode::{DecodeError, StreamDecoder, newest_shown};
use crate::services::png::{self, Origin, PngText};
use crate::services::scale::Scale;

/// A picture that is to become a PNG.
pub(super) struct EncodingJob {
    pub(super) epoch: u64,
    pub(super) stream: Arc<Stream>,
    pub(super) picture: Arc<YuvPicture>,
    pub(super) scale: Option<Scale>,
}

impl Shared {
    pub(super) fn decode(self: &Arc<Self>, epoch: u64) {
        let Some((stream, deadline)) = self.desk.lock().begin(epoch) else { return };
        let mut unfinished = Unfinished { shared: self, epoch, what: Job::Decode };
        let mut decoder = self.decoder();
        let result = self.run(&mut decoder, &stream, deadline);
        unfinished.what = Job::Done;
        self.end_decoding(epoch, stream, decoder, result);
    }

    pub(super) fn decoder(&self) -> StreamDecoder {
        StreamDecoder::new(self.settings.pixels_max, self.metrics.clone())
    }

    pub(super) fn end_decoding(
        self: &Arc<Self>,
        epoch: u64,
        stream: Arc<Stream>,
        decoder: StreamDecoder,
        result: Result<(YuvPicture, u64), Failure>,
    ) {
        let now = self.clock.now();
        match result {
            Ok((picture, covers)) => {
                let (watch, actions) = self.desk.lock().decoded(now, epoch, Arc::new(picture), covers);
                self.perform(actions);
                if let Some(number) = watch {
                    self.watch(number, stream, decoder);
                }
            }
            Err(failure) => {
                tracing::debug!("no picture of stream {}: {failure:?}", stream.publication().name);
                let actions = self.desk.lock().failed(now, epoch, failure);
                self.perform(actions);
            }
        }
    }

    /// Decodes to the newest picture of the cache as it is now. The number is of the newest unit then.
    pub(super) fn run(
        &self,
        decoder: &mut StreamDecoder,
        stream: &Stream,
        mut deadline: Instant,
    ) -> Result<(YuvPicture, u64), Failure> {
        let nothing = || if stream.ended().is_some() { Failure::Ended } else { Failure::NoGroup };
        let mut counted = false;
        loop {
            let gop = stream.gop();
            let (Some(first), Some(newest)) = (gop.units.first(), gop.newest()) else {
                return Err(nothing());
            };
            if !std::mem::replace(&mut counted, true) {
                self.metrics.decode_runs_total.inc();
            }
            let error = match self.run_group(decoder, stream, &gop, deadline) {
                Ok(Some(picture)) => return Ok((picture, newest.seq)),
                Ok(None) => continue,
                Err(error) => error,
            };
            return Err(match error {
                DecodeError::OutOfTime => match self.desk.lock().deadline(stream.epoch()) {
                    // Others have come meanwhile, who can wait longer.
                    Some(later) if later > deadline => {
                        deadline = later;
                        continue;
                    }
                    _ => Failure::Refused(SnapshotError::Timeout),
                },
                error @ (DecodeError::Unsupported(_)
                | DecodeError::Parameters
                | DecodeError::TooLarge { .. }
                | DecodeError::Start) => Failure::Refused(error.into()),
                error => Failure::Unusable { first_seq: first.seq, error: error.into() },
            });
        }
    }

    /// `None`: a new group has begun that is sooner decoded than the rest of this one.
    fn run_group(
        &self,
        decoder: &mut StreamDecoder,
        stream: &Stream,
        gop: &Gop,
        deadline: Instant,
    ) -> Result<Option<YuvPicture>, DecodeError> {
        let target = newest_shown(gop).ok_or(DecodeError::NotInGop)?.seq;
        let missing = decoder.missing(gop, target)?;
        for (done, unit) in missing.iter().enumerate() {
            let length = stream.gop_len();
            if length > 0 && length < gop.units.len() && length < missing.len() - done {
                return Ok(None);
            }
            if self.stop.is_set() || self.clock.now() >= deadline {
                return Err(DecodeError::OutOfTime);
            }
            if let Some(picture) = decoder.step(unit, unit.seq == target)? {
                return Ok(Some(picture));
            }
        }
        Err(DecodeError::NotInGop)
    }

    pub(super) fn encode(self: &Arc<Self>, job: EncodingJob) {
        let EncodingJob { epoch, stream, picture, scale } = job;
        let mut unfinished = Unfinished { shared: self, epoch, what: Job::Encode(scale) };
        let result = self.make(&stream, &picture, scale).map(Arc::new);
        unfinished.what = Job::Done;
        let actions = self.desk.lock().encoded(self.clock.now(), epoch, scale, &result);
        self.perform(actions);
    }

    pub(super) fn make(
        &self,
        stream: &Stream,
        picture: &YuvPicture,
        scale: Option<Scale>,
    ) -> Result<Snapshot, SnapshotError> {
        let mut rgb = colour::to_rgb(picture);
        if let Some(scale) = scale {
            rgb = scale.apply(rgb).map_err(SnapshotError::Scale)?;
        }
        let stream_name = stream.publication().name.as_str();
        let captured = self.clock.wall_at(picture.arrived);
        let sample_aspect_ratio = picture.params.display_sample_aspect_ratio();
        let text = PngText {
            stream_name,
            origin: Origin::Stream { captured, epoch: stream.epoch() },
            sample_aspect_ratio,
        };
        self.metrics.pictures_encoded_total.inc();
        let png = png::encode(&rgb, &text).map_err(|error| SnapshotError::Encode(Arc::new(error)))?;
        Ok(Snapshot {
            stream_name: stream_name.to_owned(),
            png: png.into(),
            width: rgb.width,
            height: rgb.height,
            sample_aspect_ratio,
            captured,
            captured_at: picture.arrived,
            epoch: stream.epoch(),
            seq: picture.seq,
            base64: Default::default(),
        })
    }
}

pub(super) enum Job {
    Decode,
    Encode(Option<Scale>),
    Done,
}

/// A job at work. When it panics, those who wait for it are told.
pub(super) struct Unfinished<'a> {
    pub(super) shared: &'a Shared,
    pub(super) epoch: u64,
    pub(super) what: Job,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        let actions = match self.what {
            Job::Done => return,
            Job::Decode => {
                let failure = Failure::Refused(SnapshotError::Internal);
                self.shared.desk.lock().failed(now, self.epoch, failure)
            }
            Job::Encode(scale) => {
                let failure = Err(SnapshotError::Internal);
                self.shared.desk.lock().encoded(now, self.epoch, scale, &failure)
            }
        };
        self.shared.perform(actions);
    }
}
