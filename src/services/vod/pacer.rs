//! When units of a file are due, and which time stamps they have in the stream: by the file's own clock, counted from the
//! beginning, so that no error adds up. It never looks at a clock itself.

use std::time::{Duration, Instant};

use crate::media::time::Timestamp;

/// So far behind, a stream goes on from where it is rather than send everything at once that it has missed.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Least time from the beginning of a file to its next beginning: a file of one picture must not be sent as fast as it can be.
const ROUND_MIN: Duration = Duration::from_millis(40);
/// A moment that never comes, for files that say so.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365);

/// Paces one file, from its beginning or in a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    /// When the first round would have begun, had the stream never stood still.
    began: Instant,
    /// Length of the rounds that are over.
    before: Duration,
}

impl Pacer {
    /// A file whose beginning is due at `began`.
    pub(super) fn new(began: Instant) -> Self {
        Self { began, before: Duration::ZERO }
    }

    /// When the unit of this place in the file is due.
    pub(super) fn due(&self, at: Duration) -> Instant {
        self.began.checked_add(self.before.saturating_add(at)).unwrap_or(self.began + NEVER)
    }

    /// To be asked before the unit of this place is sent. One that is much too late becomes due now, with all after it.
    pub(super) fn catch_up(&mut self, at: Duration, now: Instant) {
        if now.saturating_duration_since(self.due(at)) > LATE_MAX {
            self.go_on(at, now);
        }
    }

    /// The unit of this place, if it is late, and all after it go on from now: the stream stood still.
    pub(super) fn go_on(&mut self, at: Duration, now: Instant) {
        self.began += now.saturating_duration_since(self.due(at));
    }

    /// The file, `length` long, begins anew.
    pub(super) fn next_round(&mut self, length: Duration) {
        self.before = self.before.saturating_add(length.max(ROUND_MIN));
    }

    /// The time stamp in the stream of one in the file: time goes on over all rounds.
    pub(super) fn stamp(&self, of_file: Timestamp) -> Timestamp {
        let before = self.before.as_nanos() * u128::from(of_file.timescale.get()) / 1_000_000_000;
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        Timestamp { ticks: of_file.ticks.saturating_add(before), ..of_file }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn ten_minutes_of_any_rate_stay_within_five_milliseconds() {
        // Ticks a second, and ticks from each picture to the next, in turn: pictures as cameras, films and screens have them.
        for (timescale, steps) in [
            (30_000_u64, &[1001_u64][..]),
            (24_000, &[1001]),
            (60_000, &[1001]),
            (15, &[1]),
            (90_000, &[3000, 3003, 2997, 6000]),
            (1000, &[33, 34, 33, 500, 1, 16, 17, 2000]),
            (44_100, &[1764, 1, 8820, 441]),
        ] {
            let clock = Clock::manual();
            let began = clock.now();
            let mut pacer = Pacer::new(began);
            let (mut ticks, mut number, mut worst) = (0_u64, 0_usize, 0.0_f64);
            while ticks < timescale * 600 {
                // As the demuxer tells it, in whole nanoseconds.
                let at = Duration::from_nanos(ticks * 1_000_000_000 / timescale);
                let wait = pacer.due(at).saturating_duration_since(clock.now());
                // Who does not sleep is not woken late.
                if !wait.is_zero() {
                    clock.advance(wait + Duration::from_micros(number as u64 * 7919 % 4000));
                }
                pacer.catch_up(at, clock.now());
                let ideal_ms = ticks as f64 * 1000.0 / timescale as f64;
                worst = worst.max(((clock.now() - began).as_secs_f64() * 1000.0 - ideal_ms).abs());
                ticks += steps[number % steps.len()];
                number += 1;
            }
            assert!(worst < 5.0, "{worst} ms at {steps:?} of {timescale}");
        }
    }

    /// Sends pictures of 30000/1001 a second as the player does, on a machine that wakes up to 4 ms late.
    fn errors_ms(rounds: u32, pictures: u32, stall_at: Option<u32>) -> Vec<f64> {
        let clock = Clock::manual();
        let began = clock.now();
        let mut pacer = Pacer::new(began);
        let at =
            |number: u32| Duration::from_nanos(u64::from(number) * 1_001_000_000_000 / 30_000 / 1000 * 1000);
        let mut errors = Vec::new();
        for round in 0..rounds {
            for number in 0..pictures {
                let wait = pacer.due(at(number)).saturating_duration_since(clock.now());
                clock.advance(wait + Duration::from_micros(u64::from(number * 7919 % 4000)));
                if stall_at == Some(number) {
                    clock.advance(Duration::from_secs(30));
                }
                pacer.catch_up(at(number), clock.now());
                let ideal = f64::from(round * pictures + number) * 1001.0 / 30.0;
                errors.push((clock.now() - began).as_secs_f64() * 1000.0 - ideal);
            }
            pacer.next_round(at(pictures));
        }
        errors
    }

    #[test]
    fn ten_minutes_stay_within_five_milliseconds_whole_or_in_rounds() {
        // 17 982 pictures are ten minutes.
        for (rounds, pictures) in [(1, 17_982), (60, 300)] {
            let errors = errors_ms(rounds, pictures, None);
            let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
            assert!(worst < 5.0, "{worst} ms in {rounds} rounds");
        }
    }

    #[test]
    fn after_standing_still_the_stream_goes_on_in_time_and_not_in_a_burst() {
        let errors = errors_ms(1, 300, Some(100));
        let after: Vec<f64> = errors[101..].iter().map(|error| error - 30_000.0).collect();
        assert!(after.iter().all(|error| (-1.0..9.0).contains(error)), "{after:?}");
    }

    #[test]
    fn time_stamps_go_on_over_rounds_in_every_timescale() {
        let mut pacer = Pacer::new(Clock::manual().now());
        let length = Duration::from_nanos(10_010_000_000);
        for timescale in [90_000, 44_100, 48_000] {
            let timescale = NonZeroU32::new(timescale).unwrap();
            let mut pacer = pacer;
            for _ in 0..1000 {
                pacer.next_round(length);
            }
            let exact = 10_010.0 * f64::from(timescale.get());
            let first = pacer.stamp(Timestamp { ticks: 7, timescale });
            assert!((first.ticks as f64 - 7.0 - exact).abs() <= 1.0, "{first:?}");
        }
        pacer.next_round(Duration::ZERO);
        assert!(pacer.due(Duration::ZERO) >= pacer.began + ROUND_MIN, "an empty round takes time too");
        assert!(pacer.due(Duration::MAX) > pacer.began, "a file that says so is waited for");
    }
}
