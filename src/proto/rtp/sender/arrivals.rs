//! What a viewer's network carries, by when numbered packets arrived (transport-wide feedback).
//!
//! A network that is too narrow fills its buffers before it loses anything: packets take longer and longer. While they do, what
//! arrives in a second is what there is room for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::bandwidth::Rate;
use crate::proto::rtp::transport_wide::{TICKS_PER_SECOND, TransportWideFeedback};

/// Packets that are remembered: more than two seconds of any stream that is served.
const SENT_MAX: usize = 8192;
/// So long is the shortest time on the way remembered, against which others are held. Clocks drift apart by less than a
/// millisecond in it.
const SHORTEST_KEPT: Duration = Duration::from_secs(10);
/// Waiting in the network from which on it is too narrow.
const WAITS_LONG: Duration = Duration::from_millis(80);
/// And below which it is not.
const WAITS_LITTLE: Duration = Duration::from_millis(25);
/// It must wait long for so many messages in a row: one burst fills a buffer, too.
const LONG_MESSAGES: u32 = 3;

/// Numbers packets across all sources, and remembers when each was sent.
#[derive(Debug)]
pub(super) struct Arrivals {
    origin: Instant,
    /// Of the next packet, not wrapped.
    next: u64,
    /// The latest packets, the last of which is number `next` - 1.
    sent: VecDeque<Sent>,
    /// Shortest times on the way, in microseconds with an unknown constant: (since when, time), one a second.
    shortest: VecDeque<(Instant, i64)>,
    arrived: Rate,
    long_messages: u32,
    estimate_bps: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    bytes: usize,
}

