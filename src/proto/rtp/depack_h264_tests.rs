use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::assemble::UnitError;
use crate::media::h264::tests::{PPS, SPS_640X360};
use crate::proto::rtp::jitter::{Inserted, JitterBuffer};
use crate::proto::rtp::pack_h264::{PAYLOAD_BYTES_MAX, pack, packet};
use crate::proto::rtp::test_source::{Source, idr_slice, number_of, p_slice};

const TYPE: u8 = 108;
const SSRC: u32 = 7;

fn bytes(sequence: u16, timestamp: u32, marker: bool, payload: &[u8]) -> Vec<u8> {
    packet(TYPE, marker, sequence, timestamp, SSRC, payload)
}

/// Pushes (timestamp, marker, payload) in order and tells what came out: `Ok(key)` for a unit, `Err(())` for a gap.
fn push_all(depacketizer: &mut H264Depacketizer, packets: &[(u32, bool, &[u8])]) -> Vec<Result<bool, ()>> {
    let now = Clock::manual().now();
    let mut out = VecDeque::new();
    for (timestamp, marker, payload) in packets {
        let bytes = bytes(0, *timestamp, *marker, payload);
        depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, None, &mut out);
    }
    summary(out)
}

fn summary(out: VecDeque<Depacketized>) -> Vec<Result<bool, ()>> {
    let tell = |output| match output {
        Depacketized::Unit(unit) => Ok(unit.key),
        Depacketized::Gap => Err(()),
    };
    out.into_iter().map(tell).collect()
}

/// Parameter sets in a STAP-A.
fn stap() -> Vec<u8> {
    let mut payload = vec![0x78];
    for nal in [SPS_640X360, PPS] {
        payload.extend_from_slice(&(nal.len() as u16).to_be_bytes());
        payload.extend_from_slice(nal);
    }
    payload
}

fn running() -> H264Depacketizer {
    let mut depacketizer = H264Depacketizer::new(u64::MAX);
    let out = push_all(&mut depacketizer, &[(1, false, &stap()), (1, true, &idr_slice(9, 1))]);
    assert_eq!(out, [Ok(true)]);
    depacketizer
}

const START: u8 = 0x81;
const MIDDLE: u8 = 0x01;
const END: u8 = 0x41;

fn fragment(fu_header: u8) -> [u8; 5] {
    [0x5C, fu_header, 0b1001_1010, 9, 9]
}

#[test]
fn another_time_ends_a_picture_where_the_marker_is_missing() {
    let mut depacketizer = running();
    let out = push_all(&mut depacketizer, &[(2, false, &p_slice(5, 1)), (3, true, &p_slice(5, 2))]);
    assert_eq!(out, [Ok(false), Ok(false)]);
}

#[test]
fn damaged_payloads_drop_their_picture_and_what_follows_until_an_idr() {
    let mut trailing = stap();
    trailing.push(0);
    let mut oversize = stap();
    oversize[1] = 0xFF;
    let cases: [(&str, Vec<Vec<u8>>); 10] = [
        ("STAP-A with a trailing byte", vec![trailing]),
        ("STAP-A whose size leads out", vec![oversize]),
        ("STAP-A of an empty unit", vec![vec![0x78, 0, 0]]),
        ("FU-A without its start", vec![fragment(MIDDLE).to_vec(), fragment(END).to_vec()]),
        ("FU-A without its end", vec![fragment(START).to_vec()]),
        (
            "FU-A started twice",
            vec![fragment(START).to_vec(), fragment(START).to_vec(), fragment(END).to_vec()],
        ),
        ("FU-A that is start and end", vec![fragment(0xC1).to_vec()]),
        ("FU-A without a byte", vec![vec![0x5C, START]]),
        ("FU-A interrupted", vec![fragment(START).to_vec(), p_slice(5, 1), fragment(END).to_vec()]),
        ("FU-B", vec![vec![0x5D, START, 0, 0, 1]]),
    ];
    for (name, payloads) in cases {
        let mut depacketizer = running();
        let last = payloads.len() - 1;
        let packets: Vec<_> =
            payloads.iter().enumerate().map(|(n, payload)| (2, n == last, payload.as_slice())).collect();
        assert_eq!(push_all(&mut depacketizer, &packets), [Err(())], "{name}");
        assert_eq!(push_all(&mut depacketizer, &[(3, true, &p_slice(5, 1))]), [], "{name}");
        let idr = [(4, false, &stap()[..]), (4, true, &idr_slice(5, 1)), (5, true, &p_slice(5, 1))];
        assert_eq!(push_all(&mut depacketizer, &idr), [Ok(true), Ok(false)], "{name}");
    }
}

