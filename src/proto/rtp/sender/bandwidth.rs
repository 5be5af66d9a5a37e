//! Whether a viewer's network carries the stream, by what the viewer says of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over which time rates are measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Parts of the window.
const SLOT: Duration = Duration::from_millis(100);
/// The viewer's estimate must stay below what is sent for so long: while a stream grows it lags behind, since it is never
/// above half as much again as what arrives.
const SHORT_FOR: Duration = Duration::from_secs(1);
/// The share of lost packets from which on the network is too narrow, in 256ths: below, it is the air.
const LOSS_HIGH: u8 = 38;
/// At which it is not.
const LOSS_LOW: u8 = 8;
/// Least that is believed of an estimate.
const LEAST_BPS: u64 = 50_000;

/// Bytes over the last second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    slots: VecDeque<(Instant, u64)>,
    began: Option<Instant>,
}

impl Rate {
    pub(super) fn add(&mut self, now: Instant, bytes: usize) {
        self.began.get_or_insert(now);
        match self.slots.back_mut() {
            Some((since, sum)) if now.saturating_duration_since(*since) < SLOT => *sum += bytes as u64,
            _ => self.slots.push_back((now, bytes as u64)),
        }
        while self.slots.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > WINDOW) {
            self.slots.pop_front();
        }
    }

    /// Bits a second; 0 before a window has passed.
    pub(super) fn bps(&self, now: Instant) -> u64 {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) < WINDOW) {
            return 0;
        }
        let recent = |slot: &&(Instant, u64)| now.saturating_duration_since(slot.0) <= WINDOW;
        self.slots.iter().filter(recent).map(|(_, bytes)| bytes * 8).sum()
    }
}

/// What a viewer's network carries.
#[derive(Debug, Default)]
pub(super) struct Bandwidth {
    /// The newest REMB.
    estimate_bps: Option<u64>,
    /// A ceiling found by loss.
    by_loss_bps: Option<u64>,
    /// Since when less is available than is sent.
    short_since: Option<Instant>,
    is_short: bool,
    /// Receiver reports in a row that told of much loss.
    lossy_reports: u32,
}

impl Bandwidth {
    /// Least of what is known; `None` while nothing limits.
    pub(super) fn available_bps(&self) -> Option<u64> {
        let known = [self.estimate_bps, self.by_loss_bps];
        known.into_iter().flatten().min().map(|bps| bps.max(LEAST_BPS))
    }

    /// Whether the stream has to be thinned out to fit.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    pub(super) fn on_estimate(&mut self, now: Instant, bps: u64, sent_bps: u64, wanted_bps: u64) {
        self.estimate_bps = Some(bps);
        self.judge(now, sent_bps, wanted_bps);
    }

    /// Two reports of much loss make a ceiling, which rises while little is lost.
    pub(super) fn on_loss(&mut self, now: Instant, fraction_lost: u8, sent_bps: u64, wanted_bps: u64) {
        if fraction_lost >= LOSS_HIGH {
            self.lossy_reports += 1;
            if self.lossy_reports >= 2 && sent_bps > 0 {
                let arrives = sent_bps * u64::from(256 - u32::from(fraction_lost)) / 256;
                let ceiling = self.by_loss_bps.map_or(arrives, |ceiling| ceiling.min(arrives));
                self.by_loss_bps = Some(ceiling.max(LEAST_BPS));
            }
        } else {
            self.lossy_reports = 0;
            if fraction_lost <= LOSS_LOW {
                let risen = self.by_loss_bps.map(|ceiling| ceiling + ceiling / 8);
                self.by_loss_bps = risen.filter(|ceiling| *ceiling < wanted_bps * 5 / 4);
            }
        }
        self.judge(now, sent_bps, wanted_bps);
    }

    fn judge(&mut self, now: Instant, sent_bps: u64, wanted_bps: u64) {
        let available = self.available_bps().unwrap_or(u64::MAX);
        if self.is_short {
            self.is_short = available < wanted_bps + wanted_bps / 8;
            self.short_since = None;
        } else if sent_bps > 0 && available < sent_bps - sent_bps / 8 {
            let since = *self.short_since.get_or_insert(now);
            self.is_short = now.saturating_duration_since(since) >= SHORT_FOR;
        } else {
            self.short_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn rates_cover_the_last_second_and_are_unknown_in_the_first() {
        let clock = Clock::manual();
        let mut rate = Rate::default();
        for _ in 0..30 {
            rate.add(clock.now(), 1000);
            clock.advance(Duration::from_millis(50));
        }
        let bps = rate.bps(clock.now());
        assert!((140_000..=180_000).contains(&bps), "{bps}");
        clock.advance(Duration::from_secs(2));
        assert_eq!(rate.bps(clock.now()), 0);
        let mut young = Rate::default();
        young.add(clock.now(), 1_000_000);
        assert_eq!(young.bps(clock.now()), 0);
    }

    #[test]
    fn an_estimate_below_what_is_sent_counts_when_it_stays_there() {
        let clock = Clock::manual();
        let mut bandwidth = Bandwidth::default();
        let mut told = |bps: u64, sent: u64, wait_ms: u64| {
            clock.advance(Duration::from_millis(wait_ms));
            bandwidth.on_estimate(clock.now(), bps, sent, 2_000_000);
            bandwidth.is_short()
        };
        assert!(!told(3_000_000, 2_000_000, 0));
        assert!(!told(1_000_000, 2_000_000, 500), "it may lag behind a stream that grows");
        assert!(!told(2_500_000, 2_000_000, 500));
        assert!(!told(1_000_000, 2_000_000, 500));
        assert!(told(1_000_000, 2_000_000, 1000));
        assert!(told(1_500_000, 1_000_000, 1000), "the stream needs more than that");
        assert!(!told(2_400_000, 1_500_000, 1000));
    }

    #[test]
    fn much_loss_makes_a_ceiling_that_rises_and_goes() {
        let clock = Clock::manual();
        let mut bandwidth = Bandwidth::default();
        let mut told = |lost: u8| {
            clock.advance(Duration::from_secs(1));
            bandwidth.on_loss(clock.now(), lost, 2_000_000, 2_000_000);
            (bandwidth.is_short(), bandwidth.available_bps())
        };
        assert_eq!(told(25), (false, None), "a tenth is what the air loses");
        assert_eq!(told(128), (false, None));
        assert_eq!(told(128).1, Some(1_000_000));
        assert!(told(128).0);
        let mut reports = 0;
        while told(0).0 {
            reports += 1;
            assert!(reports < 12);
        }
        assert!(reports > 3);
    }
}
