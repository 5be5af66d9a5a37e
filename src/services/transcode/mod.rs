//! Pictures for viewers who cannot be sent what is published: another size or rate, H.264 of another stream, pictures in the
//! order in which they are shown. Decoded once and encoded once for each stream and form, however many watch, and only
//! while somebody does.
//!
//! ```text
//! Stream ──live──► video-n : decode ► DisplayOrder ► Scaler ► encode ──► Stream of the rendition ──live──► viewers
//!                              └ sound as it is ────────────────────────────┘
//! ```
//!
//! A rendition is a [`Stream`] that is in no list: whoever watches it subscribes to it, asks it for keyframes, and reads its
//! group of pictures as of any other.
//!
//! | queue | from → to | when full |
//! |---|---|---|
//! | live | stream → `video-n` | pictures are lost up to the next keyframe, which the publisher is asked for |

mod form;
mod order;
mod scaler;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use self::form::Form;
use self::worker::Worker;
use crate::base::clock::Clock;
use crate::base::lock::{Mutex, rank};
use crate::base::metrics::Metrics;
use crate::base::stop::StopSource;
use crate::base::threads::{self, STACK_CODEC_BYTES, Thread};
use crate::hub::{Bell, Registry, Stream};

/// How many renditions there may be, and of what.
#[derive(Clone, Copy, Debug)]
pub struct TranscodeSettings {
    /// Renditions at once; 0: none.
    pub renditions_max: usize,
    /// Largest picture that is decoded, in pixels.
    pub pixels_max: u64,
}

/// Why there is no rendition; the texts are those that clients know (protocol document, appendix B).
#[derive(Debug, thiserror::Error)]
pub enum TranscodeError {
    /// The operator wishes for none.
    #[error("Transcoding required, but disabled")]
    Disabled,
    /// There are as many as may be, or the server stops.
    #[error("No available transcoders")]
    Busy,
    /// The system refuses a thread.
    #[error("No available transcoders")]
    System(#[from] io::Error),
}

/// All renditions that are made now; clones share them.
#[derive(Clone, Debug)]
pub struct Renditions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: TranscodeSettings,
    registry: Registry,
    metrics: Metrics,
    clock: Clock,
    made: Mutex<HashMap<Key, Made>, { rank::DOOR }>,
    stop: Mutex<Option<StopSource>, { rank::LEAF }>,
}

/// Numbers of renditions; their threads are named by them.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// One publication in one form.
type Key = (u64, Form);

#[derive(Debug)]
struct Made {
    stream: Arc<Stream>,
    /// Held by every watcher, and here: alone, nobody watches.
    interest: Arc<()>,
    /// Its thread is at its end, and nobody may join it.
    is_closed: bool,
    thread: Option<Thread>,
}

/// A rendition that somebody watches; when the last one is dropped, it ends.
#[derive(Clone, Debug)]
pub struct Rendition {
    stream: Arc<Stream>,
    _interest: Arc<()>,
}

impl Rendition {
    /// Its pictures, and the sound of the stream as it is.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Renditions {
    /// None at work.
    #[must_use]
    pub fn new(settings: TranscodeSettings, registry: Registry, metrics: Metrics, clock: Clock) -> Self {
        let made = Mutex::default();
        let stop = Mutex::new(Some(StopSource::new()));
        Self(Arc::new(Inner { settings, registry, metrics, clock, made, stop }))
    }

    /// `stream` in this form: the one that is made already, or a new one, which begins to be made at once.
    ///
    /// # Errors
    /// When there may be none, or no more.
    pub fn watch(&self, stream: &Arc<Stream>, form: Form) -> Result<Rendition, TranscodeError> {
        let key = (stream.epoch(), form);
        let mut made = self.0.made.lock();
        let ended: Vec<_> = made.extract_if(|_, made| made.is_closed).collect();
        if let Some(Made { stream, interest, .. }) = made.get(&key) {
            return Ok(Rendition { stream: stream.clone(), _interest: interest.clone() });
        }
        if self.0.settings.renditions_max == 0 {
            return Err(TranscodeError::Disabled);
        }
        let stop = self.0.stop.lock().as_ref().map(StopSource::token).ok_or(TranscodeError::Busy)?;
        if made.len() >= self.0.settings.renditions_max {
            return Err(TranscodeError::Busy);
        }
        let (bell, rung) = Bell::new(None);
        let publisher = self.0.registry.publish_unlisted(stream.publication().clone(), Some(bell));
        let (rendition, interest) = (publisher.stream().clone(), Arc::new(()));
        let watched = Rendition { stream: rendition.clone(), _interest: interest.clone() };
        made.insert(key, Made { stream: rendition, interest, is_closed: false, thread: None });
        let closing = Closing { renditions: self.clone(), key };
        let worker = Worker::new(stream.clone(), form, publisher, rung, self.0.settings.pixels_max);
        // The thread's end takes the lock, and so does `closing` when there is no thread.
        drop(made);
        drop(ended);
        let name = format!("video-{}", NUMBERS.fetch_add(1, Ordering::Relaxed));
        tracing::info!("{} is made anew by {name} as {form:?}", stream.publication().name);
        let (metrics, clock) = (self.0.metrics.clone(), self.0.clock.clone());
        let thread = threads::spawn(name, STACK_CODEC_BYTES, move || {
            worker.run(&|| closing.close_unwatched(), &stop, &metrics, &clock);
        })?;
        // Not there any more: the server stops, and the thread with it.
        if let Some(made) = self.0.made.lock().get_mut(&key) {
            made.thread = Some(thread);
        }
        Ok(watched)
    }

    /// Renditions that are made now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.made.lock().values().filter(|made| !made.is_closed).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all of them and waits up to `limit`; returns whether all ended.
    #[must_use]
    pub fn stop(&self, limit: Duration) -> bool {
        drop(self.0.stop.lock().take());
        let deadline = self.0.clock.now() + limit;
        let made = std::mem::take(&mut *self.0.made.lock());
        let mut all_ended = true;
        for thread in made.into_values().filter_map(|made| made.thread) {
            all_ended &= thread.join(deadline.saturating_duration_since(self.0.clock.now()));
        }
        all_ended
    }
}

/// However the thread ends, nobody joins it any more.
struct Closing {
    renditions: Renditions,
    key: Key,
}

impl Closing {
    /// Closes the rendition when nobody watches it; returns whether it is closed.
    fn close_unwatched(&self) -> bool {
        let mut made = self.renditions.0.made.lock();
        // Taken out: the server stops.
        let Some(made) = made.get_mut(&self.key) else { return true };
        // Under the lock: whoever comes now finds nothing to join.
        made.is_closed |= Arc::strong_count(&made.interest) == 1;
        made.is_closed
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(made) = self.renditions.0.made.lock().get_mut(&self.key) {
            made.is_closed = true;
        }
    }
}
