//! A recording that is played while it is written: its reader goes on when it grows, changes and is completed.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::mp4_file::{self, Mp4File};
use super::sample::{AudioSample, VideoSample};
use crate::base::clock::Clock;
use crate::base::metrics::Metrics;
use crate::media::track::{AudioCodec, AudioParams};
use crate::media::unit::{AccessUnit, MediaUnit};
use crate::services::colour::to_rgb;
use crate::services::decode::StreamDecoder;
use crate::services::test_card::{CardEncoder, CardSettings, read_number};
use crate::services::vod::{Demuxer, picture_at};

const PIXELS_MAX: u64 = 1 << 22;

fn units(width: u32, height: u32) -> Vec<AccessUnit> {
    let settings = CardSettings { keyframe_interval: 30, ..CardSettings::sized(width, height) };
    let mut encoder = CardEncoder::new(settings).unwrap();
    let clock = Clock::manual();
    (0..30).map(|number| encoder.encode(number, clock.now(), clock.wall()).unwrap()).collect()
}

/// A recording with its reader, which was opened when the first fragments were there.
struct Stage {
    mp4: Mp4File,
    file: File,
    units: Vec<AccessUnit>,
    /// Pictures and frames of sound written.
    written: i64,
    flushed: i64,
    reader: Option<Demuxer<File>>,
    /// Presentation times of the pictures read, in ticks, and the number of frames of sound.
    pictures: Vec<i64>,
    sounds: usize,
}

impl Stage {
    fn new(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let mp4 = Mp4File::new(file.try_clone().unwrap(), Duration::from_secs(1_700_000_000));
        let (pictures, units) = (Vec::new(), units(160, 90));
        Self { mp4, file, units, written: 0, flushed: 0, reader: None, pictures, sounds: 0 }
    }

    /// When picture `n` is shown: uneven, so that an index has something to say of each.
    fn time(n: i64) -> i64 {
        n * 3000 + n % 7
    }

    fn write(&mut self, pictures: i64) {
        let rate = std::num::NonZeroU32::new(48_000).unwrap();
        let opus = Arc::new(AudioParams { codec: AudioCodec::Opus, sample_rate: rate, channels: 2 });
        for n in self.written..self.written + pictures {
            let unit = &self.units[(n % 30) as usize];
            let video = VideoSample {
                dts: Self::time(n),
                composition: 0,
                duration: 3000,
                key: unit.key,
                hidden: false,
                params: unit.params.clone(),
                data: unit.data.clone(),
            };
            self.mp4.video(&video).unwrap();
            let data = Bytes::from_static(&[0xF8, 0xFF, 0xFE]);
            self.mp4
                .audio(&AudioSample { dts: n * 1600, duration: 1600, params: opus.clone(), data })
                .unwrap();
            if n % 15 == 14 {
                self.mp4.flush().unwrap();
                self.flushed = n + 1;
            }
        }
        self.written += pictures;
    }

    /// Reads at most so many pictures.
    fn read(&mut self, most: usize) {
        let now = Clock::manual().now();
        let file = &self.file;
        let reader =
            self.reader.get_or_insert_with(|| Demuxer::open(file.try_clone().unwrap(), PIXELS_MAX).unwrap());
        let end = self.pictures.len().saturating_add(most);
        while self.pictures.len() < end {
            let Some(due) = reader.next(now).unwrap() else {
                if reader.refresh().unwrap() {
                    continue;
                }
                return;
            };
            match due.unit {
                MediaUnit::Video(unit) => self.pictures.push(unit.pts.ticks),
                MediaUnit::Audio(_) => self.sounds += 1,
            }
        }
    }

    /// Each picture that was written was read, once, in its time.
    fn assert_read(&self, pictures: i64) {
        let want: Vec<i64> = (0..pictures).map(Self::time).collect();
        let fault = want.iter().zip(&self.pictures).position(|(want, read)| (want - read).abs() > 1);
        assert_eq!((self.pictures.len(), fault), (want.len(), None));
        assert!(self.sounds.abs_diff(want.len()) <= 1, "{} frames of sound", self.sounds);
    }
}

