use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::{StreamDecoder, newest_shown};
use super::*;
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::hub::Gop;
use crate::media::time::Timestamp;
use crate::media::vp8::FrameUnits;

const PIXELS_MAX: u64 = 8192 * 4352;
const SAMPLES: [&str; 6] = ["realtime", "partitions", "altref", "version1", "version2", "version3"];

fn data(file: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/vp8/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The frames of an IVF file: 32 bytes of header, then each after 12 bytes that begin with its size.
fn frames(ivf: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut frames) = (&ivf[32..], Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let size = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let (frame, after) = after.split_at(size);
        frames.push(frame);
        rest = after;
    }
    frames
}

/// Units of a sample in `tests/data/vp8`, of 30 shown pictures a second.
pub(crate) fn sample(name: &str) -> Vec<AccessUnit> {
    let mut units = FrameUnits::new(PIXELS_MAX);
    let arrived = Clock::manual().now();
    let mut shown = 0;
    let ivf = data(&format!("{name}.ivf"));
    let made = frames(&ivf).into_iter().zip(0..).map(|(frame, seq)| {
        let mut unit = units.unit(frame, arrived, Timestamp::video(3000 * shown)).unwrap();
        shown += i64::from(!unit.hidden);
        unit.seq = seq;
        unit
    });
    made.collect()
}

/// The number that a picture of a sample carries: blocks of 8 × 8 at the top left, white and black, then 16 bits.
pub(crate) fn block_number(picture: &YuvPicture) -> u32 {
    let white = |block: usize| picture.y[4 * picture.params.width as usize + 8 * block + 4] > 128;
    assert!(white(0) && !white(1), "guard blocks");
    (0..16).filter(|bit| white(2 + bit)).map(|bit| 1 << bit).sum()
}

