//! The current group of pictures: from the last IDR to the newest unit, bounded in units and bytes.

use std::sync::Arc;

use super::GroupSpan;
use crate::media::unit::{AccessUnit, AudioFrame};

/// Bounds of one stream's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GopLimits {
    /// Most units kept.
    pub units: usize,
    /// Most payload bytes kept.
    pub bytes: usize,
}

/// A copy of the cache at one moment; copying costs one reference count a unit.
#[derive(Clone, Debug, Default)]
pub struct Gop {
    /// From an IDR to the newest unit, without a gap; empty when there is nothing to decode.
    pub units: Vec<Arc<AccessUnit>>,
}

impl Gop {
    /// The newest unit.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<AccessUnit>> {
        self.units.last()
    }
}

/// Frames of sound that are kept for each picture that may be kept: at 25 pictures a second 20 ms frames are two, and
/// encoders for calls make frames of 10 ms.
const AUDIO_FRAMES_PER_UNIT: usize = 4;

#[derive(Debug)]
pub(super) struct GopCache {
    limits: GopLimits,
    units: Vec<Arc<AccessUnit>>,
    /// What was heard since the IDR, for consumers that play from there.
    audio: Vec<Arc<AudioFrame>>,
    bytes: usize,
    /// Nothing can be decoded before the next IDR: none came yet, one was lost, or the group outgrew its bounds.
    broken: bool,
}

impl GopCache {
    pub(super) fn new(limits: GopLimits) -> Self {
        Self { limits, units: Vec::new(), audio: Vec::new(), bytes: 0, broken: true }
    }

    /// Takes the next unit; returns whether it can be decoded with what is cached.
    pub(super) fn push(&mut self, unit: Arc<AccessUnit>) -> bool {
        if unit.key {
            self.clear();
            self.broken = false;
        }
        if self.broken {
            return false;
        }
        let bytes = self.bytes + unit.data.len();
        if self.units.len() >= self.limits.units || bytes > self.limits.bytes {
            self.mark_broken();
            return false;
        }
        self.bytes = bytes;
        self.units.push(unit);
        true
    }

    /// Takes the next frame of sound. What does not fit within the bounds is not kept: pictures go on without it.
    pub(super) fn push_audio(&mut self, frame: Arc<AudioFrame>) {
        let bytes = self.bytes + frame.data.len();
        if !self.broken
            && self.audio.len() < self.limits.units * AUDIO_FRAMES_PER_UNIT
            && bytes <= self.limits.bytes
        {
            self.bytes = bytes;
            self.audio.push(frame);
        }
    }

    /// Forgets everything up to the next IDR.
    pub(super) fn mark_broken(&mut self) {
        self.clear();
        self.broken = true;
    }

    fn clear(&mut self) {
        // Give the room of a long group back: the next may be short.
        self.units = Vec::with_capacity(self.units.len().min(64));
        self.audio = Vec::new();
        self.bytes = 0;
    }

    pub(super) fn copy(&self) -> Gop {
        Gop { units: self.units.clone() }
    }

    pub(super) fn copy_audio(&self) -> Vec<Arc<AudioFrame>> {
        self.audio.clone()
    }

    pub(super) fn keyframe(&self) -> Option<&Arc<AccessUnit>> {
        self.units.first()
    }

    pub(super) fn newest(&self) -> Option<&Arc<AccessUnit>> {
        self.units.last()
    }

    pub(super) fn span(&self) -> Option<GroupSpan> {
        let (first, newest) = (self.units.first()?, self.units.last()?);
        let newest_arrived = newest.arrived;
        Some(GroupSpan { first_seq: first.seq, newest_seq: newest.seq, newest_arrived })
    }

    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Four fifths of a bound are used up: time to ask for a keyframe, before the group has to be dropped.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.units.len() * 5 >= self.limits.units * 4 || self.bytes * 5 >= self.limits.bytes * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::stream::tests::unit;

    const LIMITS: GopLimits = GopLimits { units: 5, bytes: 1000 };

    #[test]
    fn nothing_is_kept_before_the_first_idr_and_an_idr_starts_afresh() {
        let mut cache = GopCache::new(LIMITS);
        assert!(!cache.push(unit(false, 10)));
        assert!(cache.push(unit(true, 10)) && cache.push(unit(false, 10)));
        assert_eq!(cache.copy().units.len(), 2);
        assert!(cache.push(unit(true, 10)));
        assert_eq!((cache.copy().units.len(), cache.bytes()), (1, 10));
    }

    #[test]
    fn a_group_past_either_bound_is_dropped_until_the_next_idr() {
        let mut cache = GopCache::new(LIMITS);
        for n in 0..5 {
            assert!(cache.push(unit(n == 0, 10)));
        }
        assert!(cache.is_nearly_full());
        assert!(!cache.push(unit(false, 10)), "the sixth unit is one too many");
        assert!(cache.copy().units.is_empty());
        assert!(!cache.push(unit(false, 10)), "and what follows refers to what is gone");
        assert!(cache.push(unit(true, 600)));
        assert!(!cache.push(unit(false, 401)), "1001 bytes");
        assert!(!cache.push(unit(true, 1001)), "an IDR that alone is too large");
    }
}
