//! Tones in, tones out: what is heard is decoded again and its frequency counted.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::*;
use crate::base::id::{MediaSessionId, StreamName};
use crate::hub::{GopLimits, Publication, Publisher, Registry, SourceProtocol};
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams};

const LIMIT: Duration = Duration::from_secs(10);
const AAC: &[u8] = include_bytes!("../../../tests/data/audio/tone_44100_stereo.aac");
const AAC_MONO: &[u8] = include_bytes!("../../../tests/data/audio/tone_48000_mono.aac");
const ULAW: &[u8] = include_bytes!("../../../tests/data/audio/tone_8000.ulaw");
const ALAW: &[u8] = include_bytes!("../../../tests/data/audio/tone_8000.alaw");

fn params(codec: AudioCodec, rate: u32, channels: u8) -> Arc<AudioParams> {
    Arc::new(AudioParams { codec, sample_rate: NonZeroU32::new(rate).unwrap(), channels })
}

fn frames(
    params: &Arc<AudioParams>,
    samples_each: i64,
    data: impl IntoIterator<Item = Bytes>,
) -> Vec<AudioFrame> {
    let frame = |(n, data)| AudioFrame {
        arrived: Clock::manual().now(),
        pts: Timestamp { ticks: n as i64 * samples_each, timescale: params.sample_rate },
        params: params.clone(),
        data,
    };
    data.into_iter().enumerate().map(frame).collect()
}

/// The raw data blocks of an ADTS file (ISO/IEC 13818-7 section 6.2), without CRC.
fn adts_blocks(mut rest: &'static [u8]) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let size =
            usize::from(rest.get(3)? & 3) << 11 | usize::from(rest[4]) << 3 | usize::from(rest[5] >> 5);
        let block = Bytes::from_static(&rest[7..size]);
        rest = &rest[size..];
        Some(block)
    })
}

fn aac_frames() -> Vec<AudioFrame> {
    // AAC-LC, 44.1 kHz, two channels.
    let config = Bytes::from_static(&[0x12, 0x10]);
    frames(&params(AudioCodec::Aac { config }, 44_100, 2), 1024, adts_blocks(AAC))
}

fn g711_frames(codec: AudioCodec, data: &'static [u8]) -> Vec<AudioFrame> {
    frames(&params(codec, 8000, 1), 160, data.chunks(160).map(Bytes::from_static))
}

/// Crossings of zero upwards a second in the first channel of Opus frames, over their middle.
fn hertz(frames: &[AudioFrame]) -> f64 {
    let channels = usize::from(frames[0].params.channels);
    let layout = if channels == 1 { opus::Channels::Mono } else { opus::Channels::Stereo };
    let mut decoder = opus::Decoder::new(48_000, layout).unwrap();
    let mut heard = Vec::new();
    for frame in frames {
        let mut pcm = vec![0.0; 960 * channels];
        assert_eq!(decoder.decode_float(&frame.data, &mut pcm, false).unwrap(), 960);
        heard.extend(pcm.iter().step_by(channels).copied());
    }
    let middle = &heard[9600..heard.len() - 9600];
    assert!(middle.iter().any(|sample| sample.abs() > 0.05), "silence");
    let crossings = middle.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
    crossings as f64 * 48_000.0 / middle.len() as f64
}

fn all(frames: &[AudioFrame]) -> Vec<AudioFrame> {
    let mut way = ToOpus::new(&frames[0].params).unwrap();
    frames.iter().flat_map(|frame| way.take(frame)).collect()
}

#[test]
fn a_tone_stays_the_same_tone_and_as_long() {
    let sources = [aac_frames(), g711_frames(AudioCodec::Pcmu, ULAW), g711_frames(AudioCodec::Pcma, ALAW)];
    for source in sources {
        let name = source[0].params.codec.name();
        let made = all(&source);
        let heard = hertz(&made);
        assert!((heard - 440.0).abs() < 5.0, "{name}: {heard} Hz");
        let last = source.last().unwrap().pts.rescale(OPUS_RATE).ticks / 960;
        let packets = made.len() as i64;
        assert!(
            (last - 1..=last + 2).contains(&packets),
            "{name}: {packets} packets, source ends after {last}"
        );
        for pair in made.windows(2) {
            assert_eq!(pair[1].pts.ticks - pair[0].pts.ticks, 960, "{name}");
        }
        assert!(made[0].pts.ticks.abs() <= 1920, "{name} begins at {}", made[0].pts.ticks);
    }
}

#[test]
fn a_tone_stays_the_same_tone_when_a_source_is_wrong_about_its_channels() {
    let mut one = aac_frames();
    let AudioCodec::Aac { config } = &one[0].params.codec else { unreachable!() };
    let said = params(AudioCodec::Aac { config: config.clone() }, 44_100, 1);
    for frame in &mut one {
        frame.params = said.clone();
    }
    let heard = hertz(&all(&one));
    assert!((heard - 440.0).abs() < 5.0, "two channels said to be one: {heard} Hz");

    let mono: Vec<_> = adts_blocks(AAC_MONO).collect();
    // AAC-LC, 48 kHz, one channel.
    let config = Bytes::from_static(&[0x11, 0x88]);
    let two = frames(&params(AudioCodec::Aac { config }, 48_000, 2), 1024, mono);
    let heard = hertz(&all(&two));
    assert!((heard - 440.0).abs() < 5.0, "one channel said to be two: {heard} Hz");
}

