//! How much a sender may send, judged by what arrives: the number behind REMB.
//!
//! A browser starts at 300 kbit/s and goes no higher than it is told, so the allowance must run ahead of what it
//! sends, and must fall when the way is full. Two signs tell that: packets missing at first (whether or not they were
//! sent again), and, where the sender stamps its packets (`abs-send-time`), a queue that grows on the way.

use std::time::{Duration, Instant};

/// First allowance: what a browser needs for 1280 × 720 within some seconds, and what any wired or mobile way of today
/// carries. Chromium takes it over at once during its first two seconds, later it climbs 8 % a second.
pub const START_BPS: u64 = 1_200_000;
/// Lowest allowance: below it, video is not worth watching and a browser would stop sending it.
pub const FLOOR_BPS: u64 = 150_000;
/// Time between two judgements.
pub const JUDGE_INTERVAL: Duration = Duration::from_millis(500);

/// Above this share of missing packets the way counts as full; random loss of radio links is mostly lower.
const LOSS_HIGH: f64 = 0.07;
/// Below this share it counts as free.
const LOSS_LOW: f64 = 0.03;
/// Packets that make a loss share worth judging.
const LOSS_PACKETS_MIN: u64 = 50;
/// A queue of this length means that more is sent than the way carries.
const QUEUE_HIGH: Duration = Duration::from_millis(100);
/// A queue of this length forbids growth.
const QUEUE_LOW: Duration = Duration::from_millis(40);
/// The shortest time on the way is looked for within the last one or two of these.
const QUEUE_WINDOW: Duration = Duration::from_secs(10);
/// Shortest time between two reductions: the sender's reaction has to arrive first.
const REDUCE_INTERVAL: Duration = Duration::from_secs(1);
/// After a reduction growth is slow for so long.
const CAREFUL: Duration = Duration::from_secs(30);
/// Judgements that count as recent.
const RECENT: usize = 4;
/// Slow growth, per judgement: about 8 % a second.
const CAREFUL_GROWTH: f64 = 1.04;
/// Fast growth: so many times what arrives.
const FAST_GROWTH: u64 = 2;

/// Judges one bundle.
#[derive(Debug)]
pub struct RateEstimator {
    most_bps: u64,
    allowance_bps: u64,
    judged: Option<Instant>,
    window_bytes: u64,
    loss_from: (u64, u64),
    loss: f64,
    queue: Queue,
    long_queues: u32,
    reduced: Option<Instant>,
    /// What arrived in the newest judgements, in bits a second.
    recent_bps: [u64; RECENT],
}

impl RateEstimator {
    /// An estimator that never allows more than `most_bps`.
    #[must_use]
    pub fn new(most_bps: u64) -> Self {
        Self {
            most_bps,
            allowance_bps: START_BPS.min(most_bps),
            judged: None,
            window_bytes: 0,
            loss_from: (0, 0),
            loss: 0.0,
            queue: Queue::default(),
            long_queues: 0,
            reduced: None,
            recent_bps: [0; RECENT],
        }
    }

    /// The allowance now, in bits a second.
    #[must_use]
    pub fn allowance_bps(&self) -> u64 {
        self.allowance_bps
    }

    /// Counts a packet of `size_bytes`. `send_time` is its `abs-send-time`: 24 bits, in 2^-18 seconds.
    pub fn on_packet(&mut self, now: Instant, size_bytes: usize, send_time: Option<u32>) {
        self.judged.get_or_insert(now);
        self.window_bytes += size_bytes as u64;
        if let Some(send_time) = send_time {
            self.queue.on_packet(now, send_time);
        }
    }

    /// Judges the time since the previous call; `received` and `missed` are counts since the beginning of packets that
    /// came and that were missing at first. Returns whether the allowance was reduced, which the sender must learn at
    /// once.
    pub fn judge(&mut self, now: Instant, received: u64, missed: u64) -> bool {
        let Some(judged) = self.judged else { return false };
        let seconds = now.saturating_duration_since(judged).as_secs_f64();
        if seconds < JUDGE_INTERVAL.as_secs_f64() / 2.0 {
            return false;
        }
        self.judged = Some(now);
        let received_bps = (std::mem::take(&mut self.window_bytes) as f64 * 8.0 / seconds) as u64;
        let queue = self.queue.judge(now);
        if received_bps == 0 {
            return false;
        }
        self.recent_bps.rotate_right(1);
        if let Some(newest) = self.recent_bps.first_mut() {
            *newest = received_bps;
        }
        self.judge_loss(received, missed);
        self.long_queues = if queue > QUEUE_HIGH { self.long_queues + 1 } else { 0 };
        let is_full = self.loss > LOSS_HIGH || self.long_queues >= 2;
        if is_full {
            return self.reduce(now, received_bps);
        }
        if self.loss < LOSS_LOW && queue < QUEUE_LOW {
            self.grow(now, received_bps);
        }
        false
    }

