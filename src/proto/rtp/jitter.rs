//! Puts packets of one source back in order, holds them while one is missing, and says which to ask for again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most packets held back: a second of 20 Mbit/s in packets of 1200 bytes.
const HELD_PACKETS_MAX: usize = 2048;
/// Most bytes held back.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most packets that may be missing at once before they are given up together: libwebrtc's bound.
const MISSING_MAX: i64 = 1000;
/// A packet so far behind is not late, it belongs to a sequence that began anew.
const LATE_MAX: i64 = 4096;
/// Given-up packets that are remembered, to learn from their late arrival how long the way is.
const REMEMBERED_MAX: usize = 64;
/// Shortest and longest wait before a missing packet is asked for: it may only have been overtaken.
const OVERTAKEN_WAIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(40));
/// Round-trip time before the first measurement. A packet that comes sooner than half of it after it was asked for
/// was only overtaken.
const ROUND_TRIP_GUESS: Duration = Duration::from_millis(40);
/// Bounds of the measured round-trip time.
const ROUND_TRIP: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// Times one packet is asked for.
const ASKS_MAX: u32 = 8;
/// The hold-back grows with the round-trip time, so that an answer has time to come, to at most so many times itself.
const HOLD_BACK_GROWTH_MAX: u32 = 3;

/// What became of a packet given to [`JitterBuffer::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is the next one and nothing waits: use it now, it was not copied.
    Next,
    /// It is held; see [`JitterBuffer::pop`].
    Held,
    /// It came before, or after it was given up.
    Late,
    /// It fits nowhere; if the next packet follows it, a new sequence has begun.
    Astray,
}

/// A packet that left the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Popped {
    /// The packet as it was given.
    pub packet: Vec<u8>,
    /// When it came.
    pub arrived: Instant,
    /// How many packets before it never came.
    pub lost: u64,
}

#[derive(Debug)]
struct Missing {
    noticed: Instant,
    asked: Option<Instant>,
    asks: u32,
}

#[derive(Debug)]
struct Held {
    packet: Vec<u8>,
    arrived: Instant,
}

/// Reorder buffer of one source. Sequence numbers are extended to 64 bits, so that wraps are no case of their own.
#[derive(Debug)]
pub struct JitterBuffer {
    hold_back: Duration,
    /// The next to hand out; `None` before the first packet.
    next: Option<i64>,
    /// The highest that came.
    highest: i64,
    held: BTreeMap<i64, Held>,
    held_bytes: usize,
    missing: BTreeMap<i64, Missing>,
    given_up: BTreeMap<i64, Instant>,
    astray: Option<u16>,
    /// How long a missing packet is given before it is asked for: as far behind as overtaken ones came lately.
    overtaken_wait: Duration,
    /// Packets that came behind others before they were asked for, and sooner after it than an answer was expected.
    overtaken: u32,
    early: u32,
    /// Smoothed round-trip time and its variation, as TCP keeps them (RFC 6298).
    round_trip: Option<(Duration, Duration)>,
    /// Packets given up since the last one was handed out.
    lost: u64,
    counts: JitterCounts,
}

/// Counts of one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterCounts {
    /// Given up.
    pub lost: u64,
    /// Came twice or too late.
    pub late: u64,
    /// Missing for longer than an overtaken packet would be, whether or not they came in the end: the loss of the way
    /// before any repair.
    pub missed: u64,
    /// Requests for a packet.
    pub asks: u64,
}

impl std::ops::Add for JitterCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            late: self.late + other.late,
            missed: self.missed + other.missed,
            asks: self.asks + other.asks,
        }
    }
}

impl JitterBuffer {
    /// An empty buffer. A missing packet is waited for during `hold_back`, longer when the round-trip time asks.
    #[must_use]
    pub fn new(hold_back: Duration) -> Self {
        Self {
            hold_back,
            next: None,
            highest: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            missing: BTreeMap::new(),
            given_up: BTreeMap::new(),
            astray: None,
            overtaken_wait: OVERTAKEN_WAIT.0,
            overtaken: 0,
            early: 0,
            round_trip: None,
            lost: 0,
            counts: JitterCounts::default(),
        }
    }

    /// Counts so far.
    #[must_use]
    pub fn counts(&self) -> JitterCounts {
        self.counts
    }

