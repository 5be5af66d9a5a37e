use bytes::Bytes;

use super::*;
use crate::base::clock::Clock;
use crate::media::track::{Colour, Rotation, VideoCodec};

/// Writes bits and Exp-Golomb codes.
#[derive(Clone, Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn u(mut self, value: u32, bits: u32) -> Self {
        self.0.extend((0..bits).rev().map(|bit| value >> bit & 1 == 1));
        self
    }

    fn ue(self, value: u32) -> Self {
        let bits = 32 - (value + 1).leading_zeros();
        self.u(0, bits - 1).u(value + 1, bits)
    }

    fn nal(mut self, header: u8) -> Vec<u8> {
        self.0.push(true);
        self.0.resize(self.0.len().next_multiple_of(8), false);
        let bytes =
            self.0.chunks(8).map(|bits| bits.iter().fold(0_u8, |byte, &bit| byte << 1 | u8::from(bit)));
        [header].into_iter().chain(bytes).collect()
    }
}

/// Main profile, 640×352, counts of order in 8 bits; says how much is reordered where `depth` does.
fn sps(depth: Option<u32>) -> Vec<u8> {
    let bits = Bits::default().u(77, 8).u(0, 8).u(31, 8).ue(0).ue(0).ue(0).ue(4).ue(4).u(0, 1).ue(39).ue(21);
    let bits = bits.u(1, 1).u(1, 1).u(0, 1);
    let Some(depth) = depth else { return bits.u(0, 1).nal(0x67) };
    // A VUI of nothing but bitstream restrictions.
    bits.u(1, 1).u(0, 8).u(1, 1).u(1, 1).ue(0).ue(0).ue(16).ue(16).ue(depth).ue(4).nal(0x67)
}

/// A picture shown at place `shown`, whose count of order goes up by `step` a picture from the IDR picture at `idr` on.
fn unit(sps: &[u8], shown: i64, idr: i64, step: i64) -> AccessUnit {
    let key = shown == idr;
    let lsb = ((shown - idr) * step).rem_euclid(256);
    // first_mb 0, slice_type I or B, pps 0, frame_num in 4 bits, for an IDR picture its idr_pic_id, the count.
    let bits = Bits::default().ue(0).ue(if key { 7 } else { 6 }).ue(0).u(0, 4);
    let bits = if key { bits.ue(0) } else { bits };
    let nal = bits.u(u32::try_from(lsb).unwrap(), 8).u(0xFF, 8).nal(if key { 0x65 } else { 0x41 });
    let data = [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], &nal].concat();
    let params = VideoParams {
        codec: VideoCodec::H264 { sps: vec![Bytes::copy_from_slice(sps)], pps: Vec::new() },
        width: 640,
        height: 352,
        sample_aspect_ratio: (1, 1),
        colour: Colour::unsaid(640, 352),
        rotation: Rotation::None,
    };
    AccessUnit {
        seq: 0,
        arrived: Clock::manual().now(),
        pts: Timestamp::video(shown * 3000),
        dts: Timestamp::video(shown * 3000),
        key,
        disposable: false,
        bidirectional: !key,
        hidden: false,
        params: Arc::new(params),
        data: data.into(),
    }
}

/// Stamps pictures that are shown at these places, given in decoding order; returns (shown, decoded) in ticks, and checks
/// what always holds.
fn stamp(sps: &[u8], groups: &[&[i64]], step: i64) -> (DecodeTimes, Vec<(i64, i64)>) {
    let mut times = DecodeTimes::new();
    let mut stamped = Vec::new();
    for group in groups {
        for &shown in *group {
            let mut unit = unit(sps, shown, group[0], step);
            times.stamp(&mut unit);
            assert!(unit.pts.ticks >= unit.dts.ticks, "{shown} is shown before it is decoded");
            if let Some((_, before)) = stamped.last() {
                assert!(unit.dts.ticks > *before, "{shown} is decoded before its predecessor");
            }
            stamped.push((unit.pts.ticks, unit.dts.ticks));
        }
    }
    (times, stamped)
}

const PYRAMID: [&[i64]; 2] = [&[0, 4, 2, 1, 3, 8, 6, 5, 7], &[9, 13, 11, 10, 12]];

#[test]
fn the_depth_that_the_parameters_tell_gives_each_picture_the_time_of_its_place() {
    let (times, stamped) = stamp(&sps(Some(2)), &PYRAMID, 2);
    assert_eq!(times.depth(), 2);
    let shown: Vec<i64> = PYRAMID.concat().iter().map(|place| place * 3000).collect();
    assert_eq!(stamped.iter().map(|unit| unit.0).collect::<Vec<_>>(), shown, "showing times stay");
    let decoded: Vec<i64> = stamped.iter().map(|unit| unit.1).collect();
    assert_eq!(decoded[..2], [-2, -1], "before the first picture there is nothing");
    assert_eq!(decoded[2..], (0..12).map(|place| place * 3000).collect::<Vec<_>>());
}

#[test]
fn where_they_do_not_tell_the_count_of_order_does_before_a_picture_comes_too_late() {
    let (times, stamped) = stamp(&sps(None), &PYRAMID, 2);
    assert_eq!(times.depth(), 2);
    let shown: Vec<i64> = PYRAMID.concat().iter().map(|place| place * 3000).collect();
    assert_eq!(stamped.iter().map(|unit| unit.0).collect::<Vec<_>>(), shown, "showing times stay");
    assert_eq!(stamped[4].1, 2 * 3000);
}

#[test]
fn without_reordering_both_times_are_one() {
    let places: Vec<i64> = (0..300).collect();
    for sps in [sps(None), sps(Some(0))] {
        let (times, stamped) = stamp(&sps, &[&places], 2);
        assert_eq!(times.depth(), 0);
        assert!(stamped.iter().all(|(shown, decoded)| shown == decoded));
    }
}

#[test]
fn a_wrong_or_useless_count_costs_a_moved_picture_and_no_order() {
    // The parameters say less than is true; and counts that go up by one a picture tell half of it.
    for (sps, step) in [(sps(Some(0)), 2), (sps(None), 1), (sps(None), 0)] {
        let (times, stamped) = stamp(&sps, &PYRAMID, step);
        assert!(times.depth() <= 3, "{}", times.depth());
        let last = stamped.last().unwrap();
        assert_eq!(last.0, 12 * 3000, "the depth was learnt and time is right again");
    }
}

#[test]
fn time_that_stands_still_or_runs_back_does_not_deepen_for_ever() {
    let (times, _) = stamp(&sps(None), &[&[5, 5, 5, 5, 5, 5]], 2);
    assert_eq!(times.depth(), 0, "nothing is reordered");
    let back: Vec<i64> = (0..100).map(|place| 100 - place).collect();
    let (times, _) = stamp(&sps(None), &[&back], 2);
    assert_eq!(times.depth(), REORDER_DEPTH_MAX);
}

#[test]
fn behind_a_loss_times_begin_anew_and_go_on_rising() {
    let sps = sps(Some(2));
    let mut times = DecodeTimes::new();
    for shown in PYRAMID[0] {
        times.stamp(&mut unit(&sps, *shown, 0, 2));
    }
    times.reset();
    let mut after = unit(&sps, 1000, 1000, 2);
    times.stamp(&mut after);
    assert_eq!((after.pts.ticks, after.dts.ticks), (3_000_000, 2_999_998), "not a minute behind its picture");
}
