//! One clock for the tracks of a session: RTP times of each (random beginnings, different rates) onto one line of time.
//!
//! Until both tracks have sent a sender report, a track begins where its first packet arrived. Reports tell the same
//! moment on the sender's wall clock and on the track's (RFC 3550 section 6.4.1): with one of each, the track that lags is
//! moved forward, so that no time stamp runs backwards.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A track whose RTP time jumps by more than this against the clock on the wall has begun anew.
const JUMP: Duration = Duration::from_secs(10);
/// Reports that put the tracks further apart than this are not believed: senders with two unrelated clocks exist.
const DISTANCE_MAX_NANOS: i128 = 10_000_000_000;
/// The first correction is made from this difference on.
const DIFFERENCE_FIRST_NANOS: i128 = 5_000_000;
/// Later ones from this on, and only when two reports in a row say so: reports are not exact.
const DIFFERENCE_LATER_NANOS: i128 = 20_000_000;

const NANOS: i128 = 1_000_000_000;

#[derive(Debug)]
struct Line {
    clock_rate: NonZeroU32,
    /// Added to RTP times; `None` before the first packet.
    offset: Option<i64>,
    /// The latest time stamp, as RTP has it, and when it came.
    last: Option<(i64, Instant)>,
    /// Highest time stamp given out.
    highest: i64,
    report: Option<Report>,
}

/// The same moment on the sender's wall clock, in nanoseconds, and on the track's.
#[derive(Clone, Copy, Debug)]
struct Report {
    wall_nanos: i128,
    /// Lower 32 bits only.
    rtp_time: u32,
}

/// The clock of one session.
#[derive(Debug)]
pub(super) struct Timeline {
    origin: Option<Instant>,
    lines: Vec<Line>,
    is_aligned: bool,
    /// Tracks by which the reports of last time wanted to move something: (which, how often).
    wish: Option<usize>,
}

impl Timeline {
    pub(super) fn new(clock_rates: impl Iterator<Item = NonZeroU32>) -> Self {
        let line =
            |clock_rate| Line { clock_rate, offset: None, last: None, highest: i64::MIN, report: None };
        Self { origin: None, lines: clock_rates.map(line).collect(), is_aligned: false, wish: None }
    }

    /// A time stamp on the common line, in ticks of the track; `ticks` is RTP time without wraps.
    pub(super) fn map(&mut self, track: usize, ticks: i64, arrived: Instant) -> i64 {
        let origin = *self.origin.get_or_insert(arrived);
        let Some(line) = self.lines.get_mut(track) else { return ticks };
        let since_origin = line.ticks_of(arrived.saturating_duration_since(origin));
        match (line.offset, line.last) {
            (Some(offset), Some((last, at))) => {
                let step = ticks.saturating_sub(last);
                let passed = line.ticks_of(arrived.saturating_duration_since(at));
                let jump = line.ticks_of(JUMP);
                if step < -jump || step > passed.saturating_add(jump) {
                    let continued = last.saturating_add(offset).saturating_add(passed);
                    line.offset = Some(continued.saturating_sub(ticks));
                    line.report = None;
                }
                line.last = Some((ticks, arrived));
            }
            _ => {
                line.offset = Some(since_origin.saturating_sub(ticks));
                line.last = Some((ticks, arrived));
                self.align_new(track);
            }
        }
        self.give(track, ticks)
    }

    /// A picture before which nothing can be shown any more, at this time stamp: where time ran backwards, the line
    /// goes on where it was.
    pub(super) fn map_key(&mut self, track: usize, ticks: i64, arrived: Instant) -> i64 {
        let Some(line) = self.lines.get(track) else { return ticks };
        let (highest, before) = (line.highest, line.last);
        let mapped = self.map(track, ticks, arrived);
        if mapped > highest {
            return mapped;
        }
        if let Some(line) = self.lines.get_mut(track) {
            let passed = before.map_or(Duration::ZERO, |(_, at)| arrived.saturating_duration_since(at));
            let continued = highest.saturating_add(line.ticks_of(passed).max(1));
            line.offset = Some(continued.saturating_sub(ticks));
            line.report = None;
        }
        self.give(track, ticks)
    }

    fn give(&mut self, track: usize, ticks: i64) -> i64 {
        let Some(line) = self.lines.get_mut(track) else { return ticks };
        let mapped = ticks.saturating_add(line.offset.unwrap_or_default());
        line.highest = line.highest.max(mapped);
        mapped
    }

    /// Takes a sender report of a track (NTP format: 32 bits of seconds, 32 of fraction).
    pub(super) fn on_report(&mut self, track: usize, ntp: u64, rtp_time: u32) {
        if ntp == 0 {
            // A sender without a wall clock (RFC 3550 section 6.4.1).
            return;
        }
        if let Some(line) = self.lines.get_mut(track) {
            let wall_nanos = (i128::from(ntp) * NANOS) >> 32;
            line.report = Some(Report { wall_nanos, rtp_time });
            self.align();
        }
    }

    /// Where the lines of the first two tracks lie apart at the same moment of the sender's clock, the later one's
    /// difference in nanoseconds; `None` while it cannot be told.
    fn difference_nanos(&self) -> Option<i128> {
        let [first, second] = self.lines.as_slice() else { return None };
        Some(first.beginning_nanos()? - second.beginning_nanos()?)
    }

    /// A track that begins has no time stamp behind it: it is put where the reports say, either way.
    fn align_new(&mut self, track: usize) {
        let Some(difference) = self.difference_nanos().filter(|d| d.abs() <= DISTANCE_MAX_NANOS) else {
            return;
        };
        let forward = if track == 0 { -difference } else { difference };
        if let Some(line) = self.lines.get_mut(track) {
            line.move_by(forward);
        }
        self.is_aligned = true;
    }

    fn align(&mut self) {
        let Some(difference) = self.difference_nanos() else { return };
        let distance = difference.abs();
        let least = if self.is_aligned { DIFFERENCE_LATER_NANOS } else { DIFFERENCE_FIRST_NANOS };
        if distance > DISTANCE_MAX_NANOS {
            return;
        }
        if distance < least {
            (self.is_aligned, self.wish) = (true, None);
            return;
        }
        let lagging = usize::from(difference > 0);
        if self.is_aligned && self.wish.replace(lagging) != Some(lagging) {
            return;
        }
        (self.is_aligned, self.wish) = (true, None);
        if let Some(line) = self.lines.get_mut(lagging) {
            line.move_by(distance);
        }
    }
}

impl Line {
    fn ticks_of(&self, duration: Duration) -> i64 {
        let ticks = duration.as_nanos() * u128::from(self.clock_rate.get()) / 1_000_000_000;
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }

    fn move_by(&mut self, nanos: i128) {
        let ticks = i64::try_from(nanos * i128::from(self.clock_rate.get()) / NANOS).unwrap_or_default();
        self.offset = self.offset.map(|offset| offset.saturating_add(ticks));
    }

    /// Where on the common line the zero of the sender's wall clock lies.
    fn beginning_nanos(&self) -> Option<i128> {
        let (report, offset, (last, _)) = (self.report?, self.offset?, self.last?);
        // The RTP time nearest to the latest one.
        let rtp = last.saturating_add(i64::from(report.rtp_time.wrapping_sub(last as u32) as i32));
        let mapped = i128::from(rtp) + i128::from(offset);
        Some(mapped * NANOS / i128::from(self.clock_rate.get()) - report.wall_nanos)
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