    fn judge_loss(&mut self, received: u64, missed: u64) {
        let came = received.saturating_sub(self.loss_from.0);
        if came < LOSS_PACKETS_MIN {
            return;
        }
        let share = (missed.saturating_sub(self.loss_from.1) as f64 / came as f64).min(1.0);
        self.loss_from = (received, missed);
        self.loss = (self.loss + share) / 2.0;
    }

    fn reduce(&mut self, now: Instant, received_bps: u64) -> bool {
        if self.reduced.is_some_and(|at| now.saturating_duration_since(at) < REDUCE_INTERVAL) {
            return false;
        }
        self.reduced = Some(now);
        // What arrives is what the way carries: through a queue exactly, through random loss at least. Pictures differ
        // in size: the most of two seconds tells more than the least.
        let carried_bps = self.recent_bps.into_iter().max().unwrap_or(received_bps);
        let base = self.allowance_bps.min(carried_bps + carried_bps / 5) as f64;
        let by_loss = base * (1.0 - self.loss.min(1.0) / 2.0);
        let by_queue = if self.long_queues >= 2 { received_bps as f64 * 0.85 } else { f64::INFINITY };
        let floor = FLOOR_BPS.min(self.most_bps);
        let reduced = (by_loss.min(by_queue) as u64).max(floor);
        let is_less = reduced < self.allowance_bps;
        self.allowance_bps = reduced.min(self.allowance_bps);
        is_less
    }

    fn grow(&mut self, now: Instant, received_bps: u64) {
        let is_careful = self.reduced.is_some_and(|at| now.saturating_duration_since(at) < CAREFUL);
        let ahead = received_bps.saturating_mul(FAST_GROWTH);
        let grown = if is_careful {
            // Not beyond what the sender makes use of.
            ((self.allowance_bps as f64 * CAREFUL_GROWTH) as u64).min(ahead)
        } else {
            ahead
        };
        self.allowance_bps = self.allowance_bps.max(grown).min(self.most_bps);
    }
}

/// How much longer packets travel than the fastest one did: the queue on the way.
#[derive(Debug, Default)]
struct Queue {
    origin: Option<(Instant, u32)>,
    /// Send time since the origin, in 2^-18 seconds.
    sent: i64,
    /// Least time on the way of the current judgement, in microseconds on a clock of its own.
    least: Option<i64>,
    /// Least of the current window, and of the one before.
    window: Option<i64>,
    window_before: Option<i64>,
    window_began: Option<Instant>,
}

impl Queue {
    fn on_packet(&mut self, now: Instant, send_time: u32) {
        let &mut (origin, first) = self.origin.get_or_insert((now, send_time));
        // The shortest way round 24 bits, which wrap every 64 seconds.
        let wrapped = send_time.wrapping_sub(first).wrapping_sub(self.sent as u32) << 8;
        self.sent += i64::from(wrapped as i32 >> 8);
        let arrived = i64::try_from(now.saturating_duration_since(origin).as_micros()).unwrap_or(i64::MAX);
        let travelled = arrived - self.sent * 1_000_000 / (1 << 18);
        self.least = Some(self.least.map_or(travelled, |least| least.min(travelled)));
    }

