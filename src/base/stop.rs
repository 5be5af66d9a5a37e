//! Stopping: dropping (or setting) the source is the signal, and everybody who waits hears it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::wait::Waker;

#[derive(Debug, Default)]
struct Shared {
    set: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

/// The owner's end: setting or dropping it stops everybody who holds a [`StopToken`].
#[derive(Debug)]
pub struct StopSource {
    shared: Arc<Shared>,
    /// Dropped on stop, so that receivers of the token's channel disconnect.
    channel: Option<Sender<()>>,
    token: StopToken,
}

/// The worker's end: tells whether to stop, and can be waited on beside other channels and sockets.
#[derive(Clone, Debug)]
pub struct StopToken {
    shared: Arc<Shared>,
    channel: Receiver<()>,
}

impl StopSource {
    /// A source that is not set.
    #[must_use]
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let (sender, channel) = bounded(0);
        Self { shared: shared.clone(), channel: Some(sender), token: StopToken { shared, channel } }
    }

    /// A token that hears this source.
    #[must_use]
    pub fn token(&self) -> StopToken {
        self.token.clone()
    }

    /// Stops everybody now. Setting twice is harmless.
    pub fn set(&mut self) {
        self.shared.set.store(true, Ordering::SeqCst);
        self.channel = None;
        for waker in self.shared.wakers.lock().drain(..) {
            waker.wake();
        }
    }
}

impl Default for StopSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for StopSource {
    fn drop(&mut self) {
        self.set();
    }
}

impl StopToken {
    /// Whether to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.shared.set.load(Ordering::SeqCst)
    }

    /// A channel that disconnects on stop and never carries anything: for `select!`.
    #[must_use]
    pub fn channel(&self) -> &Receiver<()> {
        &self.channel
    }

    /// Sleeps up to `limit`; returns whether to stop.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        !matches!(self.channel.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }

    /// Also wakes this waiter on stop; at once when the source is already set.
    pub fn wakes(&self, waker: &Waker) {
        let mut wakers = self.shared.wakers.lock();
        // A waiter that went away leaves its waker behind; it is forgotten here, so that the list stays
        // as long as the number of living waiters.
        wakers.retain(Waker::is_alive);
        wakers.push(waker.clone());
        drop(wakers);
        if self.is_set() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_the_source_is_heard_by_every_token() {
        let source = StopSource::new();
        let (one, two) = (source.token(), source.token());
        assert!(!one.is_set() && !two.wait(Duration::ZERO));
        drop(source);
        assert!(one.is_set() && two.wait(Duration::from_secs(60)));
    }
}
