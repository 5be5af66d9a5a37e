//! From a stream's time stamps to the RTP time of one viewer, which never jumps.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::media::time::Timestamp;

/// Time stamps that run ahead of arrival by more than this have jumped: no encoder sends so far in advance.
const JUMP: Duration = Duration::from_secs(3);
/// How long the quickest way of a unit counts for reports.
const QUICKEST_FOR: Duration = Duration::from_secs(10);
/// From one picture of a backlog to the next, in ticks of 90 kHz: 0.1 ms, so that all are due at once.
const HASTE_TICKS: i64 = 9;

/// The RTP clock of one track (RFC 3550 section 5.1): it begins anywhere and goes on where the stream's jumps.
#[derive(Debug)]
pub(super) struct Timeline {
    clock_rate: NonZeroU32,
    /// RTP time of tick 0.
    first: u32,
    origin: Instant,
    last: Option<Last>,
    quickest: Quickest,
}

/// The newest unit.
#[derive(Clone, Copy, Debug)]
struct Last {
    ticks: i64,
    pts: i64,
    arrived: Instant,
}

/// How little the arrival of a unit was behind its time stamp, in ticks: what the network and the encoder added to the others
/// does not show in reports, so that sound and pictures stay together.
#[derive(Debug, Default)]
struct Quickest {
    now: Option<(Instant, i64)>,
    before: Option<i64>,
}

impl Quickest {
    fn note(&mut self, arrived: Instant, behind: i64) {
        match &mut self.now {
            Some((since, least)) if arrived.saturating_duration_since(*since) < QUICKEST_FOR => {
                *least = behind.min(*least);
            }
            _ => {
                self.before = self.now.map(|(_, least)| least);
                self.now = Some((arrived, behind));
            }
        }
    }

    fn get(&self) -> Option<i64> {
        [self.now.map(|(_, least)| least), self.before].into_iter().flatten().min()
    }
}

impl Timeline {
    pub(super) fn new(clock_rate: NonZeroU32, first: u32, origin: Instant) -> Self {
        Self { clock_rate, first, origin, last: None, quickest: Quickest::default() }
    }

    fn ticks(&self, duration: Duration) -> i64 {
        let ticks = duration.as_nanos() * u128::from(self.clock_rate.get()) / 1_000_000_000;
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }

    fn rtp(&self, ticks: i64) -> u32 {
        // Modulo 2^32 is what RTP time is.
        self.first.wrapping_add(ticks as u32)
    }

    /// RTP time of the next unit.
    pub(super) fn next(&mut self, pts: Timestamp, arrived: Instant) -> u32 {
        let pts = pts.rescale(self.clock_rate).ticks;
        let ticks = match self.last {
            None => 0,
            Some(last) => {
                let by_pts = pts.saturating_sub(last.pts);
                let by_arrival = self.ticks(arrived.saturating_duration_since(last.arrived));
                let is_jump = by_pts < 0 || by_pts.saturating_sub(by_arrival) > self.ticks(JUMP);
                if is_jump {
                    self.quickest = Quickest::default();
                }
                // A picture that is not shown has the time of the one that is; in RTP one time is one picture.
                last.ticks.saturating_add(if is_jump { by_arrival } else { by_pts }.max(1))
            }
        };
        self.last = Some(Last { ticks, pts, arrived });
        let passed = self.ticks(arrived.saturating_duration_since(self.origin));
        self.quickest.note(arrived, passed.saturating_sub(ticks));
        self.rtp(ticks)
    }

    /// RTP time of a picture that is sent late because others refer to it: directly behind the one before it, so that the
    /// viewer decodes it at once rather than in the time that it once took.
    pub(super) fn hasten(&mut self, pts: Timestamp, arrived: Instant) -> u32 {
        let pts = pts.rescale(self.clock_rate).ticks;
        let ticks = self.last.map_or(0, |last| last.ticks.saturating_add(HASTE_TICKS));
        self.last = Some(Last { ticks, pts, arrived });
        // Where the time stamps of what follows belong is seen when it comes.
        self.quickest = Quickest::default();
        self.rtp(ticks)
    }

    /// RTP time of a moment, for sender reports; `None` before anything was sent.
    pub(super) fn at(&self, moment: Instant) -> Option<u32> {
        self.ticks_at(moment).map(|ticks| self.rtp(ticks))
    }

