//! The consumer's end of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;

use super::Gop;
use crate::base::queue::{Offer, Refused};
use crate::media::unit::MediaUnit;

/// What a consumer is given when it subscribes: no unit is missing between `backlog` and `live`, and none is there twice.
/// Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    /// The group of pictures at the moment of joining.
    pub backlog: Gop,
    /// Everything after it.
    pub live: Live,
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
}

impl Subscriber {
    pub(super) fn pair(
        offer: Offer<MediaUnit>,
        receiver: Receiver<MediaUnit>,
        lagging: bool,
    ) -> (Self, Live) {
        let missed = Arc::new(AtomicU64::new(0));
        (Self { offer, missed: missed.clone(), lagging }, Live { receiver, missed })
    }

    /// Hands a unit on; returns whether the subscriber still exists.
    pub(super) fn hand(&mut self, unit: &MediaUnit) -> bool {
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
                self.lagging = true;
                true
            }
            Err(Refused::Closed(_)) => false,
        }
    }

    /// The publisher lost a unit: whatever comes before the next keyframe cannot be decoded by anyone.
    pub(super) fn wait_for_keyframe(&mut self) {
        self.lagging = true;
    }
}
