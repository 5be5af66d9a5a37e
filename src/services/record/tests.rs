//! Files as they are while they are written, when they were cut off, and when they are complete; and the service around them.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::mp4_file::{self, Mp4File};
use super::sample::{AudioSample, VideoSample};
use super::webm_file::{self, WebmFile};
use super::*;
use crate::base::id::{MediaSessionId, StreamName};
use crate::hub::{Bell, EndReason, GopLimits, Publication, Publisher};
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams, Rotation as Turn, VideoCodec, VideoParams};
use crate::media::unit::{AccessUnit, AudioFrame};
use crate::services::mp4::{EntryCodec, Movie, ReadAt as _, Track, TrackKind};
use crate::services::test_card::{CardEncoder, CardSettings, push_cards};

const LIMIT: Duration = Duration::from_secs(20);
const RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();
/// 20 ms of silence.
const SILENCE: &[u8] = &[0xF8, 0xFF, 0xFE];

fn opus() -> Arc<AudioParams> {
    Arc::new(AudioParams { codec: AudioCodec::Opus, sample_rate: RATE, channels: 2 })
}

pub(super) fn units(settings: CardSettings, numbers: std::ops::Range<u32>) -> Vec<AccessUnit> {
    let mut encoder = CardEncoder::new(settings).unwrap();
    let clock = Clock::manual();
    numbers.map(|number| encoder.encode(number, clock.now(), clock.wall()).unwrap()).collect()
}

pub(super) fn picture(unit: &AccessUnit) -> VideoSample {
    VideoSample {
        dts: unit.dts.ticks,
        composition: unit.pts.ticks - unit.dts.ticks,
        duration: 3000,
        key: unit.key,
        hidden: unit.hidden,
        params: unit.params.clone(),
        data: unit.data.clone(),
    }
}

fn sound(dts: i64) -> AudioSample {
    AudioSample { dts, duration: 960, params: opus(), data: Bytes::from_static(SILENCE) }
}

pub(super) fn new_file(folder: &Path, name: &str) -> File {
    File::options().read(true).write(true).create_new(true).open(folder.join(name)).unwrap()
}

/// Ten seconds of card at 30 pictures a second with sound that begins `late_ms` after them, in fragments of half a second; the file
/// is not finished.
fn written(folder: &Path, name: &str, late_ms: i64) -> (File, Vec<AccessUnit>) {
    let file = new_file(folder, name);
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::from_secs(1_700_000_000));
    let units = units(CardSettings::sized(320, 240), 0..300);
    let mut next_sound = late_ms * 48;
    for (at, unit) in units.iter().enumerate() {
        mp4.video(&picture(unit)).unwrap();
        while next_sound * 90 / 48 < (unit.dts.ticks + 3000) {
            mp4.audio(&sound(next_sound)).unwrap();
            next_sound += 960;
        }
        if at % 15 == 14 {
            mp4.flush().unwrap();
        }
    }
    (file, units)
}

fn data(file: &File, track: &Track, at: usize) -> Vec<u8> {
    let sample = track.samples[at];
    file.read(sample.offset, sample.size as usize).unwrap()
}

/// Milliseconds of the movie at which a sample is shown.
fn shown_ms(movie: &Movie, track: &Track, at: usize) -> f64 {
    let sample = track.samples[at];
    let ticks = sample.dts + i64::from(sample.composition) + track.shift(movie.timescale);
    ticks as f64 * 1000.0 / f64::from(track.timescale.get())
}

fn top_boxes(file: &File) -> Vec<String> {
    let (mut at, mut kinds) = (0, Vec::new());
    let size = file.size().unwrap();
    while at < size {
        let head = file.read(at, 16.min((size - at) as usize)).unwrap();
        let small = u32::from_be_bytes(head[..4].try_into().unwrap());
        kinds.push(String::from_utf8(head[4..8].to_vec()).unwrap());
        at += if small == 1 { u64::from_be_bytes(head[8..].try_into().unwrap()) } else { small.into() };
    }
    assert_eq!(at, size, "{kinds:?}");
    kinds
}