#[test]
fn a_loss_breaks_the_open_picture_and_the_next_even_if_it_looks_whole() {
    let mut depacketizer = running();
    let mut out = VecDeque::new();
    assert_eq!(push_all(&mut depacketizer, &[(2, false, &p_slice(5, 1))]), []);
    depacketizer.mark_lost(&mut out);
    assert_eq!(summary(out), [Err(())], "told at once, and once");
    assert_eq!(push_all(&mut depacketizer, &[(3, true, &p_slice(5, 1))]), []);
    // Its parameter sets may have been lost: they could have changed.
    depacketizer.mark_lost(&mut VecDeque::new());
    assert_eq!(push_all(&mut depacketizer, &[(4, true, &idr_slice(5, 1))]), []);
    depacketizer.mark_lost(&mut VecDeque::new());
    let idr = [(5, false, &stap()[..]), (5, true, &idr_slice(5, 1))];
    assert_eq!(push_all(&mut depacketizer, &idr), [Ok(true)]);
}

#[test]
fn a_hole_before_padding_is_still_a_hole() {
    let mut depacketizer = running();
    let mut out = VecDeque::new();
    depacketizer.mark_lost(&mut out);
    assert_eq!(push_all(&mut depacketizer, &[(2, false, &[]), (3, true, &idr_slice(5, 1))]), []);
    assert!(depacketizer.chain().waits_for_keyframe());
}

#[test]
fn an_idr_with_unknown_parameters_is_not_delivered() {
    let mut depacketizer = H264Depacketizer::new(u64::MAX);
    assert_eq!(push_all(&mut depacketizer, &[(1, true, &idr_slice(9, 1))]), []);
    assert!(depacketizer.chain().waits_for_keyframe());
    assert_eq!(depacketizer.chain().last_error(), Some(UnitError::UnknownParameters(0).into()));
}

#[test]
fn fifty_thousand_fragments_without_an_end_stay_within_bounds() {
    let mut depacketizer = running();
    let now = Clock::manual().now();
    let mut out = VecDeque::new();
    let mut payload = fragment(START).to_vec();
    payload.resize(1200, 9);
    for n in 0..50_000_u32 {
        payload[1] = if n == 0 { START } else { MIDDLE };
        let bytes = bytes(n as u16, 2, false, &payload);
        depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, None, &mut out);
    }
    payload[1] = END;
    let bytes = bytes(50_000, 2, true, &payload);
    depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, None, &mut out);
    assert_eq!(summary(out), [Err(())]);
    assert_eq!(depacketizer.chain().last_error(), Some(UnitError::TooLarge.into()));
}

