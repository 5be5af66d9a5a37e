//! A file as media units: what is played, and what a picture of a moment is decoded from.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, statat};

use crate::media::h264::assemble::{UnitBuilder, UnitTimes};
use crate::media::time::{Timestamp, VIDEO_TIMESCALE};
use crate::media::track::AudioParams;
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};
use crate::services::mp4::{Entry, EntryCodec, Movie, Mp4Error, ReadAt, Sample, Track, TrackKind};

/// Most bytes of one sample.
const SAMPLE_BYTES_MAX: u32 = 16 << 20;

/// Why a file is not played; the texts are those that clients know (protocol document, appendix B).
#[derive(Debug, thiserror::Error)]
pub enum VodError {
    /// There is no such file, or it is outside of the folder.
    #[error("File not found")]
    NotFound,
    /// It cannot be played.
    #[error("File has wrong format")]
    Format(#[source] Mp4Error),
    /// The system does not read it.
    #[error("Failed to read file")]
    Read(#[source] std::io::Error),
}

impl From<Mp4Error> for VodError {
    fn from(error: Mp4Error) -> Self {
        match error {
            Mp4Error::Io(error) => Self::Read(error),
            other => Self::Format(other),
        }
    }
}

/// Opens a regular file below `folder`, whose name may have folders in it. The folder itself may be a link, as it is the
/// operator's; nothing in it may, and nothing outside of it is reached.
///
/// # Errors
/// [`VodError::NotFound`], whatever the reason: outside and absent are not told apart.
pub fn open_below(folder: &Path, name: &str) -> Result<File, VodError> {
    let not_found = |_| VodError::NotFound;
    let mut components: Vec<&str> = name.split('/').collect();
    let plain = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains(['\\', '\0']);
    if !components.iter().all(plain) {
        return Err(VodError::NotFound);
    }
    let name = components.pop().ok_or(VodError::NotFound)?;
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut at: OwnedFd = open(folder, directory, Mode::empty()).map_err(not_found)?;
    for folder in components {
        at = openat(&at, folder, directory | OFlags::NOFOLLOW, Mode::empty()).map_err(not_found)?;
    }
    // Looked at before it is opened: opening a device could do something.
    let status = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(not_found)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(VodError::NotFound);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(openat(&at, name, flags, Mode::empty()).map_err(not_found)?);
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file { Ok(file) } else { Err(VodError::NotFound) }
}

/// Reads a file's units in the order in which they are to be sent. One track of pictures and one of sound are read.
#[derive(Debug)]
pub struct Demuxer<R> {
    file: R,
    movie: Movie,
    video: Option<Lane>,
    audio: Option<Lane>,
    builder: UnitBuilder,
    /// The entry whose parameter sets the builder has.
    entry: Option<u16>,
    waits_for_key: bool,
}

/// A track that is read.
#[derive(Debug)]
struct Lane {
    /// Its place among the movie's tracks.
    track: usize,
    next: usize,
    /// Of sound: parameters of each entry.
    audio: Vec<Option<Arc<AudioParams>>>,
}

/// A unit and when it is due.
#[derive(Clone, Debug)]
pub struct Due {
    /// When it is to be sent, from the beginning of the file: its decoding time.
    pub at: Duration,
    /// The unit; its time stamps count from the beginning of the file.
    pub unit: MediaUnit,
}

impl<R: ReadAt> Demuxer<R> {
    /// Reads the index of a file with H.264, AAC or Opus in it. Pictures of more than `pixels_max` are not taken.
    ///
    /// # Errors
    /// When it is none, or holds nothing that can be played.
    pub fn open(file: R, pixels_max: u64) -> Result<Self, VodError> {
        let movie = Movie::read(&file)?;
        let mut demuxer = Self {
            file,
            movie,
            video: None,
            audio: None,
            builder: UnitBuilder::new(pixels_max),
            entry: None,
            waits_for_key: true,
        };
        demuxer.choose();
        if demuxer.video.is_none() && demuxer.audio.is_none() {
            return Err(VodError::Format(Mp4Error::Format("neither H.264 nor AAC nor Opus".to_owned())));
        }
        Ok(demuxer)
    }

    /// Takes the first track of each kind that can be played.
    fn choose(&mut self) {
        for (at, track) in self.movie.tracks.iter().enumerate() {
            let codecs: Vec<_> = track.entries.iter().map(Entry::codec).collect();
            let lane = |audio| Some(Lane { track: at, next: 0, audio });
            match track.kind {
                TrackKind::Video if self.video.is_none() => {
                    let all = codecs.iter().all(|codec| matches!(codec, EntryCodec::H264 { .. }));
                    if all && !codecs.is_empty() {
                        self.video = lane(Vec::new());
                        self.builder.set_rotation(track.rotation);
                    }
                }
                TrackKind::Audio if self.audio.is_none() => {
                    let params: Vec<_> = codecs
                        .into_iter()
                        .map(|codec| match codec {
                            EntryCodec::Audio(params) => Some(Arc::new(params)),
                            _ => None,
                        })
                        .collect();
                    if params.iter().any(Option::is_some) {
                        self.audio = lane(params);
                    }
                }
                _ => {}
            }
        }
    }

    /// How long the file is.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.movie.duration()
    }

    /// Whether pictures and sound are in it.
    #[must_use]
    pub fn has(&self) -> (bool, bool) {
        (self.video.is_some(), self.audio.is_some())
    }

    /// Parameters of its sound, of the first entry.
    #[must_use]
    pub fn audio_params(&self) -> Option<&Arc<AudioParams>> {
        self.audio.as_ref()?.audio.iter().flatten().next()
    }

    /// Goes to the keyframe that is shown at or last before `at`, or to the first one; sound goes on from there.
    pub fn seek(&mut self, at: Duration) {
        let wanted = i128::try_from(at.as_nanos()).unwrap_or(i128::MAX);
        let movie = &self.movie;
        let mut from = wanted;
        if let Some(lane) = &mut self.video {
            let track = &movie.tracks[lane.track];
            let keys = track.samples.iter().enumerate().filter(|(_, sample)| sample.key);
            let shown = |sample: &Sample| nanos(track, movie, sample.dts + i64::from(sample.composition));
            let before = keys.clone().take_while(|(_, sample)| shown(sample) <= wanted).last();
            lane.next = before.or_else(|| keys.clone().next()).map_or(track.samples.len(), |(at, _)| at);
            from = track.samples.get(lane.next).map_or(wanted, |sample| nanos(track, movie, sample.dts));
            self.waits_for_key = true;
        }
        if let Some(lane) = &mut self.audio {
            let track = &movie.tracks[lane.track];
            lane.next = track.samples.partition_point(|sample| nanos(track, movie, sample.dts) < from);
        }
    }

    /// Whether it is in fragments, as a file that is being written: such a one may grow.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        self.movie.fragmented
    }

