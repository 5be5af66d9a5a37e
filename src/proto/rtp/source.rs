//! What a receiver keeps of one source for its reports (RFC 3550 sections 6.4.1, A.3 and A.8).

use std::num::NonZeroU32;
use std::time::Instant;

use super::rtcp::ReportBlock;

/// Reception statistics of one source.
#[derive(Debug)]
pub struct SourceStats {
    ssrc: u32,
    clock_rate: NonZeroU32,
    origin: Instant,
    /// Extended sequence numbers: first and highest.
    first: u32,
    highest: u32,
    received: u64,
    reported: (u64, u64),
    /// Arrival minus RTP time of the previous packet, modulo 2^32, in ticks.
    transit: u32,
    jitter_ticks: f64,
    /// Middle 32 bits of the newest sender report's time, and when it came.
    sender_report: Option<(u32, Instant)>,
}

impl SourceStats {
    /// Begins with the source's first packet, which [`SourceStats::on_packet`] then takes.
    #[must_use]
    pub fn new(ssrc: u32, clock_rate: NonZeroU32, now: Instant, sequence: u16, timestamp: u32) -> Self {
        let mut stats = Self {
            ssrc,
            clock_rate,
            origin: now,
            first: u32::from(sequence),
            highest: u32::from(sequence),
            received: 0,
            reported: (0, 0),
            transit: 0,
            jitter_ticks: 0.0,
            sender_report: None,
        };
        stats.transit = stats.transit_of(now, timestamp);
        stats
    }

    /// Counts a packet, in whatever order it came.
    pub fn on_packet(&mut self, now: Instant, sequence: u16, timestamp: u32) {
        self.received += 1;
        let step = sequence.wrapping_sub(self.highest as u16) as i16;
        if step > 0 {
            self.highest = self.highest.wrapping_add(u32::from(step.unsigned_abs()));
        }
        let transit = self.transit_of(now, timestamp);
        let difference = transit.wrapping_sub(self.transit) as i32;
        self.transit = transit;
        self.jitter_ticks += (f64::from(difference.unsigned_abs()) - self.jitter_ticks) / 16.0;
    }

    fn transit_of(&self, now: Instant, timestamp: u32) -> u32 {
        let passed = now.saturating_duration_since(self.origin).as_nanos();
        let ticks = passed * u128::from(self.clock_rate.get()) / 1_000_000_000;
        (ticks as u32).wrapping_sub(timestamp)
    }

    /// Notes a sender report of this source, by its NTP time.
    pub fn on_sender_report(&mut self, now: Instant, ntp: u64) {
        self.sender_report = Some(((ntp >> 16) as u32, now));
    }

    /// The report since the previous one.
    pub fn report(&mut self, now: Instant) -> ReportBlock {
        let expected = u64::from(self.highest.wrapping_sub(self.first)) + 1;
        let (expected_before, received_before) = self.reported;
        let expected_now = expected.saturating_sub(expected_before);
        let lost_now = expected_now.saturating_sub(self.received - received_before);
        self.reported = (expected, self.received);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or_default().min(255);
        let lost =
            i64::try_from(expected).unwrap_or(i64::MAX) - i64::try_from(self.received).unwrap_or(i64::MAX);
        let (last_sr, delay_since_last_sr) = match self.sender_report {
            None => (0, 0),
            Some((time, came)) => {
                let delay = now.saturating_duration_since(came).as_millis() * 65_536 / 1000;
                (time, u32::try_from(delay).unwrap_or(u32::MAX))
            }
        };
        ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: fraction as u8,
            lost: lost.clamp(-0x80_0000, 0x7F_FFFF) as i32,
            highest_sequence: self.highest,
            jitter: self.jitter_ticks as u32,
            last_sr,
            delay_since_last_sr,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    const RATE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();

    #[test]
    fn losses_are_counted_across_the_wrap_since_the_last_report() {
        let now = Clock::manual().now();
        let mut stats = SourceStats::new(7, RATE, now, 65_530, 0);
        for sequence in [65_530, 65_531, 65_533, 65_534, 65_535, 0, 2, 1] {
            stats.on_packet(now, sequence, 0);
        }
        let report = stats.report(now);
        assert_eq!((report.lost, report.fraction_lost, report.highest_sequence), (1, 28, 0x1_0002));
        for sequence in [3, 4, 4] {
            stats.on_packet(now, sequence, 0);
        }
        let report = stats.report(now);
        assert_eq!((report.lost, report.fraction_lost), (0, 0), "a double makes up for a loss");
        assert_eq!(stats.report(now).fraction_lost, 0, "nothing came and nothing was expected");
    }

    #[test]
    fn jitter_is_the_smoothed_change_of_the_time_on_the_way() {
        let now = Clock::manual().now();
        let mut stats = SourceStats::new(7, RATE, now, 0, u32::MAX - 1000);
        for n in 0..500_u32 {
            // Every 10 ms, every second packet 4 ms late.
            let late = u64::from(n % 2) * 4;
            let at = now + Duration::from_millis(u64::from(n) * 10 + late);
            stats.on_packet(at, n as u16, (u32::MAX - 1000).wrapping_add(n * 900));
        }
        let jitter = stats.report(now).jitter;
        assert!((350..=370).contains(&jitter), "{jitter} ticks of 360");
    }

    #[test]
    fn the_delay_since_a_sender_report_lets_the_sender_measure_the_way() {
        let now = Clock::manual().now();
        let mut stats = SourceStats::new(7, RATE, now, 0, 0);
        assert_eq!((stats.report(now).last_sr, stats.report(now).delay_since_last_sr), (0, 0));
        stats.on_sender_report(now, 0x0102_0304_0506_0708);
        let report = stats.report(now + Duration::from_millis(500));
        assert_eq!((report.last_sr, report.delay_since_last_sr), (0x0304_0506, 32_768));
    }
}
