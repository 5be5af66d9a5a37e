//! Losses that are counted one by one and told once a second.

use std::time::{Duration, Instant};

/// Counts events of one kind and says, at most once a second, how many there were and what the last one was.
#[derive(Debug)]
pub struct Tally {
    what: &'static str,
    total: u64,
    untold: u64,
    last: String,
    told_at: Option<Instant>,
}

/// Shortest time between two warnings of one tally.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

impl Tally {
    /// A tally of `what`, a plural: "packets lost".
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, total: 0, untold: 0, last: String::new(), told_at: None }
    }

    /// Counts `number` events; `last` tells the latest cause and is only called when a warning is due.
    pub fn add(&mut self, now: Instant, number: u64, last: impl FnOnce() -> String) {
        self.total += number;
        self.untold += number;
        let due = self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_INTERVAL);
        if due && self.untold > 0 {
            self.last = last();
            tracing::warn!("{} {}, {} in all: {}", self.untold, self.what, self.total, self.last);
            self.untold = 0;
            self.told_at = Some(now);
        }
    }

    /// Events since the beginning.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn a_burst_is_told_once_and_counted_whole() {
        let clock = Clock::manual();
        let mut tally = Tally::new("packets lost");
        let mut told = 0;
        for _ in 0..5 {
            tally.add(clock.now(), 1, || {
                told += 1;
                "gap".into()
            });
        }
        clock.advance(TELL_INTERVAL);
        tally.add(clock.now(), 2, || {
            told += 1;
            "gap".into()
        });
        assert_eq!((tally.total(), told), (7, 2));
    }
}