    /// Looks whether a file that is being written has grown.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub fn refresh(&mut self) -> Result<bool, VodError> {
        Ok(self.movie.fragmented && self.movie.read_fragments(&self.file)?)
    }

    /// The next unit; `None` at the end. `now` becomes its arrival. What cannot be read of a file that was damaged is passed over,
    /// up to the next keyframe.
    ///
    /// # Errors
    /// When the system does not read.
    pub fn next(&mut self, now: Instant) -> Result<Option<Due>, VodError> {
        loop {
            let due = |lane: &Option<Lane>| {
                let lane = lane.as_ref()?;
                let track = &self.movie.tracks[lane.track];
                track.samples.get(lane.next).map(|sample| nanos(track, &self.movie, sample.dts))
            };
            let is_video = match (due(&self.video), due(&self.audio)) {
                (None, None) => return Ok(None),
                (Some(video), Some(audio)) => video <= audio,
                (video, _) => video.is_some(),
            };
            let unit = if is_video { self.next_picture(now)? } else { self.next_sound(now)? };
            if unit.is_some() {
                return Ok(unit);
            }
        }
    }

    fn read(&self, sample: &Sample) -> Result<Option<Vec<u8>>, VodError> {
        if sample.size > SAMPLE_BYTES_MAX {
            return Ok(None);
        }
        match self.file.read(sample.offset, sample.size as usize) {
            Ok(bytes) => Ok(Some(bytes)),
            // The file was cut off while it is played.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(VodError::Read(error)),
        }
    }

    fn next_picture(&mut self, now: Instant) -> Result<Option<Due>, VodError> {
        let Some(lane) = &mut self.video else { return Ok(None) };
        let track = &self.movie.tracks[lane.track];
        let sample = track.samples[lane.next];
        lane.next += 1;
        let shift = track.shift(self.movie.timescale);
        let stamp = |ticks: i64| {
            Timestamp { ticks: ticks.saturating_add(shift), timescale: track.timescale }
                .rescale(VIDEO_TIMESCALE)
        };
        let dts = stamp(sample.dts);
        let pts = stamp(sample.dts.saturating_add(i64::from(sample.composition)));
        let at = from_zero(nanos(track, &self.movie, sample.dts));
        let codec = track.entries.get(usize::from(sample.entry)).map(Entry::codec);
        if self.waits_for_key && !sample.key {
            return Ok(None);
        }
        let Some(bytes) = self.read(&sample)? else { return self.damaged() };
        let Some(EntryCodec::H264 { sps, pps, length_bytes }) = codec else { return self.damaged() };
        if self.entry != Some(sample.entry) || sample.key {
            sps.iter().chain(&pps).for_each(|set| self.builder.push(set));
            self.entry = Some(sample.entry);
        }
        let mut rest = &bytes[..];
        while let Some((length, after)) = rest.split_at_checked(length_bytes).filter(|_| !rest.is_empty()) {
            let length = length.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte));
            let Some((nal, after)) = after.split_at_checked(length) else {
                self.builder.discard();
                return self.damaged();
            };
            if !nal.is_empty() {
                self.builder.push(nal);
            }
            rest = after;
        }
        let dts = Timestamp { ticks: dts.ticks.min(pts.ticks), ..dts };
        match self.builder.finish(UnitTimes { arrived: now, pts, dts }) {
            Ok(Some(unit)) if unit.key || !self.waits_for_key => {
                self.waits_for_key = false;
                let unit: Arc<AccessUnit> = Arc::new(unit);
                Ok(Some(Due { at, unit: MediaUnit::Video(unit) }))
            }
            Ok(_) => Ok(None),
            Err(_) => self.damaged(),
        }
    }

    /// A picture is missing: nothing is shown before the next keyframe.
    fn damaged(&mut self) -> Result<Option<Due>, VodError> {
        self.waits_for_key = true;
        Ok(None)
    }

    fn next_sound(&mut self, now: Instant) -> Result<Option<Due>, VodError> {
        let Some(lane) = &mut self.audio else { return Ok(None) };
        let track = &self.movie.tracks[lane.track];
        let sample = track.samples[lane.next];
        lane.next += 1;
        let Some(params) = lane.audio.get(usize::from(sample.entry)).cloned().flatten() else {
            return Ok(None);
        };
        let at = from_zero(nanos(track, &self.movie, sample.dts));
        let ticks = sample.dts.saturating_add(track.shift(self.movie.timescale));
        let pts = Timestamp { ticks, timescale: track.timescale }.rescale(params.sample_rate);
        let Some(bytes) = self.read(&sample)? else { return Ok(None) };
        let frame = AudioFrame { arrived: now, pts, params, data: Bytes::from(bytes) };
        Ok(Some(Due { at, unit: MediaUnit::Audio(Arc::new(frame)) }))
    }
}

/// A moment of a track on the movie's clock.
fn nanos(track: &Track, movie: &Movie, ticks: i64) -> i128 {
    let ticks = i128::from(ticks) + i128::from(track.shift(movie.timescale));
    ticks * 1_000_000_000 / i128::from(track.timescale.get())
}

fn from_zero(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