#[test]
fn a_reader_sees_each_picture_once_while_the_file_grows_and_over_its_completion() {
    let folder = tempfile::tempdir().unwrap();
    // The index of the longer one needs room that is made before the fragments, which moves them.
    for (name, pictures) in [("short.mp4", 600), ("long.mp4", 12_000)] {
        let mut stage = Stage::new(&folder.path().join(name));
        stage.write(40);
        stage.read(10);
        stage.write(50);
        stage.read(usize::MAX);
        stage.assert_read(stage.flushed);
        assert!(stage.reader.as_ref().unwrap().is_fragmented());
        stage.write(pictures - 90);
        // It is behind when the file is completed, in the middle of what it knows of the file.
        stage.read(200);
        stage.mp4.flush().unwrap();
        mp4_file::finish(&stage.file).unwrap();
        stage.read(usize::MAX);
        stage.assert_read(pictures);
        let reader = stage.reader.as_mut().unwrap();
        assert!(!reader.is_fragmented() && !reader.refresh().unwrap(), "it is complete");
    }
}

#[test]
fn the_picture_of_a_recording_that_is_completed_in_that_moment_is_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(&folder.path().join("a.mp4"));
    stage.write(12_000);
    // It has read the index; then the fragments are moved.
    let mut reader = Demuxer::open(stage.file.try_clone().unwrap(), PIXELS_MAX).unwrap();
    mp4_file::finish(&stage.file).unwrap();
    let mut decoder = StreamDecoder::new(PIXELS_MAX, Metrics::new());
    let now = Clock::manual().now();
    // Picture 10 007 is the eighteenth of its group.
    let moment = Duration::from_nanos(Stage::time(10_007) as u64 * 1_000_000_000 / 90_000 + 1_000_000);
    let (picture, _) = picture_at(&mut reader, &mut decoder, moment, now, &|| true).unwrap();
    let rgb = to_rgb(&picture);
    assert_eq!(read_number(&rgb.rgb, rgb.width, rgb.height), Some(10_007 % 30));
    assert!(!reader.is_fragmented(), "it was read anew");
}

#[test]
fn a_reader_goes_on_when_the_size_changes_and_the_head_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(&folder.path().join("a.mp4"));
    stage.write(60);
    stage.read(usize::MAX);
    stage.units = units(320, 240);
    stage.write(60);
    stage.read(usize::MAX);
    stage.assert_read(120);
    mp4_file::finish(&stage.file).unwrap();
    stage.read(usize::MAX);
    stage.assert_read(120);
}

#[test]
fn a_file_that_is_cut_off_or_overwritten_while_it_is_read_ends_with_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    for (name, how) in [("cut.mp4", 0), ("empty.mp4", 1), ("zeros.mp4", 2)] {
        let mut stage = Stage::new(&folder.path().join(name));
        stage.write(300);
        stage.read(60);
        let size = stage.file.metadata().unwrap().len();
        match how {
            // Behind the room at the head, in the middle of the fragments.
            0 => stage.file.set_len(size - (size - 128 * 1024) / 3).unwrap(),
            1 => stage.file.set_len(0).unwrap(),
            _ => {
                stage.file.set_len(0).unwrap();
                stage.file.set_len(size).unwrap();
            }
        }
        let reader = stage.reader.as_mut().unwrap();
        let (now, mut more) = (Clock::manual().now(), 0);
        // An error is an end as well; what is given until then was whole.
        while let Ok(Some(due)) = reader.next(now) {
            more += usize::from(matches!(due.unit, MediaUnit::Video(_)));
            assert!(more <= 240);
        }
        assert_eq!(more > 0, how == 0, "{name}: {more} pictures");
    }
}
