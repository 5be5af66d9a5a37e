//! Many watchers on few threads, each with a socket of its own, as real ones have.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use stillcast::base::clock::Clock;
use stillcast::base::stop::{StopSource, StopToken};
use stillcast::base::threads::{STACK_CODEC_BYTES, Thread, spawn};
use stillcast::base::wait::{Interest, SOCKETS_MAX, Waiter};

use super::watcher::{Watcher, WatcherStats};

/// Running watchers; dropping it stops them without a word to the server.
pub struct Watchers {
    threads: Vec<Thread>,
    states: Vec<Arc<Mutex<Vec<WatcherStats>>>>,
    stop: StopSource,
    farewell: Arc<AtomicBool>,
}

/// Counts are copied so often.
const SHOW_INTERVAL: Duration = Duration::from_millis(50);

impl Watchers {
    /// Starts them, as many a thread as one can wait for. With a `pause`, sockets are looked at so often rather than at each
    /// datagram: it costs the machine less, and the server no waking of us.
    pub fn start(mut watchers: Vec<Watcher>, pause: Option<Duration>, clock: &Clock) -> io::Result<Self> {
        let (stop, farewell) = (StopSource::new(), Arc::new(AtomicBool::new(false)));
        let (mut threads, mut states) = (Vec::new(), Vec::new());
        while !watchers.is_empty() {
            let count = watchers.len().min(SOCKETS_MAX);
            let part: Vec<Watcher> = watchers.drain(..count).collect();
            let state = Arc::new(Mutex::new(vec![WatcherStats::default(); part.len()]));
            states.push(state.clone());
            let (clock, token, farewell) = (clock.clone(), stop.token(), farewell.clone());
            let waiter = Waiter::new()?;
            let name = format!("watchers-{}", threads.len());
            threads.push(spawn(name, STACK_CODEC_BYTES, move || {
                run(part, waiter, pause, &clock, &token, &state, &farewell);
            })?);
        }
        Ok(Self { threads, states, stop, farewell })
    }

    /// How each is doing, in the order given.
    pub fn stats(&self) -> Vec<WatcherStats> {
        self.states.iter().flat_map(|part| part.lock().clone()).collect()
    }

    /// Stops them as pages do that are left: each tells the server. Returns how each was doing.
    pub fn close(mut self) -> Vec<WatcherStats> {
        self.farewell.store(true, Ordering::Relaxed);
        self.halt();
        self.stats()
    }

    fn halt(&mut self) {
        self.stop.set();
        for thread in self.threads.drain(..) {
            thread.join(Duration::from_secs(5));
        }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.halt();
    }
}

fn run(
    mut watchers: Vec<Watcher>,
    mut waiter: Waiter,
    pause: Option<Duration>,
    clock: &Clock,
    stop: &StopToken,
    states: &Mutex<Vec<WatcherStats>>,
    farewell: &AtomicBool,
) {
    stop.wakes(&waiter.waker());
    let mut shown_at = clock.now();
    let mut ready = u32::MAX;
    while !stop.is_set() {
        let now = clock.now();
        let mut deadline = now + SHOW_INTERVAL;
        for (position, watcher) in watchers.iter_mut().enumerate() {
            if ready >> position & 1 == 1 {
                // The clock is asked anew: the others took their time.
                watcher.receive(clock.now());
            }
            deadline = watcher.advance(now).map_or(deadline, |at| deadline.min(at));
        }
        if now >= shown_at {
            shown_at = now + SHOW_INTERVAL;
            show(&watchers, states);
        }
        let sockets: Vec<_> =
            watchers.iter().map(|watcher| (watcher.socket().as_fd(), Interest::Read)).collect();
        let waited = match pause {
            None => waiter.wait_until(&sockets, clock.now(), Some(deadline)),
            Some(pause) => {
                waiter.wait(&[], Some(pause)).and_then(|_| waiter.wait(&sockets, Some(Duration::ZERO)))
            }
        };
        ready = waited.map_or(u32::MAX, |ready| ready.readable);
    }
    if farewell.load(Ordering::Relaxed) {
        for watcher in &mut watchers {
            watcher.close(clock.now());
        }
    }
    show(&watchers, states);
}

fn show(watchers: &[Watcher], states: &Mutex<Vec<WatcherStats>>) {
    for (watcher, state) in watchers.iter().zip(states.lock().iter_mut()) {
        *state = watcher.stats;
    }
}