#[test]
fn time_goes_on_across_its_wrap_and_the_orientation_holds_until_changed() {
    let now = Clock::manual().now();
    let mut depacketizer = running();
    let mut out = VecDeque::new();
    // The orientation stands on the last packet of its picture (3GPP TS 26.114 section 7.4.5).
    for (timestamp, rotation) in [(u32::MAX - 10, None), (3_000, Some(Rotation::Cw90)), (6_000, None)] {
        for (marker, payload) in [(false, p_slice(9, 1)), (true, vec![0x41, 0b0100_0110, 0x80])] {
            let bytes = bytes(0, timestamp, marker, &payload);
            let rotation = rotation.filter(|_| marker);
            depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, rotation, &mut out);
        }
    }
    let units: Vec<_> = out
        .into_iter()
        .map(|output| match output {
            Depacketized::Unit(unit) => (unit.pts.ticks, unit.params.rotation),
            Depacketized::Gap => panic!("nothing was lost"),
        })
        .collect();
    // The first picture of `running` had time 1: the shortest way from there is back across zero.
    let expected = [(-11, Rotation::None), (3_000, Rotation::Cw90), (6_000, Rotation::Cw90)];
    assert_eq!(units, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn packing_and_taking_apart_is_the_identity(seed in any::<u64>(), mtu in 100_usize..1500) {
        let now = Clock::manual().now();
        let mut source = Source::new(seed, 10);
        let mut depacketizer = H264Depacketizer::new(u64::MAX);
        let mut out = VecDeque::new();
        let mut sent = Vec::new();
        for _ in 0..25 {
            let unit = source.next(now, false);
            let payloads = pack(&unit, mtu).unwrap();
            for (n, payload) in payloads.iter().enumerate() {
                prop_assert!(payload.len() <= mtu);
                let bytes = bytes(0, unit.pts.ticks as u32, n + 1 == payloads.len(), payload);
                depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, None, &mut out);
            }
            sent.push(unit);
        }
        prop_assert_eq!(out.len(), sent.len());
        for (output, sent) in out.into_iter().zip(sent) {
            let Depacketized::Unit(unit) = output else { panic!("nothing was lost") };
            prop_assert_eq!((unit.data, unit.pts, unit.key), (sent.data, sent.pts, sent.key));
            prop_assert!(unit.params.same_coding(&sent.params));
        }
    }

    /// 5 % loss and 20 ms of jitter: every picture delivered is bit for bit what was sent, every one that is not an
    /// IDR follows the one delivered before it, and a gap is told wherever one is missing.
    #[test]
    fn under_loss_and_jitter_only_whole_chains_are_delivered(seed in any::<u64>(), loss in 0.0..0.1_f64) {
        let start = Clock::manual().now();
        let mut random = StdRng::seed_from_u64(seed);
        let mut source = Source::new(seed, 30);
        let mut sent = Vec::new();
        let mut on_the_way: Vec<(Instant, u32, Vec<u8>)> = Vec::new();
        let mut sequence = random.random::<u16>();
        let mut lost = 0;
        for n in 0..300_u32 {
            let now = start + Duration::from_millis(u64::from(n) * 33);
            let unit = source.next(now, false);
            let payloads = pack(&unit, PAYLOAD_BYTES_MAX).unwrap();
            for (position, payload) in payloads.iter().enumerate() {
                sequence = sequence.wrapping_add(1);
                let marker = position + 1 == payloads.len();
                let bytes = bytes(sequence, (unit.pts.ticks as u32).wrapping_sub(100_000), marker, payload);
                if random.random_bool(loss) {
                    lost += 1;
                } else {
                    let at = now + Duration::from_micros(random.random_range(0..20_000));
                    on_the_way.push((at, u32::from(sequence), bytes));
                }
            }
            sent.push(unit);
        }
        on_the_way.sort_by_key(|(at, ..)| *at);
        let mut jitter = JitterBuffer::new(Duration::from_millis(100));
        let mut depacketizer = H264Depacketizer::new(u64::MAX);
        let mut out = VecDeque::new();
        for (now, sequence, bytes) in on_the_way {
            if jitter.insert(now, sequence as u16, &bytes) == Inserted::Next {
                depacketizer.push(&RtpPacket::parse(&bytes).unwrap(), now, None, &mut out);
            }
            while let Some(popped) = jitter.pop(now) {
                if popped.lost > 0 {
                    depacketizer.mark_lost(&mut out);
                }
                depacketizer.push(&RtpPacket::parse(&popped.packet).unwrap(), popped.arrived, None, &mut out);
            }
        }
        let mut previous: Option<u32> = None;
        let mut delivered = 0;
        for output in out {
            match output {
                Depacketized::Gap => {
                    prop_assert!(previous.is_some(), "one gap for one break");
                    previous = None;
                }
                Depacketized::Unit(unit) => {
                    let number = number_of(&unit);
                    let original = &sent[number as usize];
                    prop_assert_eq!(&unit.data, &original.data);
                    prop_assert!(unit.params.same_coding(&original.params));
                    prop_assert!(unit.key || previous == Some(number - 1));
                    if previous.is_some() {
                        prop_assert_eq!(previous, Some(number - 1), "nothing is left out without a gap");
                    }
                    previous = Some(number);
                    delivered += 1;
                }
            }
        }
        // Without loss only the first picture can go, when it was overtaken before anything was known.
        prop_assert!(lost > 0 || delivered >= 270, "{delivered}");
    }

    /// Payloads that no sender makes: taken or dropped, without harm.
    #[test]
    fn any_payloads_are_taken_or_dropped(
        packets in prop::collection::vec((0_u32..4, any::<bool>(), prop::collection::vec(any::<u8>(), 0..30)), 0..60),
    ) {
        let mut depacketizer = running();
        let packets: Vec<_> = packets.iter().map(|(time, marker, payload)| (*time, *marker, payload.as_slice())).collect();
        push_all(&mut depacketizer, &packets);
    }
}
