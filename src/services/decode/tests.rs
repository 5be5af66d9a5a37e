use bytes::Bytes;

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::assemble::{UnitBuilder, UnitTimes, annex_b_pictures};
use crate::media::picture::RgbPicture;
use crate::media::time::Timestamp;
use crate::services::colour;
use crate::services::test_card::{CardEncoder, CardSettings, read_number};

const PIXELS_MAX: u64 = 8192 * 4352;

fn decoder() -> (StreamDecoder, Metrics) {
    let metrics = Metrics::new();
    (StreamDecoder::new(PIXELS_MAX, metrics.clone()), metrics)
}

/// Cards of these numbers as units with consecutive seqs from `first_seq`.
fn cards(encoder: &mut CardEncoder, numbers: std::ops::Range<u32>, first_seq: u64) -> Vec<Arc<AccessUnit>> {
    let clock = Clock::manual();
    numbers
        .zip(first_seq..)
        .map(|(number, seq)| {
            let mut unit = encoder.encode(number, clock.now(), clock.wall()).unwrap();
            unit.seq = seq;
            Arc::new(unit)
        })
        .collect()
}

fn number(picture: &YuvPicture) -> Option<u32> {
    let RgbPicture { width, height, rgb } = colour::to_rgb(picture);
    read_number(&rgb, width, height)
}

#[test]
fn the_picture_is_exactly_the_one_of_the_target_and_no_unit_is_decoded_twice() {
    let mut encoder = CardEncoder::new(CardSettings::sized(320, 180)).unwrap();
    let gop = Gop { units: cards(&mut encoder, 100..120, 7) };
    let (mut decoder, metrics) = decoder();
    for (seq, shown) in [(7, 100), (12, 105), (13, 106), (26, 119)] {
        assert_eq!(number(&decoder.picture(&gop, seq).unwrap()), Some(shown));
    }
    assert_eq!(metrics.units_decoded_total.get(), 20);
    assert_eq!(number(&decoder.picture(&gop, 9).unwrap()), Some(102), "back: from the IDR again");
    assert_eq!(metrics.units_decoded_total.get(), 23);
    assert_eq!(decoder.picture(&gop, 27).unwrap_err(), DecodeError::NotInGop);
}

#[test]
fn a_picture_that_was_left_out_before_us_is_missed_by_both_decoders() {
    let mut encoder = CardEncoder::new(CardSettings::sized(320, 180)).unwrap();
    let units = cards(&mut encoder, 0..20, 0);
    for needs in [Needs::Forward, Needs::Anything] {
        let decode = |left_out: Option<usize>| {
            let mut decoder = start(&units[0].params, needs, PIXELS_MAX).unwrap();
            let taken = units.iter().enumerate().filter(|(place, _)| Some(*place) != left_out);
            taken
                .map(|(_, unit)| decoder.decode(unit, None))
                .collect::<Result<Vec<_>, _>>()
                .map(|all| all.len())
        };
        assert_eq!(decode(None), Ok(20), "{needs:?}");
        let result = decode(Some(10));
        assert!(matches!(result, Err(DecodeError::Damaged { seq: 11, .. })), "{needs:?}: {result:?}");
    }
}

#[test]
fn a_new_size_in_mid_stream_is_followed() {
    let mut encoder = CardEncoder::new(CardSettings::sized(320, 180)).unwrap();
    let (mut decoder, _) = decoder();
    let small = Gop { units: cards(&mut encoder, 0..3, 0) };
    assert_eq!(number(&decoder.picture(&small, 2).unwrap()), Some(2));
    encoder.resize(480, 270).unwrap();
    let large = Gop { units: cards(&mut encoder, 3..6, 3) };
    let picture = decoder.picture(&large, 5).unwrap();
    assert_eq!((picture.params.width, number(&picture)), (480, Some(5)));
}