#[test]
fn a_complete_file_has_its_index_first_and_every_sample_in_its_place_and_time() {
    let folder = tempfile::tempdir().unwrap();
    for late_ms in [0, 260] {
        let (file, units) = written(folder.path(), &format!("{late_ms}.mp4"), late_ms);
        assert_eq!(top_boxes(&file)[..5], ["ftyp", "moov", "free", "moof", "mdat"]);
        let duration = mp4_file::finish(&file).unwrap();
        assert_eq!(top_boxes(&file), ["ftyp", "free", "moov", "free", "mdat"]);
        assert!((duration.as_secs_f64() - 10.0).abs() < 0.05, "{duration:?}");
        let movie = Movie::read(&file).unwrap();
        assert!(!movie.fragmented);
        let video = movie.track(TrackKind::Video).unwrap();
        assert_eq!(video.samples.len(), units.len());
        for (at, unit) in units.iter().enumerate() {
            assert!(data(&file, video, at).ends_with(&unit.data), "picture {at}");
            assert_eq!(video.samples[at].key, unit.key);
            assert!((shown_ms(&movie, video, at) - unit.pts.ticks as f64 / 90.0).abs() < 0.1, "picture {at}");
        }
        let audio = movie.track(TrackKind::Audio).unwrap();
        // What the encoder looked ahead comes before the first sample that is heard.
        let first = shown_ms(&movie, audio, 0) + 6.5;
        assert!((first - late_ms as f64).abs() < 0.1, "{first} instead of {late_ms}");
        assert!(data(&file, audio, 7) == SILENCE);
        assert!(matches!(audio.entries[0].codec(), EntryCodec::Audio(params) if params == *opus()));
        assert!(matches!(video.entries[0].codec(), EntryCodec::H264 { length_bytes: 4, .. }));
        // Finishing once more changes nothing.
        assert_eq!(mp4_file::finish(&file).unwrap(), duration);
    }
}

#[test]
fn cut_off_anywhere_a_file_keeps_all_but_its_last_fragment_and_can_be_finished() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = written(folder.path(), "a.mp4", 0);
    let bytes = file.read(0, file.size().unwrap() as usize).unwrap();
    let whole = Movie::read(&file).unwrap();
    let samples = &whole.track(TrackKind::Video).unwrap().samples;
    let mut cuts: Vec<usize> = (0..bytes.len()).step_by(4999).collect();
    // Around the end of each fragment, where one byte matters.
    cuts.extend(samples.iter().step_by(15).flat_map(|s| (0..3).map(move |n| s.offset as usize + n)));
    let mut most = 0;
    for (n, cut) in cuts.into_iter().enumerate() {
        let name = format!("cut{n}.mp4");
        std::fs::write(folder.path().join(&name), &bytes[..cut]).unwrap();
        let file = File::options().read(true).write(true).open(folder.path().join(&name)).unwrap();
        let before =
            Movie::read(&file).ok().and_then(|movie| Some(movie.track(TrackKind::Video)?.samples.len()));
        // Samples whose bytes were all there, less those of one fragment.
        let there = samples.iter().filter(|s| s.offset + u64::from(s.size) <= cut as u64).count();
        match (before, mp4_file::finish(&file)) {
            (Some(before), Ok(_)) => {
                let movie = Movie::read(&file).unwrap();
                let after = movie.track(TrackKind::Video).unwrap();
                assert_eq!(after.samples.len(), before);
                assert!(before + 15 >= there, "{before} of {there} samples at {cut}");
                let last = after.samples.last().unwrap();
                assert!(last.offset + u64::from(last.size) <= file.size().unwrap());
                most = most.max(before);
            }
            (None, Err(_)) => assert!(there < 15, "{there} samples are lost at {cut}"),
            other => panic!("{cut}: {other:?}"),
        }
        std::fs::remove_file(folder.path().join(&name)).unwrap();
    }
    assert!(most >= 270, "{most}");
}

