//! The publisher's end of a stream: a guard whose drop ends it, and the bell by which others ask something of it.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::{EndReason, Reception, Stream, registry::Registry};
use crate::base::queue::{Offer, queue};
use crate::base::wait::Waker;
use crate::media::track::AudioParams;
use crate::media::unit::{AccessUnit, AudioFrame};

/// Asks something of a publisher's thread: a keyframe, or to end ([`Publisher::asked_to_end`]). It holds one ring: a bell
/// that rings already has been heard by nobody yet.
#[derive(Clone, Debug)]
pub struct Bell {
    ring: Offer<()>,
    makes_keyframes: bool,
}

impl Bell {
    /// The bell of a publisher that can make keyframes, and the queue in which it hears it; `waker` wakes its thread.
    #[must_use]
    pub fn new(waker: Option<Waker>) -> (Self, Receiver<()>) {
        let (ring, receiver) = queue(1, waker);
        (Self { ring, makes_keyframes: true }, receiver)
    }

    /// The bell of a publisher that cannot make keyframes: it is only rung to end it.
    #[must_use]
    pub fn without_keyframes(waker: Option<Waker>) -> (Self, Receiver<()>) {
        let (bell, receiver) = Self::new(waker);
        (Self { makes_keyframes: false, ..bell }, receiver)
    }

    pub(super) fn makes_keyframes(&self) -> bool {
        self.makes_keyframes
    }

    pub(super) fn ring(&self) {
        let _ = self.ring.offer(());
    }
}

/// The right to push units into one stream. Dropping it ends the stream and frees its name.
#[derive(Debug)]
pub struct Publisher {
    stream: Arc<Stream>,
    /// Where it is listed; `None`: nowhere.
    registry: Option<Registry>,
    reason: EndReason,
}

impl Publisher {
    pub(super) fn new(stream: Arc<Stream>, registry: Option<Registry>) -> Self {
        Self { stream, registry, reason: EndReason::Internal }
    }

    /// The stream as others see it.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Media transport is up: the stream counts as published from here on.
    pub fn set_publishing(&self) {
        self.stream.set_publishing();
    }

    /// Hands a coded picture to the cache and to every subscriber. Never waits for any of them.
    pub fn push_video(&self, unit: AccessUnit) {
        self.stream.push_video(unit);
    }

    /// Likewise for a frame of sound.
    pub fn push_audio(&self, frame: AudioFrame) {
        self.stream.push_audio(frame);
    }

    /// Tells the audio parameters before the first frame came.
    pub fn set_audio_params(&self, params: Arc<AudioParams>) {
        self.stream.set_audio_params(params);
    }

    /// Tells which tracks to expect, once that is known: until a unit of a track came, nothing else tells that it exists.
    pub fn expect_tracks(&self, video: bool, audio: bool) {
        self.stream.expect_tracks(video, audio);
    }

    /// Tells what was lost on the way in so far. Worth telling about once a second.
    pub fn tell_reception(&self, reception: Reception) {
        self.stream.tell_reception(reception);
    }

    /// Tells how the clocks of sound and pictures stand to each other ([`super::StreamFacts::sound_offset_ns`]), once that is known
    /// of a protocol whose tracks have clocks of their own.
    pub fn tell_sound_offset(&self, nanos: i64) {
        self.stream.tell_sound_offset(nanos);
    }

    /// Whether somebody asked this publication to end, and why. The publisher's thread looks here when its bell rang, says
    /// goodbye to its sender, and ends with that reason.
    #[must_use]
    pub fn asked_to_end(&self) -> Option<EndReason> {
        self.stream.asked_to_end()
    }

    /// Something was lost on the way: nothing can be decoded before the next IDR, and nothing is served until then.
    pub fn mark_gap(&self) {
        self.stream.mark_gap();
    }

    /// Ends the stream with a reason. A publisher that is merely dropped ends with [`EndReason::Internal`].
    pub fn end(mut self, reason: EndReason) {
        self.reason = reason;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // First out of the map, then over: who finds the stream by name finds it alive.
        if let Some(registry) = &self.registry {
            registry.remove(&self.stream);
        }
        self.stream.end(self.reason.clone());
    }
}