#[test]
fn picture_parameter_sets_may_change_between_idrs() {
    let units = sample("main_bt709");
    let (mut decoder, _) = decoder();
    decoder.step(&units[0], false).unwrap();
    // The same set again beside one of another number: a list that is not the one before.
    let mut unit = units[1].clone();
    let mut params = (*unit.params).clone();
    let VideoCodec::H264 { pps, .. } = &mut params.codec else { unreachable!() };
    pps.push(pps[0].clone());
    unit.params = Arc::new(params);
    assert_eq!(block_number(&decoder.step(&unit, true).unwrap().unwrap()), 1);
}

#[test]
fn a_damaged_or_missing_unit_gives_errors_until_the_next_idr_and_nothing_old() {
    let mut encoder =
        CardEncoder::new(CardSettings { keyframe_interval: 6, ..CardSettings::sized(320, 180) }).unwrap();
    let units = cards(&mut encoder, 0..8, 0);
    let (mut decoder, _) = decoder();
    for unit in &units[..2] {
        decoder.step(unit, false).unwrap();
    }
    let mut damaged = (*units[2]).clone();
    let cut = damaged.data.len() / 2;
    let mut data = damaged.data[..cut].to_vec();
    data[..4].copy_from_slice(&u32::try_from(cut - 4).unwrap().to_be_bytes());
    damaged.data = data.into();
    // Which of the two depends on what is cut off.
    let error = decoder.step(&damaged, true).unwrap_err();
    let refused = matches!(error, DecodeError::Damaged { seq: 2, .. } | DecodeError::NoPicture { seq: 2 });
    assert!(refused, "{error}");
    for unit in &units[3..6] {
        assert_eq!(decoder.step(unit, true).unwrap_err(), DecodeError::Gap);
    }
    assert_eq!(number(&decoder.step(&units[6], true).unwrap().unwrap()), Some(6));
    assert_eq!(decoder.step(&units[4], true).unwrap_err(), DecodeError::Gap, "not the unit that comes next");
}

#[test]
fn a_group_beyond_the_bounds_is_refused_before_decoding() {
    let mut encoder = CardEncoder::new(CardSettings::sized(320, 180)).unwrap();
    let gop = Gop { units: cards(&mut encoder, 0..3, 0) };
    let metrics = Metrics::new();
    // 320 × 180 is coded as 320 × 192.
    let mut decoder = StreamDecoder::new(320 * 180, metrics.clone());
    let too_large = DecodeError::TooLarge { pixels: 320 * 192, pixels_max: 320 * 180 };
    assert_eq!(decoder.picture(&gop, 2).unwrap_err(), too_large);
    assert_eq!(metrics.units_decoded_total.get(), 0);
}

/// Units of a sample in `tests/data/h264`, numbered in decoding order.
pub(crate) fn sample(name: &str) -> Vec<AccessUnit> {
    let path = format!("{}/tests/data/h264/{name}.h264", env!("CARGO_MANIFEST_DIR"));
    let stream = std::fs::read(path).unwrap();
    let arrived = Clock::manual().now();
    let mut builder = UnitBuilder::new(PIXELS_MAX);
    let mut units = Vec::new();
    for nals in annex_b_pictures(&stream) {
        nals.iter().for_each(|nal| builder.push(nal));
        let pts = Timestamp::video(units.len() as i64 * 3000);
        let unit = builder.finish(UnitTimes { arrived, pts, dts: pts }).unwrap().unwrap();
        units.push(AccessUnit { seq: units.len() as u64, ..unit });
    }
    units
}

/// The number that a picture of a sample carries: blocks of 16 × 16 at the top left, white and black, then 16 bits.
pub(crate) fn block_number(picture: &YuvPicture) -> u32 {
    let white = |block: usize| picture.y[8 * picture.params.width as usize + 16 * block + 8] > 128;
    assert!(white(0) && !white(1), "guard blocks");
    (0..16).filter(|bit| white(2 + bit)).map(|bit| 1 << bit).sum()
}

