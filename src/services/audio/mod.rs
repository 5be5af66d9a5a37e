//! Sound for listeners who need another codec than the stream has: decoded once and encoded once for each stream, however
//! many listen, and only while somebody does.
//!
//! ```text
//! Stream ──live──► audio-… (ToOpus) ──► one queue a listener
//! ```
//!
//! | queue | from → to | when full |
//! |---|---|---|
//! | live | stream → `audio-…` | frames are lost; the time stamps of what follows say so |
//! | heard | `audio-…` → listener | the frame is lost to that listener |

mod to_opus;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

pub use self::to_opus::{AudioError, OPUS_RATE, ToOpus};
use crate::base::clock::Clock;
use crate::base::lock::{Mutex, rank};
use crate::base::queue::{Offer, Refused, queue};
use crate::base::stop::{StopSource, StopToken};
use crate::base::tally::Tally;
use crate::base::threads::{self, STACK_CODEC_BYTES, Thread};
use crate::base::wait::Waker;
use crate::hub::{Live, Stream};
use crate::media::unit::{AudioFrame, MediaUnit};

/// Frames that may wait for the encoding thread: more than a second of the shortest.
const LIVE_QUEUE: usize = 128;

/// All streams whose sound is made Opus now.
#[derive(Debug)]
pub struct Transcoders {
    taps: Mutex<HashMap<u64, Tap>, { rank::DOOR }>,
    stop: Mutex<Option<StopSource>, { rank::LEAF }>,
    clock: Clock,
}

#[derive(Debug)]
struct Tap {
    /// `None`: nobody listened any more, and the thread ends.
    listeners: Listeners,
    thread: Thread,
}

type Listeners = Arc<Mutex<Option<Vec<Offer<Arc<AudioFrame>>>>, { rank::LEAF }>>;

impl Transcoders {
    /// None at work.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { taps: Mutex::default(), stop: Mutex::new(Some(StopSource::new())), clock }
    }

    /// Joins those who hear `stream` as Opus at 48 kHz. The queue of `capacity` frames closes when the stream ends or its sound
    /// cannot be decoded; `waker` is used after each frame. Dropping it leaves.
    ///
    /// # Errors
    /// When no thread can be made, or the server stops.
    pub fn listen(
        &self,
        stream: &Arc<Stream>,
        capacity: usize,
        waker: Option<Waker>,
    ) -> io::Result<Receiver<Arc<AudioFrame>>> {
        let (offer, heard) = queue(capacity, waker);
        let mut taps = self.taps.lock();
        let ended: Vec<_> = taps.extract_if(|_, tap| tap.listeners.lock().is_none()).collect();
        if let Some(tap) = taps.get(&stream.epoch())
            && let Some(listeners) = &mut *tap.listeners.lock()
        {
            listeners.push(offer);
            return Ok(heard);
        }
        let Some(stop) = self.stop.lock().as_ref().map(StopSource::token) else {
            return Err(io::Error::other("the server stops"));
        };
        let listeners: Listeners = Arc::new(Mutex::new(Some(vec![offer])));
        // Before the thread runs, so that the first listener misses nothing.
        let live = stream.subscribe_audio(LIVE_QUEUE, None);
        let (stream_of_thread, of_thread, clock) = (stream.clone(), listeners.clone(), self.clock.clone());
        let thread = threads::spawn(format!("audio-{}", stream.epoch()), STACK_CODEC_BYTES, move || {
            let closing = Closing(of_thread);
            follow(&stream_of_thread, &live, &closing.0, &stop, &clock);
        })?;
        taps.insert(stream.epoch(), Tap { listeners, thread });
        drop(taps);
        drop(ended);
        Ok(heard)
    }

    /// Streams whose sound is encoded now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taps.lock().values().filter(|tap| tap.listeners.lock().is_some()).count()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends all of them and waits up to `limit`; returns whether all ended.
    pub fn stop(&self, limit: Duration) -> bool {
        drop(self.stop.lock().take());
        let deadline = self.clock.now() + limit;
        let taps = std::mem::take(&mut *self.taps.lock());
        let mut all_ended = true;
        for tap in taps.into_values() {
            all_ended &= tap.thread.join(deadline.saturating_duration_since(self.clock.now()));
        }
        all_ended
    }
}

/// However the thread ends, its listeners hear of it and nobody joins them.
struct Closing(Listeners);

impl Drop for Closing {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

fn follow(stream: &Stream, live: &Live, listeners: &Listeners, stop: &StopToken, clock: &Clock) {
    let name = &stream.publication().name;
    let mut way: Option<ToOpus> = None;
    let mut lost = Tally::new("frames of sound not heard by a slow listener");
    loop {
        let frame = select! {
            recv(live.receiver()) -> unit => match unit {
                Ok(MediaUnit::Audio(frame)) => frame,
                Ok(MediaUnit::Video(_)) => continue,
                Err(_) => return,
            },
            recv(stop.channel()) -> _ => return,
        };
        if way.as_ref().is_none_or(|way| !way.takes(&frame.params)) {
            way = match ToOpus::new(&frame.params) {
                Ok(made) => Some(made),
                Err(error) => {
                    tracing::info!("{name} is not heard by WebRTC viewers: {error}");
                    return;
                }
            };
        }
        let made = way.as_mut().map_or_else(Vec::new, |way| way.take(&frame));
        let mut guard = listeners.lock();
        let Some(present) = &mut *guard else { return };
        for frame in made.into_iter().map(Arc::new) {
            present.retain(|listener| match listener.offer(frame.clone()) {
                Err(Refused::Full(_)) => {
                    lost.add(clock.now(), 1, || name.to_string());
                    true
                }
                result => result.is_ok(),
            });
        }
        if present.is_empty() {
            // Under the lock: whoever comes now finds nobody to join.
            *guard = None;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
