//! What a recording says of time, held against its source as another program reads it: length, and how pictures and sound stand to
//! each other, whatever happened to size, tracks and clocks on the way.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::tests::Stage;
use crate::hub::{Publication, SourceProtocol};
use crate::media::time::{Timestamp, Unwrap32};
use crate::media::track::{AudioCodec, AudioParams, Rotation, VideoParams};
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::services::test_card::{CardEncoder, CardSettings};

/// What a file may differ from its source by.
const TOLERANCE_MS: f64 = 40.0;
const PICTURE_MS: f64 = 1000.0 / 30.0;
const SOUND_MS: f64 = 20.0;

/// One unit of a source.
#[derive(Clone)]
struct Event {
    /// When it is shown or heard in truth, in ms.
    at_ms: f64,
    /// What its time stamp says, in ticks of its track.
    ticks: i64,
    what: What,
}

#[derive(Clone)]
enum What {
    Picture(AccessUnit),
    Sound,
}

/// A source of pictures 30 a second, and sound in frames of 20 ms, for so long.
struct Source {
    protocol: SourceProtocol,
    events: Vec<Event>,
}

fn card_units(width: u32, height: u32, pictures: u32) -> Vec<AccessUnit> {
    let settings = CardSettings { keyframe_interval: 30, ..CardSettings::sized(width, height) };
    let mut encoder = CardEncoder::new(settings).unwrap();
    let clock = crate::base::clock::Clock::manual();
    (0..pictures).map(|number| encoder.encode(number, clock.now(), clock.wall()).unwrap()).collect()
}

impl Source {
    /// Tracks have clocks of their own over WebRTC, and one clock else; both begin somewhere.
    fn new(protocol: SourceProtocol, seconds: u32) -> Self {
        let (video_from, audio_from) = match protocol {
            SourceProtocol::WebRtc => (1_234_567_890, 77_777),
            _ => (90 * 5000, 48 * 5000),
        };
        let pictures = card_units(160, 90, seconds * 30).into_iter().zip(0..).map(|(unit, n)| Event {
            at_ms: f64::from(n) * PICTURE_MS,
            ticks: video_from + i64::from(n) * 3000,
            what: What::Picture(unit),
        });
        let sounds = (0..seconds * 50).map(|n| Event {
            at_ms: f64::from(n) * SOUND_MS,
            ticks: audio_from + i64::from(n) * 960,
            what: What::Sound,
        });
        Self { protocol, events: pictures.chain(sounds).collect() }
    }

    /// Changes the events from a moment on.
    fn from(mut self, ms: f64, change: impl Fn(&mut Event)) -> Self {
        self.events.iter_mut().filter(|event| event.at_ms >= ms - 0.01).for_each(change);
        self
    }

    /// Leaves out what is said so of.
    fn without(mut self, is_left_out: impl Fn(&Event) -> bool) -> Self {
        self.events.retain(|event| !is_left_out(event));
        self
    }

    /// Publishes it, in the order of arrival, each some milliseconds underway; returns the files made.
    fn recorded(mut self) -> Recorded {
        let stage = Stage::new(|_| {});
        let publisher =
            stage.publish_as("cam", |publication| Publication { protocol: self.protocol, ..publication });
        assert!(stage.service.handle().name_of(publisher.stream()).is_some());
        let begun = stage.clock.now();
        let rate = std::num::NonZeroU32::new(48_000).unwrap();
        let opus = Arc::new(AudioParams { codec: AudioCodec::Opus, sample_rate: rate, channels: 2 });
        self.events.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
        for (n, event) in self.events.iter().enumerate() {
            // Up to 7 ms, and some in no time.
            let underway = (n * 7919 % 8) as f64;
            let arrived = begun + Duration::from_secs_f64((event.at_ms + underway) / 1000.0);
            match &event.what {
                What::Picture(unit) => {
                    let stamp = Timestamp::video(event.ticks);
                    publisher.push_video(AccessUnit { arrived, pts: stamp, dts: stamp, ..unit.clone() });
                }
                What::Sound => {
                    let pts = Timestamp { ticks: event.ticks, timescale: rate };
                    let data = Bytes::from_static(&[0xF8, 0xFF, 0xFE]);
                    publisher.push_audio(AudioFrame { arrived, pts, params: opus.clone(), data });
                }
            }
        }
        let last = stage.end(publisher);
        assert_eq!(last.failure, None);
        let times = |is_picture: bool| {
            let of_kind = self.events.iter().filter(|e| matches!(e.what, What::Picture(_)) == is_picture);
            of_kind.map(|event| event.at_ms).collect()
        };
        Recorded { pictures: times(true), sounds: times(false), name: last.name, stage }
    }
}