/// Lets the units of a sample know when they are shown, as those of a transport with time stamps do; returns the
/// number of each one's picture.
pub(crate) fn stamp(units: &mut [AccessUnit]) -> Vec<u32> {
    let (mut decoder, _) = decoder();
    let mut numbers = Vec::new();
    for unit in units {
        let number = block_number(&decoder.step(unit, true).unwrap().unwrap());
        unit.pts = Timestamp::video(i64::from(number) * 3000);
        numbers.push(number);
    }
    numbers
}

const SAMPLES: [&str; 5] =
    ["baseline_bt601", "main_bt709", "high_full_bt709", "high_b_bt709", "main_b_slices4"];

#[test]
fn every_unit_of_every_profile_gives_its_own_picture_at_once() {
    for name in SAMPLES {
        let mut units = sample(name);
        let numbers = stamp(&mut units);
        let mut shown = numbers.clone();
        shown.sort_unstable();
        assert!(shown.into_iter().eq(0..36), "{name}: {numbers:?}");
        let reorders = units.iter().any(|unit| unit.bidirectional);
        assert_eq!(reorders, name.contains("_b_"), "{name}");
        assert_eq!(numbers.is_sorted(), !reorders, "{name}: in decoding order: {numbers:?}");
        let (mut decoder, _) = decoder();
        let units: Vec<_> = units.into_iter().map(Arc::new).collect();
        let keys: Vec<_> = units.iter().filter(|unit| unit.key).map(|unit| unit.seq as usize).collect();
        for newest in 1..units.len() {
            let first = keys.iter().rfind(|key| **key <= newest).unwrap();
            let gop = Gop { units: units[*first..=newest].to_vec() };
            let target = newest_shown(&gop).unwrap().seq;
            let shown = block_number(&decoder.picture(&gop, target).unwrap());
            assert_eq!(Some(&shown), numbers[*first..=newest].iter().max(), "{name}, units up to {newest}");
        }
    }
}

#[test]
fn disposable_units_that_are_not_wanted_cost_nothing_and_change_nothing() {
    let units: Vec<_> = sample("high_b_bt709").into_iter().map(Arc::new).collect();
    let gop = Gop { units: units[..16].to_vec() };
    let disposable = gop.units.iter().filter(|unit| unit.disposable).count();
    assert!(disposable >= 4);
    let last = gop.units.iter().rfind(|unit| !unit.disposable).unwrap().seq;
    let passed_over = gop.units[..last as usize].iter().filter(|unit| unit.disposable).count() as u64;
    let (mut sparing, metrics) = decoder();
    let picture = sparing.picture(&gop, last).unwrap();
    assert_eq!(metrics.units_decoded_total.get(), last + 1 - passed_over);
    let (mut whole, _) = decoder();
    let all = gop.units[..=last as usize].iter().map(|unit| whole.step(unit, true).unwrap().unwrap());
    assert_eq!(all.last().unwrap().y, picture.y);
}

#[test]
fn colours_are_those_of_another_decoder_and_converter() {
    for name in SAMPLES {
        let units: Vec<_> = sample(name).into_iter().map(Arc::new).collect();
        let (mut decoder, _) = decoder();
        let pictures = units.iter().map(|unit| decoder.step(unit, true).unwrap().unwrap());
        let rgb = colour::to_rgb(&pictures.into_iter().find(|picture| block_number(picture) == 20).unwrap());
        let path = format!("{}/tests/data/h264/{name}.20.png", env!("CARGO_MANIFEST_DIR"));
        let (width, height, expected) = crate::services::png::tests::decode(&std::fs::read(path).unwrap());
        assert_eq!((rgb.width, rgb.height), (width, height), "{name}");
        let differences =
            || rgb.rgb.iter().zip(&expected).map(|(got, want)| f64::from(*got) - f64::from(*want));
        let samples = expected.len() as f64;
        let psnr = 10.0 * (255.0 * 255.0 / (differences().map(|d| d * d).sum::<f64>() / samples)).log10();
        let mean = differences().map(f64::abs).sum::<f64>() / samples;
        assert!(psnr >= 40.0 && mean <= 1.5, "{name}: PSNR {psnr:.1} dB, mean difference {mean:.2}");
        println!("{name}: PSNR {psnr:.1} dB, mean difference {mean:.2}");
    }
}

