use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::base::clock::Clock;

const HOLD_BACK: Duration = Duration::from_millis(100);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Gives a packet to the buffer and returns what comes out, as (number in the payload, lost before it).
fn give(buffer: &mut JitterBuffer, now: Instant, sequence: u16) -> Vec<(u16, u64)> {
    let packet = sequence.to_be_bytes();
    let mut out = Vec::new();
    if buffer.insert(now, sequence, &packet) == Inserted::Next {
        out.push((sequence, 0));
    }
    out.extend(drain(buffer, now));
    out
}

fn drain(buffer: &mut JitterBuffer, now: Instant) -> Vec<(u16, u64)> {
    let mut out = Vec::new();
    while let Some(popped) = buffer.pop(now) {
        out.push((u16::from_be_bytes(popped.packet.try_into().unwrap()), popped.lost));
    }
    out
}

#[test]
fn an_overtaken_packet_is_put_back_across_the_wrap_and_a_double_is_dropped() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    assert_eq!(give(&mut buffer, now, 65_534), [(65_534, 0)]);
    assert_eq!(give(&mut buffer, now, 0), []);
    assert_eq!(give(&mut buffer, now, 0), []);
    assert_eq!(give(&mut buffer, now, 65_535), [(65_535, 0), (0, 0)]);
    assert_eq!(give(&mut buffer, now, 65_535), []);
    assert_eq!(give(&mut buffer, now, 1), [(1, 0)]);
    assert_eq!(buffer.counts(), JitterCounts { late: 2, ..JitterCounts::default() });
}

#[test]
fn a_hole_is_given_up_after_the_hold_back_and_not_before() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    give(&mut buffer, now, 10);
    assert_eq!(give(&mut buffer, now, 13), []);
    assert_eq!(give(&mut buffer, now + ms(50), 14), []);
    assert_eq!(buffer.deadline(false), Some(now + HOLD_BACK));
    assert_eq!(drain(&mut buffer, now + ms(99)), []);
    assert_eq!(drain(&mut buffer, now + ms(100)), [(13, 2), (14, 0)]);
    assert_eq!(give(&mut buffer, now + ms(101), 11), [], "too late");
    assert_eq!((buffer.counts().lost, buffer.counts().late, buffer.deadline(true)), (2, 1, None));
}

#[test]
fn missing_packets_are_asked_for_again_at_the_pace_of_the_round_trip() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    give(&mut buffer, now, 10);
    give(&mut buffer, now, 12);
    assert_eq!(buffer.take_asks(now, 99), [0; 0], "it may only have been overtaken");
    assert_eq!(buffer.take_asks(now + OVERTAKEN_WAIT.0, 99), [11]);
    assert_eq!(give(&mut buffer, now + ms(30), 11), [(11, 0), (12, 0)]);
    assert_eq!(buffer.round_trip(), Some(ms(20)));
    let now = now + ms(100);
    give(&mut buffer, now, 16);
    assert_eq!(buffer.take_asks(now + ms(10), 2), [13, 14]);
    assert_eq!(buffer.take_asks(now + ms(39), 99), [15]);
    assert_eq!(buffer.take_asks(now + ms(40), 99), [13, 14], "one round trip and some later");
    assert_eq!(buffer.counts().asks, 6);
}

#[test]
fn quick_answers_on_a_short_way_are_losses_all_the_same() {
    let mut now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    give(&mut buffer, now, 0);
    for round in 0..100_u16 {
        now += ms(30);
        give(&mut buffer, now, round * 2 + 2);
        assert_eq!(buffer.take_asks(now + ms(10), 9), [round * 2 + 1]);
        give(&mut buffer, now + ms(12), round * 2 + 1);
    }
    assert_eq!((buffer.counts().missed, buffer.counts().lost), (100, 0));
    assert_eq!(buffer.round_trip(), Some(ROUND_TRIP.0));
}

#[test]
fn the_hold_back_grows_with_a_long_way() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    give(&mut buffer, now, 1);
    give(&mut buffer, now, 3);
    assert_eq!(buffer.take_asks(now + ms(10), 9), [2]);
    assert_eq!(drain(&mut buffer, now + ms(100)), [(3, 1)]);
    // The answer comes too late, but tells how long the way is.
    give(&mut buffer, now + ms(110), 2);
    give(&mut buffer, now + ms(200), 5);
    assert_eq!(
        buffer.deadline(false),
        Some(now + ms(200 + 300)),
        "two round trips of 100 ms with their variation, at most 300"
    );
}

#[test]
fn one_far_number_is_noise_and_two_in_sequence_begin_anew() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    give(&mut buffer, now, 10);
    assert_eq!(give(&mut buffer, now, 30_000), []);
    assert_eq!(give(&mut buffer, now, 11), [(11, 0)]);
    assert_eq!(give(&mut buffer, now, 30_001), [], "the sequence was interrupted");
    assert_eq!(give(&mut buffer, now, 30_002), [(30_002, 1)]);
    assert_eq!(give(&mut buffer, now, 30_003), [(30_003, 0)]);
}

#[test]
fn what_is_held_is_bounded_in_packets_bytes_and_holes() {
    let now = Clock::manual().now();
    let mut buffer = JitterBuffer::new(HOLD_BACK);
    let mut sequence = 0_u16;
    buffer.insert(now, sequence, &[]);
    for n in 0..100_000_u32 {
        // A new hole every third packet; nothing is ever taken out until it overflows.
        sequence = sequence.wrapping_add(if n % 3 == 0 { 2 } else { 1 });
        buffer.insert(now, sequence, &[0; 1400]);
        while buffer.pop(now).is_some() {}
        assert!(buffer.held() <= HELD_PACKETS_MAX && buffer.held_bytes <= HELD_BYTES_MAX);
        assert!(buffer.missing.len() as i64 <= MISSING_MAX + 1);
        assert!(buffer.given_up.len() <= REMEMBERED_MAX);
    }
    assert!(buffer.counts().lost > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the way does, packets come out in order, each once, and every hole is told with its size.
    #[test]
    fn order_is_kept_and_losses_are_exact(seed in any::<u64>(), loss in 0.0..0.3_f64, jitter in 0_u64..150, first in any::<u16>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Clock::manual().now();
        let mut arrivals: Vec<(u64, u16)> = Vec::new();
        for n in 0..400_u16 {
            for _ in 0..if random.random_bool(0.02) { 2 } else { 1 } {
                if n == 0 || !random.random_bool(loss) {
                    let delay = if n == 0 { 0 } else { random.random_range(0..=jitter) };
                    arrivals.push((u64::from(n) * 5 + delay, n));
                }
            }
        }
        arrivals.sort_unstable();
        let mut buffer = JitterBuffer::new(HOLD_BACK);
        let mut out = Vec::new();
        for (at, n) in arrivals {
            let now = start + ms(at);
            out.extend(drain(&mut buffer, now));
            out.extend(give(&mut buffer, now, first.wrapping_add(n)));
            for asked in buffer.take_asks(now, 400) {
                prop_assert!(asked.wrapping_sub(first) < 400);
            }
        }
        out.extend(drain(&mut buffer, start + ms(10_000)));
        let mut expected = 0_u64;
        let mut lost = 0;
        for (sequence, lost_before) in out {
            expected += lost_before;
            lost += lost_before;
            prop_assert_eq!(u64::from(sequence.wrapping_sub(first)), expected);
            expected += 1;
        }
        prop_assert_eq!(buffer.counts().lost, lost);
        if loss < 1e-9 && jitter < 90 {
            prop_assert_eq!(lost, 0);
        }
    }
}
