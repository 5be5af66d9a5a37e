//! Time as an argument: the one place that asks the machine what time it is.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// A source of monotonic and wall-clock time that tests can move by hand. Clones share one clock.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    wall_origin: SystemTime,
    /// `None`: real time. Otherwise the time passed since `origin`, moved by [`Clock::advance`].
    manual: Option<Arc<Mutex<Duration>>>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    pub fn real() -> Self {
        Self { origin: Instant::now(), wall_origin: SystemTime::now(), manual: None }
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual() -> Self {
        Self { manual: Some(Arc::new(Mutex::new(Duration::ZERO))), ..Self::real() }
    }

    /// Monotonic time now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    pub fn now(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(passed) => self.origin + *passed.lock(),
        }
    }

    /// Wall-clock time now. A step of the machine's clock shows here and not in [`Clock::now`].
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
    pub fn wall(&self) -> SystemTime {
        match &self.manual {
            None => SystemTime::now(),
            Some(passed) => self.wall_origin + *passed.lock(),
        }
    }

    /// Wall-clock time of a monotonic moment, past or future, by today's relation between the two clocks.
    #[must_use]
    pub fn wall_at(&self, moment: Instant) -> SystemTime {
        let now = self.now();
        match now.checked_duration_since(moment) {
            Some(ago) => self.wall() - ago,
            None => self.wall() + moment.duration_since(now),
        }
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    /// On a real clock: that is a mistake in a test.
    pub fn advance(&self, by: Duration) {
        let passed = self.manual.as_ref().expect("only a manual clock can be moved");
        *passed.lock() += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_for_all_its_clones() {
        let clock = Clock::manual();
        let other = clock.clone();
        let (before, wall_before) = (clock.now(), clock.wall());
        other.advance(Duration::from_secs(5));
        assert_eq!(clock.now() - before, Duration::from_secs(5));
        assert_eq!(clock.wall().duration_since(wall_before).unwrap(), Duration::from_secs(5));
        assert_eq!(clock.wall_at(before), wall_before);
        assert_eq!(
            clock.wall_at(clock.now() + Duration::from_secs(1)),
            clock.wall() + Duration::from_secs(1)
        );
    }
}