/// RFC 1950 section 8.2, as ffmpeg has it: the sum begins with 0, not with 1.
fn adler32(planes: [&[u8]; 3]) -> u32 {
    let (mut a, mut b) = (0_u32, 0_u32);
    for byte in planes.into_iter().flatten() {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

fn decoder() -> StreamDecoder {
    StreamDecoder::new(PIXELS_MAX, Metrics::new())
}

#[test]
fn every_picture_is_exactly_that_of_another_decoder() {
    for name in SAMPLES {
        let wanted: Vec<u32> = String::from_utf8(data(&format!("{name}.adler32")))
            .unwrap()
            .lines()
            .map(|line| u32::from_str_radix(line, 16).unwrap())
            .collect();
        let mut decoder = decoder();
        let mut shown = Vec::new();
        for unit in sample(name) {
            let picture = decoder.step(&unit, true).unwrap().unwrap();
            if !unit.hidden {
                assert_eq!(block_number(&picture) as usize, shown.len(), "{name}");
                shown.push(adler32([&picture.y, &picture.u, &picture.v]));
            }
            decoder.recycle(picture);
        }
        assert_eq!(shown, wanted, "{name}");
    }
}

#[test]
fn a_hidden_frame_is_never_the_newest_one_and_is_decoded_for_what_refers_to_it() {
    let units: Vec<_> = sample("altref").into_iter().map(std::sync::Arc::new).collect();
    let hidden: Vec<usize> = (0..units.len()).filter(|n| units[*n].hidden).collect();
    assert!(hidden.len() >= 2 && units.iter().filter(|unit| unit.key).count() == 2);
    for newest in 0..units.len() {
        let first = (0..=newest).rev().find(|n| units[*n].key).unwrap();
        let gop = Gop { units: units[first..=newest].to_vec() };
        let target = newest_shown(&gop).unwrap();
        let before = hidden.iter().filter(|n| **n <= newest).count();
        assert_eq!(target.seq as usize, if hidden.contains(&newest) { newest - 1 } else { newest });
        assert_eq!(block_number(&decoder().picture(&gop, target.seq).unwrap()) as usize, newest - before);
    }
}

#[test]
fn a_new_size_is_followed() {
    let mut decoder = decoder();
    for (name, width) in [("partitions", 320), ("realtime", 426), ("version3", 162)] {
        for (number, unit) in sample(name).iter().enumerate().take(5) {
            let picture = decoder.step(unit, true).unwrap().unwrap();
            assert_eq!(picture.params.width, width);
            assert_eq!(picture.u.len(), picture.v.len());
            assert_eq!(block_number(&picture) as usize, number);
        }
    }
}

#[test]
fn what_is_larger_than_allowed_or_than_its_parameters_is_not_decoded() {
    let units = sample("altref");
    let metrics = Metrics::new();
    let mut bounded = StreamDecoder::new(175 * 143, metrics.clone());
    let too_large = DecodeError::TooLarge { pixels: 176 * 144, pixels_max: 175 * 143 };
    assert_eq!(bounded.step(&units[0], true).unwrap_err(), too_large);
    assert_eq!(metrics.units_decoded_total.get(), 0);
    // A keyframe that says another size than its unit does.
    for (width, height) in [(1000_u16, 1000_u16), (100, 100)] {
        let mut unit = units[0].clone();
        let mut frame = unit.data.to_vec();
        frame[6..10].copy_from_slice(&[width.to_le_bytes(), height.to_le_bytes()].concat());
        unit.data = frame.into();
        assert!(decoder().step(&unit, true).is_err());
    }
}

#[test]
fn a_damaged_or_missing_frame_gives_errors_until_the_next_keyframe() {
    let units = sample("partitions");
    let mut decoder = decoder();
    for unit in &units[..3] {
        decoder.step(unit, false).unwrap();
    }
    let mut cut = units[3].clone();
    cut.data = cut.data.slice(..cut.data.len() / 2);
    assert!(matches!(decoder.step(&cut, true), Err(DecodeError::Corrupt { seq: 3, .. })));
    for unit in &units[4..16] {
        assert_eq!(decoder.step(unit, true).unwrap_err(), DecodeError::Gap);
    }
    assert!(units[16].key);
    assert_eq!(block_number(&decoder.step(&units[16], true).unwrap().unwrap()), 16);
    assert_eq!(decoder.step(&units[18], true).unwrap_err(), DecodeError::Gap);
}

#[test]
fn frames_that_are_cut_off_are_refused() {
    for name in SAMPLES {
        let units = sample(name);
        for (position, sixteenths) in (1..3).flat_map(|position| (0..16).map(move |part| (position, part))) {
            let mut decoder = decoder();
            for unit in &units[..position] {
                decoder.step(unit, false).unwrap();
            }
            let mut cut = units[position].clone();
            cut.data = cut.data.slice(..cut.data.len() * sixteenths / 16);
            let refused = decoder.step(&cut, true).is_err();
            assert!(refused, "{name}, frame {position}, {sixteenths}/16");
        }
    }
}

#[test]
fn thousands_of_damaged_frames_do_no_harm() {
    let mut random = StdRng::seed_from_u64(1);
    let clock = Clock::real();
    let began = clock.now();
    for name in ["altref", "partitions", "version3"] {
        let units = sample(name);
        for _ in 0..250 {
            let mut decoder = decoder();
            // A good keyframe and some good frames, so that damage has something to refer to.
            let good = random.random_range(1..4);
            for unit in &units[..good] {
                decoder.step(unit, false).unwrap();
            }
            for unit in &units[good..good + 4] {
                let mut damaged = unit.clone();
                damaged.data = damage(&unit.data, &mut random).into();
                match decoder.step(&damaged, true) {
                    Ok(picture) => {
                        let picture = picture.unwrap();
                        assert_eq!(picture.y.len() as u32, picture.params.width * picture.params.height);
                    }
                    Err(DecodeError::Corrupt { why, .. }) => assert_ne!(why, "the decoder gave up"),
                    Err(DecodeError::Gap) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    let took = clock.now() - began;
    assert!(took < Duration::from_secs(60), "{took:?} for 3000 small frames");
}

/// Flips bits behind the frame's tag, writes bytes, or takes some out.
fn damage(frame: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let bytes = frame.len();
    match random.random_range(0..4) {
        0 => (0..random.random_range(1..6)).for_each(|_| {
            let at = random.random_range(3..bytes.min(40));
            frame[at] ^= 1 << random.random_range(0..8);
        }),
        1 => (0..random.random_range(1..20)).for_each(|_| {
            let at = random.random_range(3..bytes);
            frame[at] = random.random();
        }),
        2 => frame.truncate(random.random_range(3..bytes)),
        _ => {
            let from = random.random_range(3..bytes);
            frame.drain(from..(from + random.random_range(1..30)).min(bytes));
        }
    }
    frame
}
