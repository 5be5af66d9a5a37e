//! A simulated link for tests: seeded loss, delay and, by delays that differ, reordering.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// One direction of a link, or both when `T` says where a datagram goes.
pub(crate) struct Link<T> {
    on_the_way: BinaryHeap<Reverse<Arrival<T>>>,
    sent: u64,
    pub(crate) lost: u64,
    /// Share of datagrams that are lost.
    pub(crate) loss: f64,
    /// Shortest and longest delay.
    pub(crate) delay: (Duration, Duration),
    random: StdRng,
}

struct Arrival<T> {
    at: Instant,
    number: u64,
    what: T,
}

impl<T> Link<T> {
    pub(crate) fn new(seed: u64, loss: f64, delay_ms: (u64, u64)) -> Self {
        let delay = (Duration::from_millis(delay_ms.0), Duration::from_millis(delay_ms.1));
        let random = StdRng::seed_from_u64(seed);
        Self { on_the_way: BinaryHeap::new(), sent: 0, lost: 0, loss, delay, random }
    }

    pub(crate) fn send(&mut self, now: Instant, what: T) {
        self.sent += 1;
        if self.random.random_bool(self.loss) {
            self.lost += 1;
            return;
        }
        let at = now + self.random.random_range(self.delay.0..=self.delay.1);
        self.on_the_way.push(Reverse(Arrival { at, number: self.sent, what }));
    }

    /// When the next datagram arrives.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse(arrival)| arrival.at)
    }

    /// The next datagram that has arrived by now.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<T> {
        self.next_at().filter(|at| *at <= now)?;
        self.on_the_way.pop().map(|Reverse(arrival)| arrival.what)
    }

    /// Loses all that is on the way; says how much that is.
    pub(crate) fn cut(&mut self) -> usize {
        let lost = self.on_the_way.len();
        self.on_the_way.clear();
        lost
    }
}

impl<T> PartialEq for Arrival<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<T> Eq for Arrival<T> {}
impl<T> PartialOrd for Arrival<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Arrival<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
