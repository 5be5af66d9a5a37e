//! The card drawn, encoded, decoded and read back.

use std::time::{Duration, UNIX_EPOCH};

use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource as _;

use super::*;
use crate::base::clock::Clock;
use crate::media::h264::framing::append_annex_b;
use crate::media::track::{Colour, Matrix, VideoCodec};
use crate::media::unit::AccessUnit;

const ALL: [Matrix; 5] = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020, Matrix::Smpte240, Matrix::Fcc];

/// YUV to RGB by the textbook, independent of the conversion that the server uses.
fn to_rgb(picture: &I420, colour: Colour) -> Vec<u8> {
    let (kr, kb) = match colour.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
        Matrix::Smpte240 => (0.212, 0.087),
        Matrix::Fcc => (0.30, 0.11),
    };
    let (span, foot, chroma_span) =
        if colour.full_range { (255.0, 0.0, 255.0) } else { (219.0, 16.0, 224.0) };
    let (width, height) = (picture.width as usize, picture.height as usize);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for line in 0..height {
        for x in 0..width {
            let at = line / 2 * width.div_ceil(2) + x / 2;
            let y = (f64::from(picture.y[line * width + x]) - foot) / span;
            let u = (f64::from(picture.u[at]) - 128.0) / chroma_span;
            let v = (f64::from(picture.v[at]) - 128.0) / chroma_span;
            let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
            let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
            rgb.extend([r, g, b].map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8));
        }
    }
    rgb
}

/// Mean of the source pixels under each pixel of the smaller picture.
fn shrink(rgb: &[u8], from: (u32, u32), to: (u32, u32)) -> Vec<u8> {
    let mut small = Vec::new();
    for (y, x) in (0..to.1).flat_map(|y| (0..to.0).map(move |x| (y, x))) {
        for channel in 0..3 {
            let (mut sum, mut pixels) = (0_u32, 0_u32);
            for yy in y * from.1 / to.1..((y + 1) * from.1 / to.1).max(y * from.1 / to.1 + 1) {
                for xx in x * from.0 / to.0..((x + 1) * from.0 / to.0).max(x * from.0 / to.0 + 1) {
                    sum += u32::from(rgb[((yy * from.0 + xx) * 3 + channel) as usize]);
                    pixels += 1;
                }
            }
            small.push((sum / pixels) as u8);
        }
    }
    small
}

struct Player(Decoder);

impl Player {
    fn new() -> Self {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        Self(Decoder::with_api_config(OpenH264API::from_source(), config).unwrap())
    }

    fn play(&mut self, unit: &AccessUnit) -> I420 {
        let mut bytes = Vec::new();
        append_annex_b(unit, &mut bytes).unwrap();
        let picture = self.0.decode(&bytes).unwrap().expect("one picture a unit");
        let (width, height) = picture.dimensions();
        let plane = |samples: &[u8], stride: usize, width: usize, height: usize| {
            samples.chunks(stride).take(height).flat_map(|row| row[..width].to_vec()).collect::<Vec<_>>()
        };
        let (sy, su, sv) = picture.strides();
        I420 {
            width: width as u32,
            height: height as u32,
            y: plane(picture.y(), sy, width, height),
            u: plane(picture.u(), su, width / 2, height / 2),
            v: plane(picture.v(), sv, width / 2, height / 2),
        }
    }
}

fn number_in(picture: &I420, colour: Colour) -> Option<u32> {
    read_number(&to_rgb(picture, colour), picture.width, picture.height)
}

