//! A file as media units: what is played, and what a picture of a moment is decoded from.

use std::fs::File;
use std::num::NonZeroU32;
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
    /// When the last sample that was taken is due, in ns: from there on a file that was written anew is read.
    taken: Option<i128>,
    /// The first sample after all that is shown, where the file says that not all of it is.
    end: Option<usize>,
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
        let is_growing = self.movie.fragmented;
        let tracks = self.movie.tracks.iter().enumerate();
        for (at, track) in tracks.filter(|(_, track)| is_growing || !track.samples.is_empty()) {
            let lane = |audio| {
                let end = end_of(track, self.movie.timescale);
                Some(Lane { track: at, next: 0, taken: None, end, audio })
            };
            match track.kind {
                TrackKind::Video if self.video.is_none() => {
                    let is_h264 = |entry: &Entry| matches!(entry.codec(), EntryCodec::H264 { .. });
                    if !track.entries.is_empty() && track.entries.iter().all(is_h264) {
                        self.video = lane(Vec::new());
                        self.builder.set_rotation(track.rotation);
                    }
                }
                TrackKind::Audio if self.audio.is_none() => {
                    let params: Vec<_> = track.entries.iter().map(audio_of).collect();
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
            lane.taken = due_before(lane.next, track, movie);
            from = track.samples.get(lane.next).map_or(wanted, |sample| nanos(track, movie, sample.dts));
            self.waits_for_key = true;
        }
        if let Some(lane) = &mut self.audio {
            let track = &movie.tracks[lane.track];
            lane.next = track.samples.partition_point(|sample| nanos(track, movie, sample.dts) < from);
            lane.taken = due_before(lane.next, track, movie);
        }
    }

    /// Whether it is in fragments, as a file that is being written: such a one may grow.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        self.movie.fragmented
    }

    /// Looks whether a file that is being written has grown, or was completed.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub fn refresh(&mut self) -> Result<bool, VodError> {
        if !self.movie.fragmented {
            return Ok(false);
        }
        if self.movie.is_stale(&self.file)? {
            return self.reopen();
        }
        Ok(self.movie.read_fragments(&self.file)?)
    }

    /// Reads the index of a file anew that was written anew, and goes on behind what was taken; returns whether there is more.
    fn reopen(&mut self) -> Result<bool, VodError> {
        let movie = Movie::read(&self.file)?;
        let mut is_more = false;
        for lane in [&mut self.video, &mut self.audio].into_iter().flatten() {
            let before = &self.movie.tracks[lane.track];
            // The same track: what was promised to viewers stays.
            let found = movie.tracks.iter().position(|t| (t.id, t.kind) == (before.id, before.kind));
            let gone = || Mp4Error::Format("a track is gone".to_owned());
            lane.track = found.ok_or_else(gone)?;
            let track = &movie.tracks[lane.track];
            let is_taken = |s: &Sample| lane.taken.is_some_and(|taken| nanos(track, &movie, s.dts) <= taken);
            lane.next = track.samples.partition_point(is_taken);
            lane.end = end_of(track, movie.timescale);
            is_more |= lane.next < lane.end.unwrap_or(track.samples.len());
            if track.kind == TrackKind::Audio {
                lane.audio = track.entries.iter().map(audio_of).collect();
            }
        }
        self.movie = movie;
        self.entry = None;
        Ok(is_more)
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
                let is_shown = lane.end.is_none_or(|end| lane.next < end);
                let sample = track.samples.get(lane.next).filter(|_| is_shown);
                sample.map(|sample| nanos(track, &self.movie, sample.dts))
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

    /// The bytes of a sample; `None` for one that is not there, of a file that was cut off while it is played.
    fn read(&self, sample: &Sample) -> Result<Option<Vec<u8>>, VodError> {
        if sample.size > SAMPLE_BYTES_MAX {
            return Ok(None);
        }
        match self.file.read(sample.offset, sample.size as usize) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(VodError::Read(error)),
        }
    }

    /// Whether what was just read of a file in fragments may be something else than what the index says: looked at afterwards, so
    /// that nothing can happen between the look and the reading.
    fn was_moved(&self) -> Result<bool, VodError> {
        Ok(self.movie.fragmented && self.movie.is_stale(&self.file)?)
    }

    /// Reads the index of a file anew that was completed or changed while it was read; returns whether it was.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub(super) fn reopen_if_moved(&mut self) -> Result<bool, VodError> {
        let was_moved = self.was_moved()?;
        if was_moved {
            self.reopen()?;
        }
        Ok(was_moved)
    }

    /// Passes over samples that lie behind the end of a file that was cut off: one look at its size for all of them.
    fn skip_missing(&mut self, is_video: bool) -> Result<(), VodError> {
        let size = self.file.size().map_err(VodError::Read)?;
        let Some(lane) = (if is_video { &mut self.video } else { &mut self.audio }) else { return Ok(()) };
        let samples = &self.movie.tracks[lane.track].samples;
        let is_there = |s: &Sample| s.offset.checked_add(s.size.into()).is_some_and(|end| end <= size);
        let next = samples.iter().skip(lane.next).position(is_there);
        lane.next = next.map_or(samples.len(), |skipped| lane.next + skipped);
        Ok(())
    }

    fn next_picture(&mut self, now: Instant) -> Result<Option<Due>, VodError> {
        let Some(lane) = &mut self.video else { return Ok(None) };
        let (track, number) = (&self.movie.tracks[lane.track], lane.next);
        let sample = track.samples[number];
        let due = nanos(track, &self.movie, sample.dts);
        lane.next += 1;
        let taken = lane.taken.replace(due);
        if self.waits_for_key && !sample.key {
            return Ok(None);
        }
        let sampled = self.unit(number, now)?;
        if self.was_moved()? {
            if let Some(lane) = &mut self.video {
                lane.taken = taken;
            }
            self.reopen()?;
            return Ok(None);
        }
        let unit = match sampled {
            Sampled::Unit(unit) => unit,
            Sampled::Nothing => return Ok(None),
            Sampled::Missing => {
                self.waits_for_key = true;
                self.skip_missing(true)?;
                return Ok(None);
            }
            Sampled::Damaged => {
                self.waits_for_key = true;
                return Ok(None);
            }
        };
        if self.waits_for_key && !unit.key {
            return Ok(None);
        }
        self.waits_for_key = false;
        Ok(Some(Due { at: from_zero(due), unit: MediaUnit::Video(Arc::new(unit)) }))
    }

    /// The unit of a sample of the video track, whichever came before.
    fn unit(&mut self, number: usize, now: Instant) -> Result<Sampled, VodError> {
        let Some(lane) = &self.video else { return Ok(Sampled::Nothing) };
        let track = &self.movie.tracks[lane.track];
        let Some(sample) = track.samples.get(number).copied() else { return Ok(Sampled::Nothing) };
        let shift = track.shift(self.movie.timescale);
        let stamp = |ticks: i64| {
            Timestamp { ticks: ticks.saturating_add(shift), timescale: track.timescale }
                .rescale(VIDEO_TIMESCALE)
        };
        let dts = stamp(sample.dts);
        let pts = stamp(sample.dts.saturating_add(i64::from(sample.composition)));
        let Some(bytes) = self.read(&sample)? else { return Ok(Sampled::Missing) };
        let codec = track.entries.get(usize::from(sample.entry)).map(Entry::codec);
        let Some(EntryCodec::H264 { sps, pps, length_bytes }) = codec else { return Ok(Sampled::Damaged) };
        if self.entry != Some(sample.entry) || sample.key {
            sps.iter().chain(&pps).for_each(|set| self.builder.push(set));
            self.entry = Some(sample.entry);
        }
        let mut rest = &bytes[..];
        // Fewer bytes than a length behind the last unit are padding.
        while let Some((length, after)) = rest.split_at_checked(length_bytes).filter(|_| !rest.is_empty()) {
            let length = length.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte));
            let Some((nal, after)) = after.split_at_checked(length) else {
                self.builder.discard();
                return Ok(Sampled::Damaged);
            };
            if !nal.is_empty() {
                self.builder.push(nal);
            }
            rest = after;
        }
        let dts = Timestamp { ticks: dts.ticks.min(pts.ticks), ..dts };
        Ok(match self.builder.finish(UnitTimes { arrived: now, pts, dts }) {
            Ok(Some(unit)) => Sampled::Unit(unit),
            Ok(None) => Sampled::Nothing,
            Err(_) => Sampled::Damaged,
        })
    }

    fn next_sound(&mut self, now: Instant) -> Result<Option<Due>, VodError> {
        let Some(lane) = &mut self.audio else { return Ok(None) };
        let track = &self.movie.tracks[lane.track];
        let sample = track.samples[lane.next];
        let due = nanos(track, &self.movie, sample.dts);
        lane.next += 1;
        let taken = lane.taken.replace(due);
        let Some(params) = lane.audio.get(usize::from(sample.entry)).cloned().flatten() else {
            return Ok(None);
        };
        let ticks = sample.dts.saturating_add(track.shift(self.movie.timescale));
        let pts = Timestamp { ticks, timescale: track.timescale }.rescale(params.sample_rate);
        let read = self.read(&sample)?;
        if self.was_moved()? {
            if let Some(lane) = &mut self.audio {
                lane.taken = taken;
            }
            self.reopen()?;
            return Ok(None);
        }
        let Some(bytes) = read else {
            self.skip_missing(false)?;
            return Ok(None);
        };
        let frame = AudioFrame { arrived: now, pts, params, data: Bytes::from(bytes) };
        Ok(Some(Due { at: from_zero(due), unit: MediaUnit::Audio(Arc::new(frame)) }))
    }

    /// The picture that is shown at a moment of the movie; `None` where there are no pictures. Before the first picture is
    /// shown that one counts, and after the last one the last.
    pub(super) fn shown_at(&self, moment: Duration) -> Option<ShownPicture> {
        let lane = self.video.as_ref()?;
        let track = &self.movie.tracks[lane.track];
        let at = track.media_at(moment, self.movie.timescale);
        let shown = |sample: &Sample| sample.dts + i64::from(sample.composition);
        let all = || track.samples.iter().enumerate();
        let before =
            all().filter(|(_, sample)| shown(sample) <= at.ticks).max_by_key(|(n, s)| (shown(s), *n));
        let (sample, found) = before.or_else(|| all().min_by_key(|(_, sample)| shown(sample)))?;
        // How long it has been shown: since its own time, or since its part of the media began.
        let since = at.ticks.saturating_sub(shown(found).max(at.begins)).saturating_sub(at.lead);
        let nanos = i128::from(since) * 1_000_000_000 / i128::from(track.timescale.get());
        let moment = i128::try_from(moment.as_nanos()).unwrap_or(i128::MAX);
        Some(ShownPicture { sample, at: from_zero(moment.saturating_sub(nanos)) })
    }

    /// The last sample before `limit` that is marked as a keyframe and is shown no later than `sample`, which is decoded after it.
    pub(super) fn key_before(&self, sample: usize, limit: usize) -> Option<usize> {
        let samples = &self.movie.tracks[self.video.as_ref()?.track].samples;
        let shown = |sample: &Sample| sample.dts + i64::from(sample.composition);
        let latest = shown(samples.get(sample)?);
        samples.get(..limit)?.iter().rposition(|sample| sample.key && shown(sample) <= latest)
    }

    /// The unit of a sample for a decoder, which must have it: one that is missing or damaged is an error.
    /// `None`: there is no picture in it.
    ///
    /// # Errors
    /// [`VodError::Format`] for a sample that is damaged, [`VodError::Read`] when the system does not read.
    pub(super) fn unit_of(&mut self, sample: usize, now: Instant) -> Result<Option<AccessUnit>, VodError> {
        let sampled = self.unit(sample, now)?;
        if self.was_moved()? {
            return Err(VodError::Read(std::io::Error::other("the file is being written anew")));
        }
        match sampled {
            Sampled::Unit(unit) => Ok(Some(unit)),
            Sampled::Nothing => Ok(None),
            Sampled::Missing | Sampled::Damaged => {
                Err(VodError::Format(Mp4Error::Format(format!("sample {sample} is damaged"))))
            }
        }
    }
}

