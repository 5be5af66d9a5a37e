//! The consumer's end of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;

use super::Gop;
use crate::base::queue::{Offer, Refused};
use crate::media::unit::{AudioFrame, MediaUnit};

/// What a consumer is given when it subscribes: no unit is missing between `backlog` and `live`, and none is there twice.
/// Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    /// The group of pictures at the moment of joining.
    pub backlog: Gop,
    /// The sound that came since its first unit.
    pub backlog_audio: Vec<Arc<AudioFrame>>,
    /// Everything after it.
    pub live: Live,
}

impl Subscription {
    /// Pictures and sound of the backlog in the order in which they came.
    pub fn backlog_units(&self) -> impl Iterator<Item = MediaUnit> + '_ {
        let mut video = self.backlog.units.iter().peekable();
        let mut audio = self.backlog_audio.iter().peekable();
        std::iter::from_fn(move || {
            let next_is_audio = match (video.peek(), audio.peek()) {
                (Some(unit), Some(frame)) => frame.arrived < unit.arrived,
                (_, frame) => frame.is_some(),
            };
            if next_is_audio {
                audio.next().cloned().map(MediaUnit::Audio)
            } else {
                video.next().cloned().map(MediaUnit::Video)
            }
        })
    }
}

/// The live queue of one consumer. It disconnects when the stream ends.
#[derive(Debug)]
pub struct Live {
    receiver: Receiver<MediaUnit>,
    missed: Arc<AtomicU64>,
}

impl Live {
    /// The queue itself, for `select!` and `try_recv`.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<MediaUnit> {
        &self.receiver
    }

    /// Units that this consumer lost because it was slow, since it joined. After a loss the queue goes on with a keyframe.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// The stream's end.
#[derive(Debug)]
pub(super) struct Subscriber {
    offer: Offer<MediaUnit>,
    missed: Arc<AtomicU64>,
    /// Its queue was full: it gets nothing until a keyframe fits.
    lagging: bool,
    /// It wants no video, and waits for no keyframe.
    only_audio: bool,
    /// Somebody wished for it; else it follows every stream.
    watches: bool,
}

impl Subscriber {
    pub(super) fn pair(
        offer: Offer<MediaUnit>,
        receiver: Receiver<MediaUnit>,
        lagging: bool,
        watches: bool,
    ) -> (Self, Live) {
        let missed = Arc::new(AtomicU64::new(0));
        let live = Live { receiver, missed: missed.clone() };
        (Self { offer, missed, lagging, only_audio: false, watches }, live)
    }

    /// Of the sound alone: it serves those who watch, and does not count as one of them.
    pub(super) fn of_audio(offer: Offer<MediaUnit>, receiver: Receiver<MediaUnit>) -> (Self, Live) {
        let (subscriber, live) = Self::pair(offer, receiver, false, false);
        (Self { only_audio: true, ..subscriber }, live)
    }

    pub(super) fn is_watcher(&self) -> bool {
        self.watches
    }

    /// Hands a unit on; returns whether the subscriber still exists.
    pub(super) fn hand(&mut self, unit: &MediaUnit) -> bool {
        if self.only_audio && matches!(unit, MediaUnit::Video(_)) {
            return true;
        }
        if self.lagging && !matches!(unit, MediaUnit::Video(unit) if unit.key) {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        match self.offer.offer(unit.clone()) {
            Ok(()) => {
                self.lagging = false;
                true
            }
            Err(Refused::Full(_)) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                self.lagging = !self.only_audio;
                true
            }
            Err(Refused::Closed(_)) => false,
        }
    }

    /// There is nothing to wait for; says that the subscriber goes on.
    pub(super) fn catch_up(&mut self) -> bool {
        self.lagging = false;
        true
    }

    /// The publisher lost a unit: whatever comes before the next keyframe cannot be decoded by anyone.
    pub(super) fn wait_for_keyframe(&mut self) {
        self.lagging = !self.only_audio;
    }
}