#[test]
fn an_index_that_does_not_fit_into_its_room_leads_to_every_sample_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path(), "long.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    let unit = units(CardSettings::sized(160, 90), 0..1).remove(0);
    for n in 0..40_000_i64 {
        // Uneven times, so that none of them can be told in a run.
        let dts = n * 3000 + n % 7;
        let data = Bytes::from(n.to_be_bytes().to_vec());
        mp4.video(&VideoSample { dts, data, key: n % 30 == 0, ..picture(&unit) }).unwrap();
        if n % 30 == 29 {
            mp4.flush().unwrap();
        }
    }
    mp4.finish().unwrap();
    let kinds = top_boxes(&file);
    assert!(kinds.iter().all(|kind| kind != "moof"), "{kinds:?}");
    let movie = Movie::read(&file).unwrap();
    let video = movie.track(TrackKind::Video).unwrap();
    assert_eq!(video.samples.len(), 40_000);
    for n in (0..40_000).step_by(501) {
        assert!(data(&file, video, n).ends_with(&(n as i64).to_be_bytes()));
        assert_eq!(video.samples[n].dts, n as i64 * 3000 + n as i64 % 7);
    }
}

#[test]
fn pictures_out_of_order_are_shown_in_order_from_the_first_moment_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path(), "b.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    let unit = units(CardSettings::sized(160, 90), 0..1).remove(0);
    // I P B B P B B: decoded two pictures before they are shown.
    for (n, shown) in [0_i64, 3, 1, 2, 6, 4, 5].into_iter().enumerate() {
        let dts = n as i64 * 3000;
        let sample =
            VideoSample { dts, composition: (shown + 2) * 3000 - dts, key: n == 0, ..picture(&unit) };
        mp4.video(&sample).unwrap();
    }
    // Sound that is heard with the first picture.
    for n in 0..10 {
        mp4.audio(&sound(2 * 1600 + n * 960)).unwrap();
    }
    mp4.finish().unwrap();
    let movie = Movie::read(&file).unwrap();
    let video = movie.track(TrackKind::Video).unwrap();
    let shown: Vec<f64> = (0..7).map(|at| shown_ms(&movie, video, at).round()).collect();
    assert_eq!(shown, [0.0, 100.0, 33.0, 67.0, 200.0, 133.0, 167.0]);
    let audio = movie.track(TrackKind::Audio).unwrap();
    assert!((shown_ms(&movie, audio, 0) + 6.5).abs() < 0.1);
    // Players leave out what is not within the edit: the last picture shown is the last but one decoded.
    assert_eq!(video.edits[0].duration, 7 * 3000);
}

#[test]
fn another_size_is_another_entry_and_a_turn_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path(), "c.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    let small = units(CardSettings::sized(160, 90), 0..30);
    let large = units(CardSettings::sized(320, 240), 30..60);
    for unit in small.iter().chain(&large) {
        mp4.video(&picture(unit)).unwrap();
    }
    let turned = VideoParams { rotation: Turn::Cw90, ..(*small[0].params).clone() };
    let turned = VideoSample { params: Arc::new(turned), ..picture(&small[0]) };
    assert!(matches!(mp4.video(&turned), Err(mp4_file::WriteError::NewFile)));
    mp4.finish().unwrap();
    let movie = Movie::read(&file).unwrap();
    let video = movie.track(TrackKind::Video).unwrap();
    assert_eq!((video.entries.len(), video.samples[29].entry, video.samples[30].entry), (2, 0, 1));

    let file = new_file(folder.path(), "turned.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    mp4.video(&turned).unwrap();
    mp4.finish().unwrap();
    let movie = Movie::read(&file).unwrap();
    assert_eq!(movie.track(TrackKind::Video).unwrap().rotation, Turn::Cw90);
}

#[test]
fn sound_that_comes_when_the_file_has_begun_is_in_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path(), "late.mp4");
    let mut mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::ZERO);
    let pictures = units(CardSettings::sized(160, 90), 0..90);
    for (n, unit) in pictures.iter().enumerate() {
        if n >= 60 {
            mp4.audio(&sound(n as i64 * 1600)).unwrap();
        }
        mp4.video(&picture(unit)).unwrap();
        if n % 20 == 19 {
            mp4.flush().unwrap();
        }
    }
    mp4.finish().unwrap();
    let movie = Movie::read(&file).unwrap();
    let audio = movie.track(TrackKind::Audio).unwrap();
    assert_eq!(audio.samples.len(), 30);
    assert!((shown_ms(&movie, audio, 0) + 6.5 - 2000.0).abs() < 0.1);
}