/// What a sample of the video track is.
enum Sampled {
    Unit(AccessUnit),
    /// No picture is in it.
    Nothing,
    /// It is not in the file.
    Missing,
    Damaged,
}

/// A picture of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShownPicture {
    /// Which sample of the video track it is.
    pub(super) sample: usize,
    /// Since when it is shown, from the beginning of the movie.
    pub(super) at: Duration,
}

fn audio_of(entry: &Entry) -> Option<Arc<AudioParams>> {
    match entry.codec() {
        EntryCodec::Audio(params) => Some(Arc::new(params)),
        _ => None,
    }
}

/// When the sample before this one is due.
fn due_before(next: usize, track: &Track, movie: &Movie) -> Option<i128> {
    let before = next.checked_sub(1).and_then(|before| track.samples.get(before));
    before.map(|sample| nanos(track, movie, sample.dts))
}

/// The first sample after all that are shown, where an edit list of one part ends before the media does.
fn end_of(track: &Track, movie_timescale: NonZeroU32) -> Option<usize> {
    let end = track.shown_end(movie_timescale).filter(|_| track.has_one_part())?;
    let shift = track.shift(movie_timescale);
    let is_shown = |s: &Sample| (s.dts + i64::from(s.composition)).saturating_add(shift) < end;
    Some(track.samples.iter().rposition(is_shown).map_or(0, |last| last + 1))
}

/// A moment of a track on the movie's clock.
fn nanos(track: &Track, movie: &Movie, ticks: i64) -> i128 {
    let ticks = i128::from(ticks) + i128::from(track.shift(movie.timescale));
    ticks * 1_000_000_000 / i128::from(track.timescale.get())
}

fn from_zero(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