#[test]
fn what_the_decoder_cannot_do_is_named() {
    // One SPS of x264 each.
    let refused: [(&[u8], &str); 2] = [
        (
            &[
                0x67, 0xf4, 0x00, 0x0d, 0x91, 0x96, 0x81, 0x41, 0x9f, 0x8d, 0xc0, 0x44, 0x00, 0x00, 0x03,
                0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xf0, 0x3c, 0x50, 0xaa, 0x80,
            ],
            "chroma format 4:4:4",
        ),
        (
            &[
                0x67, 0xf4, 0x00, 0x0d, 0xae, 0xb2, 0x02, 0x83, 0xf6, 0x02, 0x20, 0x00, 0x00, 0x03, 0x00,
                0x20, 0x00, 0x00, 0x07, 0x81, 0xe2, 0x85, 0x49,
            ],
            "lossless coding",
        ),
    ];
    for (sps, reason) in refused {
        let mut unit = sample("main_bt709").remove(0);
        let mut params = (*unit.params).clone();
        let VideoCodec::H264 { pps, .. } = params.codec else { unreachable!() };
        params.codec = VideoCodec::H264 { sps: vec![Bytes::copy_from_slice(sps)], pps };
        unit.params = Arc::new(params);
        let (mut decoder, _) = decoder();
        assert_eq!(decoder.step(&unit, true).unwrap_err(), DecodeError::Unsupported(reason));
    }
}

/// SPS of x264 with `--interlaced`: `frame_num` has four bits, field macroblocks are allowed.
const INTERLACED: &[u8] = &[
    0x67, 0x64, 0x00, 0x15, 0xac, 0xd9, 0x41, 0x41, 0x0f, 0xcb, 0x80, 0x88, 0x00, 0x00, 0x03, 0x00, 0x08,
    0x00, 0x00, 0x03, 0x01, 0xe0, 0xf8, 0xa1, 0x4c, 0xb0,
];

#[test]
fn half_a_picture_is_refused() {
    let mut unit = sample("main_bt709").remove(0);
    let mut params = (*unit.params).clone();
    let VideoCodec::H264 { pps, .. } = params.codec else { unreachable!() };
    params.codec = VideoCodec::H264 { sps: vec![Bytes::from_static(INTERLACED)], pps };
    unit.params = Arc::new(params);
    // first_mb 0, slice_type 7 (I), picture parameter set 0, frame_num 0, field_pic_flag 1.
    unit.data = Bytes::from_static(&[0, 0, 0, 4, 0x65, 0b1000_1000, 0b1000_0110, 0x80]);
    let (mut decoder, _) = decoder();
    let reason = "interlaced video whose fields come one by one";
    assert_eq!(decoder.step(&unit, true).unwrap_err(), DecodeError::Unsupported(reason));
}

#[test]
fn a_stream_larger_than_its_level_allows_is_decoded() {
    for name in ["baseline_bt601", "high_full_bt709"] {
        let mut unit = sample(name).swap_remove(0);
        let mut params = (*unit.params).clone();
        let VideoCodec::H264 { sps, .. } = &mut params.codec else { unreachable!() };
        let mut low = sps[0].to_vec();
        low[3] = 10;
        sps[0] = low.into();
        unit.params = Arc::new(params);
        let (mut decoder, _) = decoder();
        assert_eq!(block_number(&decoder.step(&unit, true).unwrap().unwrap()), 0, "{name}");
    }
}