/// A VP8 keyframe's head is all that is needed here.
fn vp8(n: i64) -> VideoSample {
    let params = VideoParams {
        codec: VideoCodec::Vp8,
        ..(*units(CardSettings::sized(160, 90), 0..1)[0].params).clone()
    };
    let data = Bytes::from(vec![n as u8; 500]);
    VideoSample {
        dts: n * 3000,
        composition: 0,
        duration: 3000,
        key: n % 30 == 0,
        hidden: false,
        params: Arc::new(params),
        data,
    }
}

#[test]
fn a_webm_file_that_was_cut_off_is_finished_with_duration_and_keyframes() {
    let folder = tempfile::tempdir().unwrap();
    let file = new_file(folder.path(), "a.webm");
    let mut webm = WebmFile::new(file.try_clone().unwrap(), Duration::from_secs(1_700_000_000));
    for n in 0..120 {
        webm.video(&vp8(n)).unwrap();
        webm.audio(&sound(n * 1600)).unwrap();
        if n % 30 == 29 {
            webm.flush().unwrap();
        }
    }
    let size = file.size().unwrap();
    file.set_len(size - 1).unwrap();
    let duration = webm_file::finish(&file).unwrap();
    assert!((duration.as_secs_f64() - 3.0).abs() < 0.05, "three of four clusters are whole: {duration:?}");
    let head = file.read(0, 65_536).unwrap();
    let has = |bytes: &[u8]| head.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(ebml::CUES) && has(ebml::DURATION));
    assert_eq!(webm_file::finish(&file).unwrap(), duration);
}

fn settings(dir: &Path) -> RecordSettings {
    RecordSettings {
        dir: dir.to_owned(),
        on_request: true,
        all_rtmp: false,
        all_rtsp_pulls: false,
        naming: Naming::Template("stream-{streamName}".into()),
        rotation: Rotation::Never,
        keep: Keep::default(),
        free_min_bytes: 0,
        hook: None,
        hook_limit: LIMIT,
        finish_limit: LIMIT,
    }
}

pub(super) struct Stage {
    pub(super) folder: tempfile::TempDir,
    registry: Registry,
    pub(super) service: RecordService,
    pub(super) clock: Clock,
}

impl Stage {
    pub(super) fn new(change: impl FnOnce(&mut RecordSettings)) -> Self {
        Self::on(Clock::real(), change)
    }

    fn on(clock: Clock, change: impl FnOnce(&mut RecordSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let registry = Registry::new(GopLimits { units: 1000, bytes: 1 << 24 }, 10);
        let service = RecordService::start(settings, &registry, clock.clone(), Metrics::new()).unwrap();
        Self { folder, registry, service, clock }
    }

    fn publish(&self, name: &str) -> Publisher {
        self.publish_as(name, |publication| publication)
    }

    pub(super) fn publish_as(
        &self,
        name: &str,
        change: impl FnOnce(Publication) -> Publication,
    ) -> Publisher {
        let publication = Publication {
            record: true,
            ..Publication::new(
                StreamName::new(name).unwrap(),
                MediaSessionId::new(name).unwrap(),
                SourceProtocol::TestCard,
                self.clock.wall(),
            )
        };
        self.registry.publish(change(publication), Some(Bell::without_keyframes(None).0)).unwrap()
    }

    pub(super) fn end(&self, publisher: Publisher) -> Recorded {
        let stream = publisher.stream().clone();
        publisher.end(EndReason::ByUser);
        let (tell, told) = crossbeam_channel::bounded(1);
        let reply = Box::new(move |recorded| tell.send(recorded).unwrap());
        match self.service.handle().when_complete(&stream, reply) {
            Completion::Later => told.recv_timeout(LIMIT).unwrap(),
            Completion::Done(recorded) => recorded,
            Completion::NotRecorded => panic!("not recorded"),
        }
    }

    fn movie(&self, name: &str) -> Movie {
        Movie::read(&File::open(self.folder.path().join(name)).unwrap()).unwrap()
    }

    pub(super) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        // The stage's own clock may stand still.
        let clock = Clock::real();
        let end = clock.now() + LIMIT;
        while !holds() {
            assert!(clock.now() < end, "{what}");
            let _ = crossbeam_channel::after(Duration::from_millis(10)).recv();
        }
    }
}