    /// Time from asking for a packet to its arrival; `None` before one was answered.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|(smoothed, _)| smoothed)
    }

    /// Takes a packet with its sequence number. After [`Inserted::Held`], and after [`Inserted::Next`] was used, call
    /// [`JitterBuffer::pop`] until it gives nothing.
    pub fn insert(&mut self, now: Instant, sequence: u16, packet: &[u8]) -> Inserted {
        let Some(next) = self.next else {
            self.begin(sequence);
            return self.hand_through(i64::from(sequence));
        };
        // The nearest number to the highest one that ends in these 16 bits.
        let step = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        let extended = self.highest + step;
        if !(-LATE_MAX..=MISSING_MAX).contains(&step) {
            return self.stray(now, sequence, packet);
        }
        self.astray = None;
        if extended < next {
            if let Some(asked) = self.given_up.remove(&extended) {
                self.measure(now.saturating_duration_since(asked));
            }
            self.counts.late += 1;
            return Inserted::Late;
        }
        if self.held.contains_key(&extended) {
            self.counts.late += 1;
            return Inserted::Late;
        }
        if let Some(missing) = self.missing.remove(&extended) {
            self.learn(now, &missing);
        }
        for absent in self.highest + 1..extended {
            self.missing.insert(absent, Missing { noticed: now, asked: None, asks: 0 });
        }
        self.highest = self.highest.max(extended);
        if extended == next && self.held.is_empty() && self.lost == 0 {
            return self.hand_through(extended);
        }
        self.hold(now, extended, packet);
        Inserted::Held
    }

    fn begin(&mut self, sequence: u16) {
        let first = i64::from(sequence);
        self.next = Some(first);
        self.highest = first;
    }

    fn hand_through(&mut self, extended: i64) -> Inserted {
        self.next = Some(extended + 1);
        Inserted::Next
    }

    fn hold(&mut self, now: Instant, extended: i64, packet: &[u8]) {
        self.held_bytes += packet.len();
        self.held.insert(extended, Held { packet: packet.to_vec(), arrived: now });
        while self.held.len() > HELD_PACKETS_MAX
            || self.held_bytes > HELD_BYTES_MAX
            || self.missing.len() as i64 > MISSING_MAX
        {
            if !self.give_up_first_hole() {
                break;
            }
        }
    }

    /// RFC 3550 appendix A.1: one packet with a far number is noise, two in sequence are a new beginning.
    fn stray(&mut self, now: Instant, sequence: u16, packet: &[u8]) -> Inserted {
        if self.astray.replace(sequence.wrapping_add(1)) != Some(sequence) {
            self.counts.late += 1;
            return Inserted::Astray;
        }
        self.astray = None;
        self.counts.lost += 1;
        self.lost += 1 + self.held.len() as u64;
        self.held.clear();
        self.held_bytes = 0;
        self.missing.clear();
        self.given_up.clear();
        self.begin(sequence);
        self.hold(now, i64::from(sequence), packet);
        Inserted::Held
    }

    /// A missing packet came: was it only overtaken, or is it the answer to our question?
    fn learn(&mut self, now: Instant, missing: &Missing) {
        let waited = missing.asked.map(|asked| now.saturating_duration_since(asked));
        match waited {
            // With several questions it would be unknown which one was answered (Karn).
            _ if missing.asks > 1 => {}
            Some(waited) if waited >= self.round_trip_or_guess() / 2 => self.measure(waited),
            Some(waited) => {
                // Too early for an answer, unless the way is shorter than thought. Where packets do overtake each
                // other, many come before they are asked for.
                self.early = self.early.saturating_add(1);
                if self.overtaken.saturating_mul(4) < self.early {
                    self.measure(waited);
                } else {
                    self.widen_wait(now, missing);
                    // Asked for too soon: it was not missing after all.
                    self.counts.missed = self.counts.missed.saturating_sub(1);
                }
            }
            None => {
                self.overtaken = self.overtaken.saturating_add(1);
                self.widen_wait(now, missing);
            }
        }
    }

    fn widen_wait(&mut self, now: Instant, missing: &Missing) {
        let behind = now.saturating_duration_since(missing.noticed);
        let wait = self.overtaken_wait.mul_f32(0.98).max(behind.mul_f32(1.1));
        self.overtaken_wait = wait.clamp(OVERTAKEN_WAIT.0, OVERTAKEN_WAIT.1);
    }

    fn measure(&mut self, sample: Duration) {
        let sample = sample.clamp(ROUND_TRIP.0, ROUND_TRIP.1);
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 4),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + sample) / 8, (variation * 3 + smoothed.abs_diff(sample)) / 4)
            }
        });
    }

    fn round_trip_or_guess(&self) -> Duration {
        self.round_trip.map_or(ROUND_TRIP_GUESS, |(smoothed, _)| smoothed)
    }

    /// When a question that was not answered is asked again.
    fn again_wait(&self) -> Duration {
        let (smoothed, variation) = self.round_trip.unwrap_or((ROUND_TRIP_GUESS, ROUND_TRIP_GUESS / 8));
        (smoothed + variation * 2).max(OVERTAKEN_WAIT.0 * 2)
    }

    /// How long the first missing packet is waited for: two questions have time to be answered.
    fn patience(&self) -> Duration {
        if self.round_trip.is_none() {
            return self.hold_back;
        }
        let needed = self.overtaken_wait + self.again_wait() * 2;
        needed.clamp(self.hold_back, self.hold_back * HOLD_BACK_GROWTH_MAX)
    }

    /// The next packet in order, or the first one behind a hole that has been open for too long.
    pub fn pop(&mut self, now: Instant) -> Option<Popped> {
        loop {
            let next = self.next?;
            let &first = self.held.keys().next()?;
            if first == next {
                let held = self.held.remove(&first)?;
                self.held_bytes -= held.packet.len();
                self.next = Some(first + 1);
                let lost = std::mem::take(&mut self.lost);
                return Some(Popped { packet: held.packet, arrived: held.arrived, lost });
            }
            let noticed = self.missing.get(&next).map(|missing| missing.noticed);
            let is_over =
                noticed.is_none_or(|noticed| now.saturating_duration_since(noticed) >= self.patience());
            if !is_over || !self.give_up_first_hole() {
                return None;
            }
        }
    }

    /// Goes on at the first held packet; returns whether there is one.
    fn give_up_first_hole(&mut self) -> bool {
        let (Some(next), Some(&first)) = (self.next, self.held.keys().next()) else { return false };
        let lost = u64::try_from(first - next).unwrap_or_default();
        self.lost += lost;
        self.counts.lost += lost;
        let later = self.missing.split_off(&first);
        for (number, missing) in std::mem::replace(&mut self.missing, later) {
            match (missing.asked, missing.asks) {
                (Some(asked), 1) => {
                    self.given_up.insert(number, asked);
                }
                (None, _) => self.counts.missed += 1,
                _ => {}
            }
        }
        while self.given_up.len() > REMEMBERED_MAX {
            self.given_up.pop_first();
        }
        self.next = Some(first);
        lost > 0
    }

    /// The missing packets that are due to be asked for, rising; they count as asked.
    pub fn take_asks(&mut self, now: Instant, most: usize) -> Vec<u16> {
        let (first_wait, again_wait) = (self.overtaken_wait, self.again_wait());
        let mut asks = Vec::new();
        for (&number, missing) in &mut self.missing {
            if asks.len() == most {
                break;
            }
            if due(missing, first_wait, again_wait).is_some_and(|at| at <= now) {
                if missing.asks == 0 {
                    self.counts.missed += 1;
                }
                missing.asked = Some(now);
                missing.asks += 1;
                asks.push(number as u16);
            }
        }
        self.counts.asks += asks.len() as u64;
        asks
    }

    /// When [`JitterBuffer::pop`] will give up a hole, or, if `asking`, a packet is to be asked for.
    #[must_use]
    pub fn deadline(&self, asking: bool) -> Option<Instant> {
        let give_up = self.next.and_then(|next| self.missing.get(&next)).map(|m| m.noticed + self.patience());
        if !asking {
            return give_up;
        }
        let (first_wait, again_wait) = (self.overtaken_wait, self.again_wait());
        let ask = self.missing.values().filter_map(|missing| due(missing, first_wait, again_wait)).min();
        give_up.into_iter().chain(ask).min()
    }

    /// Packets held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

fn due(missing: &Missing, first_wait: Duration, again_wait: Duration) -> Option<Instant> {
    match missing.asked {
        None => Some(missing.noticed + first_wait),
        Some(asked) => (missing.asks < ASKS_MAX).then_some(asked + again_wait),
    }
}

#[cfg(test)]
#[path = "jitter_tests.rs"]
mod tests;
