//! What all payload formats of pictures have in common: packets of one source in, units out, and the rule of loss.
//!
//! The rule of loss: a picture with a hole is dropped, and so is everything after it up to the next keyframe that came
//! whole. No picture is better than a wrong one.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use thiserror::Error;

use super::header::RtpPacket;
use crate::media::h264::assemble::UnitError;
use crate::media::track::Rotation;
use crate::media::unit::AccessUnit;
use crate::media::vp8::FrameError;

/// What comes out of a [`VideoDepacketizer`].
#[derive(Clone, Debug)]
pub enum Depacketized {
    /// A whole picture that can be decoded with those delivered before it.
    Unit(AccessUnit),
    /// Something was lost: what was delivered so far has no continuation. Told once, before the next keyframe.
    Gap,
}

/// Counts of one depacketizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DepacketizerCounts {
    /// Pictures delivered.
    pub units: u64,
    /// Pictures dropped: damaged, or without what they refer to.
    pub dropped: u64,
    /// Those among them that came whole and cannot be used for what they hold.
    pub unusable: u64,
    /// [`Depacketized::Gap`]s.
    pub gaps: u64,
}

/// What was wrong with a picture that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// An access unit of H.264.
    #[error(transparent)]
    H264(#[from] UnitError),
    /// A frame of VP8.
    #[error(transparent)]
    Vp8(#[from] FrameError),
}

impl Unusable {
    /// The codec, as a label of counts.
    #[must_use]
    pub fn codec(self) -> &'static str {
        match self {
            Self::H264(_) => "h264",
            Self::Vp8(_) => "vp8",
        }
    }
}

/// A payload format: packets of one source in sending order in, pictures out.
pub trait VideoDepacketizer: fmt::Debug + Send {
    /// Takes the next packet in sequence. `rotation` is what its video-orientation extension says, if it has one: it
    /// holds for the picture of this packet and those that follow.
    fn push(
        &mut self,
        packet: &RtpPacket<'_>,
        arrived: Instant,
        rotation: Option<Rotation>,
        out: &mut VecDeque<Depacketized>,
    );

    /// Tells that packets before the next one never came.
    fn mark_lost(&mut self, out: &mut VecDeque<Depacketized>);

    /// Tells that the next packet is the first of another source: nothing is left of the one before.
    fn restart(&mut self, out: &mut VecDeque<Depacketized>);

    /// What was delivered and dropped so far.
    fn chain(&self) -> &Chain;
}

/// Which pictures may be delivered, and what became of the others.
#[derive(Debug)]
pub struct Chain {
    waits: bool,
    counts: DepacketizerCounts,
    last_error: Option<Unusable>,
}

impl Default for Chain {
    fn default() -> Self {
        Self { waits: true, counts: DepacketizerCounts::default(), last_error: None }
    }
}

impl Chain {
    /// Whether only a keyframe helps: none was delivered yet, or something was lost since.
    #[must_use]
    pub fn waits_for_keyframe(&self) -> bool {
        self.waits
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> DepacketizerCounts {
        self.counts
    }

    /// Why the last picture that was dropped for its content was dropped.
    #[must_use]
    pub fn last_error(&self) -> Option<Unusable> {
        self.last_error
    }

    /// Delivers a whole picture, or drops it when what it refers to is missing.
    pub(super) fn offer(&mut self, unit: AccessUnit, out: &mut VecDeque<Depacketized>) {
        if unit.key || !self.waits {
            self.waits = false;
            self.counts.units += 1;
            out.push_back(Depacketized::Unit(unit));
        } else {
            self.counts.dropped += 1;
        }
    }

    /// Counts a picture with a hole that nothing refers to: what follows can do without it.
    pub(super) fn skip_picture(&mut self) {
        self.counts.dropped += 1;
    }

    /// Counts a picture with a hole.
    pub(super) fn drop_picture(&mut self, out: &mut VecDeque<Depacketized>) {
        self.counts.dropped += 1;
        self.break_off(out);
    }

    /// Counts a picture that came whole and cannot be used.
    pub(super) fn refuse(&mut self, why: impl Into<Unusable>, out: &mut VecDeque<Depacketized>) {
        self.last_error = Some(why.into());
        self.counts.unusable += 1;
        self.drop_picture(out);
    }

    /// What follows may refer to something that is lost.
    pub(super) fn break_off(&mut self, out: &mut VecDeque<Depacketized>) {
        if !self.waits {
            self.waits = true;
            self.counts.gaps += 1;
            out.push_back(Depacketized::Gap);
        }
    }
}