#[test]
fn a_jump_of_time_is_kept_and_a_trembling_one_smoothed() {
    let mut source = aac_frames();
    for (n, frame) in source.iter_mut().enumerate() {
        frame.pts.ticks += if n % 2 == 0 { 0 } else { 400 };
        frame.pts.ticks += if n < 20 { 0 } else { 10 * 44_100 };
    }
    let made = all(&source);
    let steps: Vec<_> = made.windows(2).map(|pair| pair[1].pts.ticks - pair[0].pts.ticks).collect();
    let jumps: Vec<_> = steps.iter().filter(|step| **step != 960).collect();
    assert_eq!(jumps.len(), 1, "{steps:?}");
    assert!((jumps[0] - 10 * 48_000).abs() < 4800, "{jumps:?}");
}

#[test]
fn damaged_frames_are_left_out_and_what_follows_is_heard() {
    let mut source = aac_frames();
    source[5].data = Bytes::from_static(&[0xff; 40]);
    source[6].data = Bytes::new();
    let made = all(&source);
    assert!(made.len() > 40, "{}", made.len());
    assert!((hertz(&made[10..]) - 440.0).abs() < 5.0);
}

#[test]
fn what_cannot_be_decoded_is_refused_by_name() {
    // HE-AAC: object type 5 with its extension.
    let he = params(AudioCodec::Aac { config: Bytes::from_static(&[0x2b, 0x92, 0x08, 0x00]) }, 22_050, 2);
    assert_eq!(ToOpus::new(&he).unwrap_err(), AudioError::Unsupported("mpeg4-generic"));
    let garbage = params(AudioCodec::Aac { config: Bytes::from_static(&[0xff]) }, 44_100, 2);
    assert!(ToOpus::new(&garbage).is_err());
    assert!(ToOpus::new(&params(AudioCodec::Pcma, 8000, 6)).is_err());
    assert!(ToOpus::new(&params(AudioCodec::Opus, 48_000, 2)).is_err());
}

fn publish(registry: &Registry) -> Publisher {
    let name = StreamName::new("radio").unwrap();
    let session = MediaSessionId::new("m").unwrap();
    let publication = Publication::new(name, session, SourceProtocol::Rtmp, Clock::manual().wall());
    registry.publish(publication, None).unwrap()
}

#[test]
fn all_listeners_share_one_encoder_which_ends_with_the_last_of_them() {
    let registry = Registry::new(GopLimits { units: 10, bytes: 10_000 }, 10);
    let publisher = publish(&registry);
    let transcoders = Transcoders::new(Clock::real());
    let listen = || transcoders.listen(publisher.stream(), 64, None).unwrap();
    let (one, two) = (listen(), listen());
    assert_eq!((transcoders.len(), publisher.stream().facts().subscribers), (1, 1));
    let mut source = aac_frames().into_iter().cycle();
    let mut push = || publisher.push_audio(source.next().unwrap());
    (0..20).for_each(|_| push());
    let (heard, also) = (one.recv_timeout(LIMIT).unwrap(), two.recv_timeout(LIMIT).unwrap());
    assert!(Arc::ptr_eq(&heard, &also));
    drop(one);
    push();
    two.recv_timeout(LIMIT).unwrap();
    drop(two);
    let end = Clock::real().now() + LIMIT;
    while publisher.stream().facts().subscribers > 0 || !transcoders.is_empty() {
        assert!(Clock::real().now() < end, "nobody listens and it goes on");
        push();
        std::thread::yield_now();
    }
    let again = listen();
    (0..20).for_each(|_| push());
    again.recv_timeout(LIMIT).unwrap();
    drop(publisher);
    while again.recv_timeout(LIMIT).is_ok() {}
    assert!(transcoders.stop(LIMIT));
}

#[test]
fn a_stop_ends_encoders_and_takes_no_more_listeners() {
    let registry = Registry::new(GopLimits { units: 10, bytes: 10_000 }, 10);
    let publisher = publish(&registry);
    let transcoders = Transcoders::new(Clock::real());
    let heard = transcoders.listen(publisher.stream(), 4, None).unwrap();
    assert!(transcoders.stop(LIMIT));
    assert!(heard.recv_timeout(LIMIT).is_err());
    assert!(transcoders.listen(publisher.stream(), 4, None).is_err());
}

#[test]
fn sample_rates_that_no_encoder_has_are_refused_before_anything_is_made_for_them() {
    for rate in [1, 7349, 96_001, 16_777_213, u32::MAX - 4] {
        assert!(ToOpus::new(&params(AudioCodec::Pcma, rate, 1)).is_err(), "{rate}");
    }
    for rate in [8000, 44_100, 96_000] {
        assert!(ToOpus::new(&params(AudioCodec::Pcma, rate, 1)).is_ok(), "{rate}");
    }
}

#[test]
fn a_frame_makes_no_more_sound_than_a_frame_can_hold() {
    for size in [1, 8000, 16_001, 4 << 20] {
        let params = params(AudioCodec::Pcmu, 8000, 1);
        let mut way = ToOpus::new(&params).unwrap();
        let frame = frames(&params, 160, [Bytes::from(vec![0xFF; size])]).remove(0);
        assert!(way.take(&frame).len() <= 100, "{size} bytes");
    }
}
