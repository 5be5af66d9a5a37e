//! The picture of a file at a moment: which one is shown then, and its decoding from the keyframe before it.

use std::time::{Duration, Instant};

use super::demux::{Demuxer, VodError};
use crate::media::picture::YuvPicture;
use crate::media::unit::AccessUnit;
use crate::services::decode::{DecodeError, StreamDecoder};
use crate::services::mp4::ReadAt;

/// A file is read anew when it was changed meanwhile, so often in all.
const ATTEMPTS: u32 = 3;

/// Why a file has no picture of a moment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPicture {
    /// No pictures are in it.
    #[error("there are no pictures in it")]
    NoVideo,
    /// It ends before; this is how long it is.
    #[error("it ends at {0:?}")]
    PastEnd(Duration),
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] VodError),
    /// It cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Decodes the picture that is shown at a moment, which may be the file's very end; returns it with the moment from which on it
/// is shown. `goes_on` is asked before each unit; where it says no, decoding ends with [`DecodeError::OutOfTime`].
pub(crate) fn picture_at<R: ReadAt>(
    demuxer: &mut Demuxer<R>,
    decoder: &mut StreamDecoder,
    moment: Duration,
    now: Instant,
    goes_on: &dyn Fn() -> bool,
) -> Result<(YuvPicture, Duration), NoPicture> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match attempt(demuxer, decoder, moment, now, goes_on) {
            // A recording that is completed in this moment: its samples lie elsewhere now.
            Err(NoPicture::File(_)) if left > 0 && demuxer.reopen_if_moved()? => {}
            result => return result,
        }
    }
}

fn attempt<R: ReadAt>(
    demuxer: &mut Demuxer<R>,
    decoder: &mut StreamDecoder,
    moment: Duration,
    now: Instant,
    goes_on: &dyn Fn() -> bool,
) -> Result<(YuvPicture, Duration), NoPicture> {
    let wanted = demuxer.shown_at(moment).ok_or(NoPicture::NoVideo)?;
    if moment > demuxer.duration() {
        return Err(NoPicture::PastEnd(demuxer.duration()));
    }
    let mut from = demuxer.key_before(wanted.sample, wanted.sample + 1);
    let mut is_again = false;
    while let Some(first) = from {
        let mut seq = 0;
        let result = (first..=wanted.sample).try_for_each(|sample| {
            if !goes_on() {
                return Err(Stop::Failed(DecodeError::OutOfTime.into()));
            }
            let unit = demuxer.unit_of(sample, now).map_err(|error| Stop::Failed(error.into()))?;
            let Some(unit) = unit else { return Ok(()) };
            if seq == 0 && !unit.key {
                return Err(Stop::NoKeyframe);
            }
            let unit = AccessUnit { seq, ..unit };
            seq += 1;
            match decoder.step(&unit, sample == wanted.sample) {
                Ok(Some(picture)) => Err(Stop::Found(Box::new(picture))),
                Ok(None) => Ok(()),
                Err(DecodeError::Bidirectional) => Err(Stop::Bidirectional),
                Err(error) => Err(Stop::Failed(error.into())),
            }
        });
        match result {
            Err(Stop::Found(picture)) => return Ok((*picture, wanted.at)),
            Err(Stop::Failed(error)) => return Err(error),
            // The decoder knows now, and chooses another library.
            Err(Stop::Bidirectional) if !is_again => is_again = true,
            Err(Stop::Bidirectional) => return Err(DecodeError::Bidirectional.into()),
            // Marked as a keyframe and none, or one that the wanted picture does not depend on alone.
            Err(Stop::NoKeyframe) | Ok(()) => from = demuxer.key_before(wanted.sample, first),
        }
    }
    Err(DecodeError::NotInGop.into())
}

/// Why a run over units ended.
enum Stop {
    Found(Box<YuvPicture>),
    /// The first unit is no keyframe.
    NoKeyframe,
    Bidirectional,
    Failed(NoPicture),
}