/// A file beside its source: when each picture and each frame of sound was, in ms.
struct Recorded {
    stage: Stage,
    name: String,
    pictures: Vec<f64>,
    sounds: Vec<f64>,
}

fn probe(file: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new("ffprobe").args(["-v", "error", "-of", "csv=p=0"]).args(arguments).arg(file).output();
    let output = output.expect("ffprobe is needed: tools/install-test-deps");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Recorded {
    fn file(&self) -> std::path::PathBuf {
        self.stage.folder.path().join(&self.name)
    }

    /// When each packet of a track is shown or heard, in ms, as ffprobe says.
    fn times(&self, track: &str) -> Vec<f64> {
        let text = probe(&self.file(), &["-select_streams", track, "-show_entries", "packet=pts_time"]);
        text.lines()
            .filter_map(|line| line.split(',').next()?.parse::<f64>().ok())
            .map(|seconds| seconds * 1000.0)
            .collect()
    }

    /// Every unit is in the file, as far from the first as in the source; the two tracks stand to each other as there; and the
    /// file is as long as the source.
    fn assert_true(&self) {
        let (pictures, sounds) = (self.times("v"), self.times("a"));
        assert_eq!((pictures.len(), sounds.len()), (self.pictures.len(), self.sounds.len()), "all is there");
        // What the sound's encoder looked ahead is not heard: 6.5 ms.
        let sounds: Vec<f64> = sounds.iter().map(|ms| ms + 6.5).collect();
        let zero = self.pictures.iter().chain(&self.sounds).copied().fold(f64::MAX, f64::min);
        for (kind, found, truth) in [("picture", &pictures, &self.pictures), ("sound", &sounds, &self.sounds)]
        {
            for (n, (found, truth)) in found.iter().zip(truth).enumerate() {
                let off = found - (truth - zero);
                assert!(off.abs() <= TOLERANCE_MS / 2.0, "{kind} {n} of {}: {off} ms off", self.name);
            }
        }
        let end = |times: &[f64], length: f64| times.last().map_or(0.0, |last| last + length - zero);
        let truth = end(&self.pictures, PICTURE_MS).max(end(&self.sounds, SOUND_MS));
        let said = probe(&self.file(), &["-show_entries", "format=duration"]);
        let said = said.trim().parse::<f64>().unwrap() * 1000.0;
        assert!((said - truth).abs() <= TOLERANCE_MS, "{said} ms instead of {truth}");
    }
}

const PROTOCOLS: [SourceProtocol; 2] = [SourceProtocol::WebRtc, SourceProtocol::Rtmp];

#[test]
fn a_plain_source_and_one_without_sound_or_with_a_hole_in_it_keep_their_time() {
    for protocol in PROTOCOLS {
        Source::new(protocol, 6).recorded().assert_true();
        let is_sound = |event: &Event| matches!(event.what, What::Sound);
        let silent = Source::new(protocol, 4).without(is_sound).recorded();
        assert_eq!(silent.times("a").len(), 0);
        silent.assert_true();
        // Two seconds of sound never came.
        let hole = |event: &Event| is_sound(event) && (2000.0..4000.0).contains(&event.at_ms);
        Source::new(protocol, 6).without(hole).recorded().assert_true();
    }
}

#[test]
fn sound_that_begins_three_seconds_later_is_three_seconds_later() {
    for protocol in PROTOCOLS {
        let early = |event: &Event| matches!(event.what, What::Sound) && event.at_ms < 3000.0;
        Source::new(protocol, 6).without(early).recorded().assert_true();
    }
}

#[test]
fn another_size_in_the_middle_changes_neither_length_nor_time() {
    for protocol in PROTOCOLS {
        let mut source = Source::new(protocol, 6);
        let large = card_units(320, 240, 180);
        for event in source.events.iter_mut().filter(|event| event.at_ms >= 2999.0) {
            if let What::Picture(unit) = &mut event.what {
                *unit = large[(event.at_ms / PICTURE_MS).round() as usize - 90].clone();
            }
        }
        let recorded = source.recorded();
        recorded.assert_true();
        let sizes = probe(&recorded.file(), &["-select_streams", "v", "-show_entries", "frame=width,height"]);
        let count = |size: &str| sizes.lines().filter(|line| line.trim_end_matches(',') == size).count();
        assert_eq!((count("160,90"), count("320,240")), (90, 90), "all of both can be decoded");
    }
}

#[test]
fn time_stamps_that_jump_back_or_ahead_do_not_move_the_file() {
    // Both tracks count anew, as when an encoder starts again; an hour ahead, and back to the beginning.
    for (video, audio) in [(3_600_000 * 90, 3_600_000 * 48), (-4000 * 90, -4000 * 48)] {
        for protocol in PROTOCOLS {
            Source::new(protocol, 8)
                .from(4000.0, |event| {
                    event.ticks += if matches!(event.what, What::Sound) { audio } else { video };
                })
                .recorded()
                .assert_true();
        }
    }
    // One track alone, where each has a clock of its own.
    for by in [1_000_000_000, -200_000] {
        let jump = |event: &mut Event| event.ticks += if matches!(event.what, What::Sound) { 0 } else { by };
        Source::new(SourceProtocol::WebRtc, 8).from(4000.0, jump).recorded().assert_true();
    }
}

#[test]
fn time_stamps_of_32_bits_go_on_over_their_wrap() {
    let mut source = Source::new(SourceProtocol::WebRtc, 6);
    let (mut video, mut audio) = (Unwrap32::default(), Unwrap32::default());
    for event in &mut source.events {
        // Two seconds before the wrap of pictures, and three before that of sound, as the packets say it.
        let (unwrap, from) = match event.what {
            What::Sound => (&mut audio, 77_777 + 3 * 48_000),
            What::Picture(_) => (&mut video, 1_234_567_890 + 2 * 90_000),
        };
        event.ticks = unwrap.unwrap((event.ticks - from) as u32);
    }
    source.recorded().assert_true();
}

#[test]
fn a_rotation_is_kept_and_one_that_changes_begins_another_file() {
    let turned = |event: &mut Event| {
        if let What::Picture(unit) = &mut event.what {
            unit.params = Arc::new(VideoParams { rotation: Rotation::Cw90, ..(*unit.params).clone() });
        }
    };
    let rotation = |recorded: &Recorded, name: &str| {
        let file = recorded.stage.folder.path().join(name);
        let text = probe(&file, &["-select_streams", "v", "-show_entries", "stream_side_data=rotation"]);
        text.trim().trim_end_matches(',').to_owned()
    };
    let recorded = Source::new(SourceProtocol::WebRtc, 3).from(0.0, turned).recorded();
    recorded.assert_true();
    assert_eq!(rotation(&recorded, &recorded.name), "-90", "ffprobe counts the other way round");
    // A phone that is turned after two seconds, at a keyframe.
    let recorded = Source::new(SourceProtocol::WebRtc, 4).from(2000.0, turned).recorded();
    assert_eq!(recorded.name, "stream-cam_2.mp4");
    assert_eq!(rotation(&recorded, "stream-cam.mp4"), "");
    assert_eq!(rotation(&recorded, "stream-cam_2.mp4"), "-90");
    assert_eq!(recorded.times("v").len(), 60);
}