impl Arrivals {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            next: 0,
            sent: VecDeque::new(),
            shortest: VecDeque::new(),
            arrived: Rate::default(),
            long_messages: 0,
            estimate_bps: None,
        }
    }

    /// The number of a packet that is sent now.
    pub(super) fn number(&mut self, now: Instant, bytes: usize) -> u16 {
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { at: now, bytes });
        self.next += 1;
        (self.next - 1) as u16
    }

    fn sent(&self, sequence: u16) -> Option<Sent> {
        let last = self.next.checked_sub(1)?;
        let back = usize::from((last as u16).wrapping_sub(sequence));
        let place = self.sent.len().checked_sub(1)?.checked_sub(back)?;
        self.sent.get(place).copied()
    }

    /// Takes a message; returns what the network carries in bits a second, `u64::MAX` while nothing shows a limit.
    pub(super) fn on_feedback(&mut self, now: Instant, feedback: &TransportWideFeedback) -> u64 {
        let mut sequence = feedback.first_sequence;
        let (mut bytes, mut waits, mut packets) = (0, Duration::ZERO, 0);
        for arrival in &feedback.arrivals {
            let sent = self.sent(sequence);
            sequence = sequence.wrapping_add(1);
            let (Some(sent), Some(arrival)) = (sent, arrival) else { continue };
            let left = sent.at.saturating_duration_since(self.origin).as_micros() as i64;
            let on_the_way = (*arrival).saturating_mul(1_000_000 / TICKS_PER_SECOND).saturating_sub(left);
            let shortest = self.note_shortest(now, on_the_way);
            waits += Duration::from_micros(on_the_way.abs_diff(shortest));
            bytes += sent.bytes;
            packets += 1;
        }
        self.arrived.add(now, bytes);
        if packets > 0 {
            self.judge(now, waits / packets);
        }
        self.estimate_bps.unwrap_or(u64::MAX)
    }

    /// The shortest time on the way of late, this one included.
    fn note_shortest(&mut self, now: Instant, on_the_way: i64) -> i64 {
        match self.shortest.back_mut() {
            Some((since, shortest)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                *shortest = (*shortest).min(on_the_way);
            }
            _ => self.shortest.push_back((now, on_the_way)),
        }
        while self.shortest.len() > 1
            && self
                .shortest
                .front()
                .is_some_and(|(since, _)| now.saturating_duration_since(*since) > SHORTEST_KEPT)
        {
            self.shortest.pop_front();
        }
        self.shortest.iter().map(|(_, shortest)| *shortest).min().unwrap_or(on_the_way)
    }

    fn judge(&mut self, now: Instant, waits: Duration) {
        let arrives = self.arrived.bps(now);
        if waits >= WAITS_LONG {
            self.long_messages += 1;
            if self.long_messages >= LONG_MESSAGES && arrives > 0 {
                // Less than what arrives, so that what waits in the network gets out of it.
                let room = arrives - arrives / 8;
                self.estimate_bps = Some(self.estimate_bps.map_or(room, |known| known.min(room)));
            }
        } else if waits < WAITS_LITTLE {
            self.long_messages = 0;
            // There may be more room than is used; a limit far above it is none.
            let risen = self.estimate_bps.map(|known| known + known / 32);
            self.estimate_bps = risen.filter(|risen| *risen < arrives.saturating_mul(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    /// A way that carries so many bits a second and holds what is too much.
    struct Way {
        clock: Clock,
        arrivals: Arrivals,
        free_at: Instant,
        began: Instant,
        told: VecDeque<(u16, i64)>,
    }

    impl Way {
        fn new() -> Self {
            let clock = Clock::manual();
            let now = clock.now();
            Self { arrivals: Arrivals::new(now), free_at: now, began: now, told: VecDeque::new(), clock }
        }

        /// Ten packets of 1000 bytes and a message about them, each tenth of a second; returns the last estimate.
        fn run(&mut self, seconds: u32, carries_bps: u64) -> u64 {
            let mut estimate = u64::MAX;
            for _ in 0..seconds * 10 {
                for _ in 0..10 {
                    let now = self.clock.now();
                    let number = self.arrivals.number(now, 1000);
                    self.free_at = self.free_at.max(now) + Duration::from_micros(8_000_000_000 / carries_bps);
                    let ticks = (self.free_at - self.began).as_micros() as i64 / 250;
                    self.told.push_back((number, ticks));
                    self.clock.advance(Duration::from_millis(10));
                }
                let now_ticks = (self.clock.now() - self.began).as_micros() as i64 / 250;
                let here = self.told.partition_point(|(_, at)| *at <= now_ticks);
                let told: Vec<_> = self.told.drain(..here).collect();
                if let Some((first_sequence, _)) = told.first() {
                    let arrivals = told.iter().map(|(_, at)| Some(*at)).collect();
                    let feedback = TransportWideFeedback { first_sequence: *first_sequence, arrivals };
                    estimate = self.arrivals.on_feedback(self.clock.now(), &feedback);
                }
            }
            estimate
        }
    }

    #[test]
    fn a_way_that_holds_packets_back_is_found_and_so_is_one_that_does_not_any_more() {
        let mut way = Way::new();
        assert_eq!(way.run(3, 10_000_000), u64::MAX, "0.8 Mbit/s of 10");
        let estimate = way.run(4, 400_000);
        assert!((200_000..=400_000).contains(&estimate), "{estimate}");
        way.free_at = way.clock.now();
        let estimate = way.run(8, 10_000_000);
        assert_eq!(estimate, u64::MAX);
    }

    #[test]
    fn messages_about_packets_that_were_never_sent_or_are_forgotten_change_nothing() {
        let clock = Clock::manual();
        let mut arrivals = Arrivals::new(clock.now());
        let feedback = TransportWideFeedback { first_sequence: 7, arrivals: vec![Some(i64::MAX); 70_000] };
        assert_eq!(arrivals.on_feedback(clock.now(), &feedback), u64::MAX);
        (0..SENT_MAX + 10).for_each(|_| {
            arrivals.number(clock.now(), 1);
        });
        assert!(arrivals.sent(9).is_none() && arrivals.sent(10).is_some());
        assert_eq!(arrivals.sent.len(), SENT_MAX);
        assert_eq!(arrivals.on_feedback(clock.now(), &feedback), u64::MAX, "one message is none");
    }
}