#[test]
fn a_drawn_number_is_read_back_at_any_size_and_scale() {
    let colour = Colour::unsaid(160, 90);
    for (width, height) in [(160, 90), (161, 91), (320, 180), (90, 160), (640, 480)] {
        let mut card = TestCard::new(width, height, colour).unwrap();
        for number in [0, 1, 29, 0x00ff_00ff, 0xaaaa_5555, u32::MAX] {
            let rgb = to_rgb(card.draw(number, UNIX_EPOCH), colour);
            assert_eq!(read_number(&rgb, width, height), Some(number), "{width}x{height}");
            for to in [(width * 3 / 4, height * 3 / 4), (width / 2, height / 2), (width, height / 2)] {
                if to.0 >= 80 && to.1 >= 45 {
                    let small = shrink(&rgb, (width, height), to);
                    assert_eq!(read_number(&small, to.0, to.1), Some(number), "{width}x{height} as {to:?}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_or_foreign_picture_has_no_number() {
    let colour = Colour::unsaid(320, 180);
    let mut card = TestCard::new(320, 180, colour).unwrap();
    let rgb = to_rgb(card.draw(1234, UNIX_EPOCH), colour);
    for grey in [0, 128, 255] {
        assert_eq!(read_number(&vec![grey; 320 * 180 * 3], 320, 180), None);
    }
    assert_eq!(read_number(&rgb[3..], 320, 180), None, "a pixel short");
    // Each block in turn is turned over, then smeared to half.
    for index in 0..48_usize {
        let (x, y) = (index % 24 * 320 / 24, 150 + index / 24 * 15);
        for turn in [|v: u8| 255 - v, |v: u8| v / 4 + 96] {
            let mut damaged = rgb.clone();
            for (line, column) in (y..y + 15).flat_map(|line| (x..x + 14).map(move |column| (line, column))) {
                let at = (line * 320 + column) * 3;
                damaged[at..at + 3].iter_mut().for_each(|value| *value = turn(*value));
            }
            assert_eq!(read_number(&damaged, 320, 180), None, "block {index}");
        }
    }
    // Two frames half and half, as a smeared picture shows them.
    let other = to_rgb(card.draw(4321, UNIX_EPOCH), colour);
    let mixed: Vec<_> = rgb.iter().zip(&other).map(|(a, b)| a / 2 + b / 2).collect();
    assert_eq!(read_number(&mixed, 320, 180), None);
}

#[test]
fn every_unit_of_a_starved_stream_shows_its_own_number() {
    let clock = Clock::manual();
    let settings = CardSettings {
        width: 320,
        height: 180,
        frames_per_second: 30,
        keyframe_interval: 20,
        bitrate_bps: Some(60_000),
        colour: None,
    };
    let mut encoder = CardEncoder::new(settings).unwrap();
    let (mut player, mut keys, mut bytes) = (Player::new(), Vec::new(), 0);
    for number in 1000..1050 {
        let unit = encoder.encode(number, clock.now(), clock.wall()).unwrap();
        clock.advance(Duration::from_millis(33));
        bytes += unit.data.len();
        assert_eq!(unit.pts.ticks, i64::from(number) * 3000);
        assert!(!unit.disposable, "the next picture refers to it");
        if unit.key {
            keys.push(number);
        }
        assert_eq!(number_in(&player.play(&unit), unit.params.colour), Some(number));
    }
    assert_eq!(keys, [1000, 1020, 1040]);
    assert!(bytes < 60_000, "{bytes} bytes is not a starved stream");
}

#[test]
fn a_keyframe_comes_when_asked_and_otherwise_never() {
    let clock = Clock::manual();
    let settings = CardSettings { keyframe_interval: 0, ..CardSettings::sized(160, 90) };
    let mut encoder = CardEncoder::new(settings).unwrap();
    let mut keys = Vec::new();
    for number in 0..80 {
        if number == 50 {
            encoder.request_keyframe();
        }
        let unit = encoder.encode(number, clock.now(), clock.wall()).unwrap();
        if unit.key {
            keys.push(number);
        }
    }
    assert_eq!(keys, [0, 50]);
}

#[test]
fn a_new_size_begins_with_a_keyframe_of_its_own_parameters() {
    let clock = Clock::manual();
    let mut encoder = CardEncoder::new(CardSettings::sized(160, 90)).unwrap();
    let mut player = Player::new();
    let first = encoder.encode(7, clock.now(), clock.wall()).unwrap();
    player.play(&first);
    encoder.resize(1280, 720).unwrap();
    assert!(encoder.resize(1281, 720).is_err() && encoder.resize(100, 90).is_err());
    let unit = encoder.encode(8, clock.now(), clock.wall()).unwrap();
    assert!(unit.key && unit.params.codec != first.params.codec);
    assert_eq!((unit.params.width, unit.params.height), (1280, 720));
    assert_eq!((first.params.colour.matrix, unit.params.colour.matrix), (Matrix::Bt601, Matrix::Bt709));
    let picture = player.play(&unit);
    assert_eq!((picture.width, picture.height), (1280, 720));
    assert_eq!(number_in(&picture, unit.params.colour), Some(8));
}

#[test]
fn bars_keep_their_colour_in_every_matrix_and_range_and_the_sps_tells_both() {
    let clock = Clock::manual();
    for (matrix, full_range) in ALL.iter().flat_map(|matrix| [(*matrix, false), (*matrix, true)]) {
        let colour = Colour { matrix, full_range };
        let settings = CardSettings { colour: Some(colour), ..CardSettings::sized(320, 180) };
        let unit = CardEncoder::new(settings).unwrap().encode(1, clock.now(), clock.wall()).unwrap();
        assert_eq!(unit.params.colour, colour);
        assert_eq!(signalled(&unit), colour, "what the SPS says");
        let rgb = to_rgb(&Player::new().play(&unit), colour);
        for (index, bar) in (0..8).zip(BARS) {
            let (x, y) = bar_centre(index, 320, 180);
            let at = (y * 320 + x) as usize * 3;
            for (shown, meant) in rgb[at..at + 3].iter().zip(bar) {
                assert!(
                    shown.abs_diff(meant) <= 6,
                    "{colour:?} bar {index}: {:?} for {bar:?}",
                    &rgb[at..at + 3]
                );
            }
        }
    }
}

/// Matrix and range as another reader finds them in the SPS.
fn signalled(unit: &AccessUnit) -> Colour {
    use h264_reader::nal::{Nal as _, RefNal, sps::SeqParameterSet};
    let VideoCodec::H264 { sps, pps } = &unit.params.codec else { unreachable!() };
    assert_eq!((sps.len(), pps.len()), (1, 1));
    let nal = RefNal::new(&sps[0], &[], true);
    let sps = SeqParameterSet::from_bits(nal.rbsp_bits()).unwrap();
    let signal = sps.vui_parameters.unwrap().video_signal_type.unwrap();
    let matrix = match signal.colour_description.unwrap().matrix_coefficients {
        1 => Matrix::Bt709,
        4 => Matrix::Fcc,
        6 => Matrix::Bt601,
        7 => Matrix::Smpte240,
        9 => Matrix::Bt2020,
        other => panic!("matrix {other}"),
    };
    Colour { matrix, full_range: signal.video_full_range_flag }
}
