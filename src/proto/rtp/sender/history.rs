//! What was sent a moment ago, to be sent again to who asks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::proto::rtp::payload::Packet;

/// Most packets kept.
const PACKETS_MAX: usize = 2048;
/// Most bytes kept: two seconds of 8 Mbit/s.
const BYTES_MAX: usize = 2 << 20;
/// A packet older than this comes too late for everybody.
const AGE_MAX: Duration = Duration::from_secs(2);

/// Packets of one source in the order of their sequence numbers, without a gap.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Sequence number of the oldest, not wrapped.
    first: u64,
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    packet: Packet,
    sent: Instant,
    repeated: Option<Instant>,
}

impl History {
    /// Keeps a packet; `sequence` is one more than that of the last one.
    pub(super) fn push(&mut self, now: Instant, sequence: u64, packet: Packet) {
        if self.kept.is_empty() {
            self.first = sequence;
        }
        self.bytes += packet.len();
        self.kept.push_back(Kept { packet, sent: now, repeated: None });
        while let Some(oldest) = self.kept.front()
            && (self.kept.len() > PACKETS_MAX
                || self.bytes > BYTES_MAX
                || now.saturating_duration_since(oldest.sent) > AGE_MAX)
        {
            self.bytes -= oldest.packet.len();
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// The packet of this number, when it is still here and was not repeated within `pause`: a repetition that is on its
    /// way is asked for again until it arrives.
    pub(super) fn repeat(&mut self, now: Instant, sequence: u16, pause: Duration) -> Option<Packet> {
        // The distance modulo 2^16 is the place; whatever lies behind the newest has not been sent.
        let place = usize::from(sequence.wrapping_sub(self.first as u16));
        let kept = self.kept.get_mut(place)?;
        if kept.repeated.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return None;
        }
        kept.repeated = Some(now);
        Some(kept.packet.clone())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::base::clock::Clock;
    use crate::proto::rtp::payload::Payload;

    fn packet(bytes: Vec<u8>) -> Packet {
        Packet { header: Bytes::new(), payload: Payload::new(&[], bytes.into()) }
    }

    #[test]
    fn packets_are_found_across_the_wrap_and_repeated_once_a_round_trip() {
        let clock = Clock::manual();
        let mut history = History::default();
        for sequence in 65_530_u64..65_550 {
            history.push(clock.now(), sequence, packet(sequence.to_be_bytes().to_vec()));
        }
        let pause = Duration::from_millis(50);
        let mut repeat = |sequence| {
            let packet = history.repeat(clock.now(), sequence, pause)?;
            Some(u64::from_be_bytes(packet.to_vec().try_into().unwrap()))
        };
        assert_eq!(
            (repeat(65_530), repeat(65_535), repeat(0), repeat(13)),
            (Some(65_530), Some(65_535), Some(65_536), Some(65_549))
        );
        assert_eq!((repeat(65_529), repeat(14)), (None, None), "before and behind");
        assert_eq!(repeat(0), None);
        clock.advance(pause);
        assert_eq!(repeat(0), Some(65_536));
    }

    #[test]
    fn what_is_kept_is_bounded_in_packets_bytes_and_age() {
        let clock = Clock::manual();
        let mut history = History::default();
        for sequence in 0..PACKETS_MAX as u64 + 10 {
            history.push(clock.now(), sequence, packet(b"x".to_vec()));
        }
        assert_eq!((history.kept.len(), history.first), (PACKETS_MAX, 10));
        for sequence in 0..4_u64 {
            history.push(clock.now(), PACKETS_MAX as u64 + 10 + sequence, packet(vec![0; BYTES_MAX / 3]));
        }
        assert!(history.bytes <= BYTES_MAX && history.kept.len() == 3, "{}", history.kept.len());
        clock.advance(AGE_MAX * 2);
        history.push(clock.now(), PACKETS_MAX as u64 + 14, packet(b"y".to_vec()));
        assert_eq!((history.kept.len(), history.bytes), (1, 1));
    }
}
