//! The share of packets that a viewer's network loses.

use std::time::{Duration, Instant};

use crate::proto::rtp::rtcp::ReportBlock;

/// Over which time losses are counted. Browsers report as often as they have something else to say, a dozen times a second
/// while packets are missing: the share that such a report tells is of a handful of packets.
const WINDOW: Duration = Duration::from_secs(1);
/// A window of fewer packets says nothing and goes on.
const PACKETS_MIN: u32 = 20;

/// Counts of the report with which the window began.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    highest_sequence: u32,
    lost: i32,
}

/// Losses of one source by its reports.
#[derive(Debug, Default)]
pub(super) struct Losses(Option<Begun>);

impl Losses {
    /// Takes a report about the source; at the end of each window, the share that was lost in it, in 256ths.
    pub(super) fn on_report(&mut self, now: Instant, block: &ReportBlock) -> Option<u8> {
        let this = Begun { at: now, highest_sequence: block.highest_sequence, lost: block.lost };
        let begun = *self.0.get_or_insert(this);
        let expected = this.highest_sequence.wrapping_sub(begun.highest_sequence);
        // A viewer that counts backwards, or across 2^31 packets, begins anew.
        if expected > u32::MAX / 2 {
            self.0 = Some(this);
            return None;
        }
        if now.saturating_duration_since(begun.at) < WINDOW || expected < PACKETS_MIN {
            return None;
        }
        self.0 = Some(this);
        // Late and doubled packets count against losses (RFC 3550 section 6.4.1).
        let lost = u64::from(this.lost.saturating_sub(begun.lost).max(0).unsigned_abs());
        Some(u8::try_from(lost * 256 / u64::from(expected)).unwrap_or(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn reports_are_summed_up_over_a_second() {
        let clock = Clock::manual();
        let mut losses = Losses::default();
        let mut report = |highest_sequence: u32, lost: i32, after_ms: u64| {
            clock.advance(Duration::from_millis(after_ms));
            let block = ReportBlock { highest_sequence, lost, fraction_lost: 200, ..ReportBlock::default() };
            losses.on_report(clock.now(), &block)
        };
        assert_eq!(report(65_000, 3, 0), None);
        // Half of four packets, then none of many: a tenth of all.
        assert_eq!(report(65_004, 5, 30), None);
        assert_eq!(report(65_100, 13, 500), None);
        assert_eq!(report(65_200, 23, 500), Some(25));
        assert_eq!(report(65_210, 33, 1500), None, "too few packets to tell");
        assert_eq!(report(65_600, 23, 500), Some(0), "what was lost came late");
        assert_eq!(report(10, 23, 1000), None, "it began anew");
        assert_eq!(report(110, 123, 1000), Some(255));
    }
}