    /// What the stream's own clock shows at a moment; `None` before anything was sent.
    pub(super) fn stream_time_at(&self, moment: Instant) -> Option<Timestamp> {
        let (last, ticks) = (self.last?, self.ticks_at(moment)?);
        let ticks = last.pts.saturating_add(ticks.saturating_sub(last.ticks));
        Some(Timestamp { ticks, timescale: self.clock_rate })
    }

    /// RTP time of a time stamp of the stream, as units around the newest one have it; `None` before anything was sent.
    pub(super) fn rtp_of(&self, stream_time: Timestamp) -> Option<u32> {
        let last = self.last?;
        let since = stream_time.rescale(self.clock_rate).ticks.saturating_sub(last.pts);
        Some(self.rtp(last.ticks.saturating_add(since)))
    }

    fn ticks_at(&self, moment: Instant) -> Option<i64> {
        let last = self.last?;
        let ticks = match self.quickest.get() {
            Some(behind) => self.ticks(moment.saturating_duration_since(self.origin)).saturating_sub(behind),
            None => last.ticks.saturating_add(self.ticks(moment.saturating_duration_since(last.arrived))),
        };
        Some(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::media::time::VIDEO_TIMESCALE;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn time_follows_the_stream_and_passes_over_its_jumps() {
        let origin = Clock::manual().now();
        let mut line = Timeline::new(VIDEO_TIMESCALE, u32::MAX - 2000, origin);
        let first = line.next(Timestamp::video(1 << 40), origin);
        let mut step =
            |pts: i64, at: u64| line.next(Timestamp::video(pts), origin + ms(at)).wrapping_sub(first);
        // Late and early arrivals do not matter, and RTP time wraps.
        assert_eq!(step((1 << 40) + 3000, 90), 3000);
        assert_eq!(step((1 << 40) + 6000, 91), 6000);
        // The encoder began anew: time goes on by the clock.
        assert_eq!(step(0, 131), 6000 + 40 * 90);
        assert_eq!(step(3000, 164), 9600 + 3000);
        // An hour ahead.
        assert_eq!(step(3600 * 90_000, 264), 12_600 + 100 * 90);
        // The same again.
        assert_eq!(step(3600 * 90_000, 300), 21_601);
    }

    #[test]
    fn reports_go_by_the_unit_that_was_quickest() {
        let origin = Clock::manual().now();
        let mut line = Timeline::new(VIDEO_TIMESCALE, 0, origin);
        assert_eq!(line.at(origin), None);
        for (n, late) in [20_u64, 35, 5, 50].into_iter().enumerate() {
            let n = n as u64;
            line.next(Timestamp::video(n as i64 * 3600), origin + ms(n * 40 + late));
        }
        // The third was on its way for 5 ms: at 205 ms it is 200 ms on the stream's clock.
        assert_eq!(line.at(origin + ms(205)), Some(200 * 90));
    }

    #[test]
    fn time_stamps_and_moments_are_told_in_each_others_terms() {
        let origin = Clock::manual().now();
        let mut line = Timeline::new(VIDEO_TIMESCALE, 7, origin);
        assert_eq!((line.stream_time_at(origin), line.rtp_of(Timestamp::video(0))), (None, None));
        line.next(Timestamp::video(900_000), origin + ms(20));
        line.next(Timestamp::video(909_000), origin + ms(130));
        assert_eq!(line.stream_time_at(origin + ms(220)), Some(Timestamp::video(918_000)));
        assert_eq!(line.rtp_of(Timestamp::video(918_000)), line.at(origin + ms(220)));
        // The stream jumped: what follows is told by the new count.
        line.next(Timestamp::video(0), origin + ms(230));
        assert_eq!(line.rtp_of(Timestamp::video(0)), Some(7 + 9000 + 9000));
    }

    #[test]
    fn a_backlog_takes_no_time() {
        let origin = Clock::manual().now();
        let mut line = Timeline::new(VIDEO_TIMESCALE, 0, origin);
        let times: Vec<u32> = (0..50).map(|n| line.hasten(Timestamp::video(n * 3600), origin)).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]) && times[49] < 900, "{times:?}");
        assert_eq!(line.next(Timestamp::video(50 * 3600), origin + ms(40)), times[49] + 3600);
    }
}