#[test]
fn a_stream_that_asks_for_it_is_recorded_whole_and_the_end_waits_for_the_file() {
    let stage = Stage::new(|_| {});
    let publisher = stage.publish("cam");
    let stream = publisher.stream().clone();
    assert_eq!(stage.service.handle().name_of(&stream).as_deref(), Some("stream-cam.mp4"));
    let facts = RecordingFacts { file_name: "stream-cam.mp4".into(), media_session_id: "cam".into() };
    assert_eq!(stage.service.handle().list(), [facts]);
    let mut encoder = CardEncoder::new(CardSettings::sized(160, 90)).unwrap();
    push_cards(&publisher, &mut encoder, 0..60, &stage.clock).unwrap();
    let recorded = stage.end(publisher);
    assert_eq!(recorded, Recorded { name: "stream-cam.mp4".into(), failure: None });
    let movie = stage.movie(&recorded.name);
    assert!(!movie.fragmented);
    assert_eq!(movie.track(TrackKind::Video).unwrap().samples.len(), 60);
    assert!(stage.service.handle().list().is_empty());
    assert_eq!(std::fs::read_dir(stage.folder.path()).unwrap().count(), 1, "no mark is left");
}

#[test]
fn whoever_begins_it_a_recording_has_the_first_name_and_no_other_file_is_made() {
    // The watch begins it as soon as it is published, and so do these, at the same time.
    for round in 0..20 {
        let stage = Stage::new(|_| {});
        let publisher = stage.publish("cam");
        let names: Vec<_> = std::thread::scope(|scope| {
            let begin = || stage.service.handle().name_of(publisher.stream());
            let askers: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        });
        assert!(names.iter().all(|name| name.as_deref() == Some("stream-cam.mp4")), "{round}: {names:?}");
        let files = std::fs::read_dir(stage.folder.path()).unwrap();
        let files =
            files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "mp4"));
        assert_eq!(files.count(), 1);
    }
}

#[test]
fn rest_ends_a_recording_and_begins_another_while_the_stream_lives() {
    let stage = Stage::new(|settings| settings.on_request = false);
    let publisher = stage.publish("cam");
    let mut encoder = CardEncoder::new(CardSettings::sized(160, 90)).unwrap();
    let handle = stage.service.handle();
    assert!(handle.name_of(publisher.stream()).is_none());
    assert!(matches!(handle.stop("cam"), Err(RecordError::NotFound)));
    assert!(matches!(handle.start("other", None, None), Err(RecordError::NotFound)));
    handle.start("cam", Some("one".into()), None).unwrap();
    push_cards(&publisher, &mut encoder, 0..30, &stage.clock).unwrap();
    handle.start("cam", Some("two".into()), None).unwrap();
    push_cards(&publisher, &mut encoder, 30..60, &stage.clock).unwrap();
    handle.stop("cam").unwrap();
    push_cards(&publisher, &mut encoder, 60..90, &stage.clock).unwrap();
    // The group of pictures that was underway is in both.
    assert_eq!(stage.movie("one.mp4").track(TrackKind::Video).unwrap().samples.len(), 30);
    assert_eq!(stage.movie("two.mp4").track(TrackKind::Video).unwrap().samples.len(), 60);
    assert!(publisher.stream().ended().is_none());
}

#[test]
fn a_full_disk_ends_the_recording_with_a_reason_and_not_the_stream() {
    let stage = Stage::new(|settings| settings.free_min_bytes = u64::MAX);
    let publisher = stage.publish("cam");
    assert!(stage.service.handle().name_of(publisher.stream()).is_some());
    let mut encoder = CardEncoder::new(CardSettings::sized(160, 90)).unwrap();
    push_cards(&publisher, &mut encoder, 0..30, &stage.clock).unwrap();
    stage.until("it goes on", || stage.service.handle().list().is_empty());
    assert!(publisher.stream().ended().is_none());
    let recorded = stage.end(publisher);
    assert!(recorded.failure.unwrap().contains("bytes are free"));
}

