//! The publisher's end of a stream: a guard whose drop ends it, and the bell that asks for a keyframe.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::{EndReason, Stream, registry::Registry};
use crate::base::queue::{Offer, queue};
use crate::base::wait::Waker;
use crate::media::track::AudioParams;
use crate::media::unit::{AccessUnit, AudioFrame};

/// Asks a publisher for a keyframe. It holds one ring: a bell that rings already has been heard by nobody yet.
#[derive(Clone, Debug)]
pub struct Bell(Offer<()>);

impl Bell {
    /// A bell, and the queue in which the publisher hears it; `waker` wakes the publisher's thread.
    #[must_use]
    pub fn new(waker: Option<Waker>) -> (Self, Receiver<()>) {
        let (offer, receiver) = queue(1, waker);
        (Self(offer), receiver)
    }

    pub(super) fn ring(&self) {
        let _ = self.0.offer(());
    }
}

/// The right to push units into one stream. Dropping it ends the stream and frees its name.
#[derive(Debug)]
pub struct Publisher {
    stream: Arc<Stream>,
    registry: Registry,
    reason: EndReason,
}

impl Publisher {
    pub(super) fn new(stream: Arc<Stream>, registry: Registry) -> Self {
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
        self.registry.remove(&self.stream);
        self.stream.end(self.reason.clone());
    }
}
