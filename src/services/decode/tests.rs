use std::time::Duration;

use super::*;
use crate::media::picture::RgbPicture;
use crate::services::colour;
use crate::services::test_card::{CardEncoder, CardSettings, read_number};

const SETTINGS: DecodeSettings =
    DecodeSettings { pixels_max: 8192 * 4352, run_limit: Duration::from_secs(60) };

fn decoder() -> (StreamDecoder, Metrics) {
    let metrics = Metrics::new();
    (StreamDecoder::new(SETTINGS, Clock::real(), metrics.clone()), metrics)
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
    let settings = DecodeSettings { pixels_max: 320 * 180, ..SETTINGS };
    let mut decoder = StreamDecoder::new(settings, Clock::real(), metrics.clone());
    let too_large = DecodeError::TooLarge { pixels: 320 * 192, pixels_max: 320 * 180 };
    assert_eq!(decoder.picture(&gop, 2).unwrap_err(), too_large);
    assert_eq!(metrics.units_decoded_total.get(), 0);
    let clock = Clock::manual();
    let mut decoder = StreamDecoder::new(SETTINGS, clock.clone(), metrics);
    assert_eq!(decoder.picture_by(&gop, 2, clock.now()).unwrap_err(), DecodeError::OutOfTime);
}