#[test]
fn what_a_crash_left_is_complete_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let unfinished = store.create("left.mp4", "cam").unwrap();
    let mut mp4 = Mp4File::new(unfinished.file.try_clone().unwrap(), Duration::ZERO);
    for unit in units(CardSettings::sized(160, 90), 0..30) {
        mp4.video(&picture(&unit)).unwrap();
    }
    mp4.flush().unwrap();
    // The process is gone: nobody finishes it, and the lock falls.
    drop((mp4, unfinished, store.create("empty.mp4", "cam").unwrap()));
    let registry = Registry::new(GopLimits { units: 10, bytes: 1000 }, 1);
    let service =
        RecordService::start(settings(folder.path()), &registry, Clock::real(), Metrics::new()).unwrap();
    assert!(service.stop());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["left.mp4"]);
    let movie = Movie::read(&File::open(folder.path().join("left.mp4")).unwrap()).unwrap();
    assert!(!movie.fragmented && movie.track(TrackKind::Video).unwrap().samples.len() == 30);
}

#[test]
fn a_recording_goes_on_in_another_file_at_its_bound() {
    for rotation in [Rotation::Bytes(1), Rotation::After(Duration::from_nanos(1))] {
        let stage = Stage::new(|settings| settings.rotation = rotation);
        let publisher = stage.publish("cam");
        assert!(stage.service.handle().name_of(publisher.stream()).is_some());
        let settings = CardSettings { keyframe_interval: 30, ..CardSettings::sized(160, 90) };
        let mut encoder = CardEncoder::new(settings).unwrap();
        push_cards(&publisher, &mut encoder, 0..90, &stage.clock).unwrap();
        // Sound of a stream goes into the file of the pictures beside it.
        let pts = Timestamp { ticks: 0, timescale: RATE };
        publisher.push_audio(AudioFrame {
            arrived: stage.clock.now(),
            pts,
            params: opus(),
            data: Bytes::from_static(SILENCE),
        });
        assert_eq!(stage.end(publisher).name, "stream-cam_3.mp4");
        for name in ["stream-cam.mp4", "stream-cam_2.mp4", "stream-cam_3.mp4"] {
            assert_eq!(stage.movie(name).track(TrackKind::Video).unwrap().samples.len(), 30, "{name}");
        }
    }
}

#[test]
fn a_disk_that_does_not_keep_up_ends_the_recording_with_a_reason_and_not_the_stream() {
    // Another file at each keyframe; the recorder tells of each, and is held up there as by a disk that hangs.
    let clock = Clock::manual();
    let stage = Stage::on(clock.clone(), |settings| settings.rotation = Rotation::Bytes(1));
    let publisher = stage.publish("cam");
    let handle = stage.service.handle();
    assert!(handle.name_of(publisher.stream()).is_some());
    let cards = units(CardSettings { keyframe_interval: 30, ..CardSettings::sized(160, 90) }, 0..30);
    let mut next = 0;
    let mut push = |pictures: usize| {
        for number in next..next + pictures {
            let stamp = Timestamp::video(number as i64 * 3000);
            let unit = cards[number % 30].clone();
            publisher.push_video(AccessUnit { arrived: clock.now(), pts: stamp, dts: stamp, ..unit });
        }
        next += pictures;
    };
    let (hold, held) = crossbeam_channel::bounded::<Receiver<()>>(0);
    let (told, is_held) = crossbeam_channel::bounded(0);
    let state = handle.clone();
    // On a thread of its own: whoever holds the lock may not push.
    let holder = spawn("test-hold", STACK_PROTOCOL_BYTES, move || {
        for release in held {
            let guard = state.0.state.lock();
            told.send(()).unwrap();
            let _ = release.recv();
            drop(guard);
        }
    })
    .unwrap();
    let is_over = || handle.0.was_recorded(publisher.stream().epoch());
    let name = || handle.current(publisher.stream());
    // As many as it looks at before it begins.
    push(600);
    stage.until("it begins", || name().is_some_and(|name| name != "stream-cam.mp4"));
    let mut lags = 0;
    while !is_over() {
        let before = name();
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        hold.send(released).unwrap();
        is_held.recv().unwrap();
        push(LIVE_WAITING_MAX + 100);
        drop(release);
        stage.until("it goes on", || name() != before || is_over());
        clock.advance(Duration::from_secs(2));
        push(60);
        lags += 1;
        assert!(lags < 15, "it goes on and on");
    }
    drop(hold);
    assert!(holder.join(LIMIT));
    assert!(lags >= 3, "{lags}");
    assert!(publisher.stream().ended().is_none(), "the stream lives");
    assert_eq!(stage.end(publisher).failure.unwrap(), "recording ended: the disk is too slow");
}