    fn judge(&mut self, now: Instant) -> Duration {
        let began = *self.window_began.get_or_insert(now);
        if now.saturating_duration_since(began) >= QUEUE_WINDOW {
            self.window_began = Some(now);
            self.window_before = self.window.take();
        }
        let Some(least) = self.least.take() else { return Duration::ZERO };
        self.window = Some(self.window.map_or(least, |window| window.min(least)));
        let base = self.window.into_iter().chain(self.window_before).min().unwrap_or(least);
        Duration::from_micros(u64::try_from(least - base).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::base::clock::Clock;

    const MOST: u64 = 4_000_000;

    /// A sender that sends what it is allowed (at most `sender_max`) over a way that carries `way_bps` with a queue of
    /// half a second, and loses a share of packets besides.
    struct Link {
        way_bps: f64,
        sender_max: u64,
        loss: f64,
        stamps: bool,
        ticks: u64,
        queue_seconds: f64,
        on_the_way: VecDeque<(Instant, usize, u32)>,
        received: u64,
        missed: u64,
        owed: f64,
    }

    impl Link {
        fn run(&mut self, estimator: &mut RateEstimator, clock: &Clock, seconds: u64) -> u64 {
            for _ in 0..seconds * 100 {
                clock.advance(Duration::from_millis(10));
                self.ticks += 1;
                let rate = estimator.allowance_bps().min(self.sender_max) as f64;
                self.send(clock.now(), rate / 8.0 / 100.0);
                while self.on_the_way.front().is_some_and(|packet| packet.0 <= clock.now()) {
                    let (at, size, stamp) = self.on_the_way.pop_front().unwrap();
                    self.received += 1;
                    estimator.on_packet(at, size, self.stamps.then_some(stamp));
                }
                if self.ticks.is_multiple_of(50) {
                    estimator.judge(clock.now(), self.received, self.missed);
                }
            }
            estimator.allowance_bps()
        }

        fn send(&mut self, now: Instant, bytes: f64) {
            let packets = (bytes / 1000.0).ceil();
            let stamp = (self.ticks as f64 / 100.0 * 262_144.0) as u32 & 0xFF_FFFF;
            self.queue_seconds = (self.queue_seconds - 0.01).max(0.0);
            for _ in 0..packets as u64 {
                self.owed += self.loss;
                if self.owed >= 1.0 || self.queue_seconds > 0.5 {
                    self.owed = (self.owed - 1.0).max(0.0);
                    self.missed += 1;
                    continue;
                }
                self.queue_seconds += bytes / packets * 8.0 / self.way_bps;
                let arrival = now + Duration::from_secs_f64(self.queue_seconds);
                self.on_the_way.push_back((arrival, (bytes / packets) as usize, stamp));
            }
        }
    }

    fn link(way_bps: f64, loss: f64, stamps: bool) -> Link {
        Link {
            way_bps,
            sender_max: 2_500_000,
            loss,
            stamps,
            ticks: 0,
            queue_seconds: 0.0,
            on_the_way: VecDeque::new(),
            received: 0,
            missed: 0,
            owed: 0.0,
        }
    }

    #[test]
    fn a_free_way_is_allowed_all_within_seconds() {
        let (clock, mut estimator) = (Clock::manual(), RateEstimator::new(MOST));
        assert_eq!(estimator.allowance_bps(), START_BPS);
        let allowance = link(1e9, 0.0, true).run(&mut estimator, &clock, 3);
        assert_eq!(allowance, MOST);
    }

    #[test]
    fn ten_percent_of_loss_brings_the_allowance_down_and_two_do_not() {
        let (clock, mut estimator) = (Clock::manual(), RateEstimator::new(MOST));
        let mut way = link(1e9, 0.0, false);
        let before = way.run(&mut estimator, &clock, 5);
        way.loss = 0.02;
        assert_eq!(way.run(&mut estimator, &clock, 20), before);
        way.loss = 0.10;
        let after = way.run(&mut estimator, &clock, 10);
        assert!(after < 2_500_000 * 3 / 4, "{after}");
        way.run(&mut estimator, &clock, 300);
        assert!(estimator.allowance_bps() >= FLOOR_BPS);
        way.loss = 0.0;
        let recovered = way.run(&mut estimator, &clock, 60);
        assert!(recovered > 2_000_000, "{recovered}");
    }

    #[test]
    fn a_narrow_way_is_found_by_its_queue_before_it_loses() {
        let (clock, mut estimator) = (Clock::manual(), RateEstimator::new(MOST));
        let mut way = link(800_000.0, 0.0, true);
        way.run(&mut estimator, &clock, 15);
        let mut sum = 0;
        for _ in 0..60 {
            sum += way.run(&mut estimator, &clock, 1).min(2_500_000);
        }
        let mean = sum / 60;
        assert!((500_000..1_000_000).contains(&mean), "{mean}");
    }

    #[test]
    fn a_silent_sender_changes_nothing() {
        let (clock, mut estimator) = (Clock::manual(), RateEstimator::new(MOST));
        link(1e9, 0.0, true).run(&mut estimator, &clock, 3);
        for _ in 0..20 {
            clock.advance(JUDGE_INTERVAL);
            assert!(!estimator.judge(clock.now(), 0, 0));
        }
        assert_eq!(estimator.allowance_bps(), MOST);
    }
}
