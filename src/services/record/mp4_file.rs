//! Samples into an MP4 file that can be played at every moment.
//!
//! ```text
//! while it is written:   ftyp moov free(room)        moof mdat  moof mdat  …
//! when it is finished:   ftyp free moov(index) free  mdat( moof mdat  moof mdat  … )
//! ```
//!
//! Samples are written in fragments of less than a second, each whole before the next begins, so that a file which was
//! cut off anywhere plays up to its last whole fragment. In the end an ordinary index is made of what stands in the file and
//! written into the room at the head, where it is no part of anything yet; one write of eight bytes then puts it in force
//! and the fragments' heads out of sight. So finishing reads the fragments' heads and writes the index, whatever the file's
//! length, and finishing a recording and repairing what a crash left are one and the same ([`finish`]).
//!
//! Where the room is too small the file system is asked to make more (`FALLOC_FL_INSERT_RANGE`), which moves nothing; where it
//! cannot, the index goes to the end.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};

use super::sample::{AudioSample, VideoSample};
use crate::media::time::VIDEO_TIMESCALE;
use crate::media::track::{AudioParams, Rotation, VideoParams};
use crate::services::mp4::{
    Entry, FragmentSample, FragmentTrack, Movie, Mp4Error, NewTrack, OPUS_PRE_SKIP, ReadAt as _, TrackKind,
    fragment, head, index,
};

/// Where the first fragment begins: the room before it holds the index of some minutes. It is a hole in the file until then.
const HEAD_BYTES: u64 = 128 * 1024;
/// The head is written anew in one piece, which a page is and more is not.
const HEAD_WRITE_MAX: usize = 4096;
/// Head of the `mdat` around all fragments, with a size of 64 bits.
const OUTER_HEAD: u64 = 16;
/// Room is inserted in multiples of this: no file system in use has larger blocks.
const INSERT_STEP: u64 = 64 * 1024;
/// Track numbers.
/// Bytes of a small box's head: its length and its type.
const BOX_HEAD_BYTES: usize = 8;
const VIDEO_ID: u32 = 1;
const AUDIO_ID: u32 = 2;

/// Why a sample was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// It does not fit to what is in this file: it is the first of another one.
    #[error("the stream has changed")]
    NewFile,
    /// It could not be written.
    #[error(transparent)]
    File(#[from] Mp4Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::File(error.into())
    }
}

/// What was declared of a track, and what of it waits to be written.
#[derive(Debug)]
struct Pending {
    new: NewTrack,
    /// Decoding time of its first sample on the recording's clock, in ticks of the track: the origin of its media.
    origin: i64,
    samples: Vec<FragmentSample>,
    data: Vec<Bytes>,
    /// Of the first waiting sample, from the origin.
    dts: i64,
    /// The decoding time after the last sample, on the recording's clock.
    next: i64,
    entry: u16,
}

/// An MP4 file that is being written.
#[derive(Debug)]
pub(super) struct Mp4File {
    file: File,
    created: Duration,
    video: Option<Pending>,
    audio: Option<Pending>,
    /// The parameters of each entry of the video track.
    video_params: Vec<Arc<VideoParams>>,
    audio_params: Option<Arc<AudioParams>>,
    /// The moment of the recording's clock at which the file begins, in video ticks; known when the head is written.
    zero: Option<i64>,
    /// The head on disk says all that is declared.
    is_head_written: bool,
    sequence: u32,
    end: u64,
}

impl Mp4File {
    /// Begins a file; `created` is the wall clock since 1970.
    pub(super) fn new(file: File, created: Duration) -> Self {
        Self {
            file,
            created,
            video: None,
            audio: None,
            video_params: Vec::new(),
            audio_params: None,
            zero: None,
            is_head_written: false,
            sequence: 0,
            end: HEAD_BYTES,
        }
    }

    /// Bytes so far, those that wait included.
    pub(super) fn bytes(&self) -> u64 {
        let waiting = [&self.video, &self.audio].into_iter().flatten().flat_map(|track| &track.data);
        self.end + waiting.map(|data| data.len() as u64).sum::<u64>()
    }

    /// Media that waits to be written.
    pub(super) fn waiting(&self) -> Duration {
        let of = |track: &Pending| {
            let ticks = (track.next - track.origin - track.dts).max(0).unsigned_abs();
            let none = track.samples.is_empty();
            let nanos = ticks.saturating_mul(1_000_000_000) / u64::from(track.new.timescale.get());
            if none { Duration::ZERO } else { Duration::from_nanos(nanos) }
        };
        [&self.video, &self.audio].into_iter().flatten().map(of).max().unwrap_or_default()
    }

    /// Takes a picture. The first one must be a keyframe.
    pub(super) fn video(&mut self, sample: &VideoSample) -> Result<(), WriteError> {
        let entry = self.video_entry(sample)?;
        let composition = i32::try_from(sample.composition).unwrap_or(0);
        if self.video.as_ref().is_some_and(|track| track.entry != entry && !track.samples.is_empty()) {
            self.flush()?;
        }
        let Some(track) = &mut self.video else { return Err(WriteError::NewFile) };
        track.entry = entry;
        let sets = if sample.key { parameter_sets(&sample.params) } else { Bytes::new() };
        let size =
            u32::try_from(sample.data.len() + sets.len()).map_err(|_| Mp4Error::TooLarge("picture"))?;
        track.push(sample.dts, sample.duration, size, composition, sample.key);
        track.data.push(sets);
        track.data.push(sample.data.clone());
        Ok(())
    }

    /// The entry for a picture; declares the track or another entry of it where the picture needs one.
    fn video_entry(&mut self, sample: &VideoSample) -> Result<u16, WriteError> {
        let known = self
            .video_params
            .iter()
            .position(|params| Arc::ptr_eq(params, &sample.params) || params.same_coding(&sample.params));
        if self.video.as_ref().is_some_and(|track| track.new.rotation != sample.params.rotation) {
            return Err(WriteError::NewFile);
        }
        if let Some(known) = known {
            return Ok(u16::try_from(known).unwrap_or(u16::MAX));
        }
        let entry = Entry::of_video(&sample.params)?.ok_or(WriteError::NewFile)?;
        match &mut self.video {
            Some(track) => {
                track.new.entries.push(entry);
                if self.head()?.len() > HEAD_WRITE_MAX {
                    return Err(WriteError::NewFile);
                }
            }
            None => {
                let track = Pending::new(VIDEO_ID, TrackKind::Video, VIDEO_TIMESCALE, entry, sample.dts);
                let media_time = u64::try_from(sample.composition).unwrap_or(0);
                let new = NewTrack { rotation: sample.params.rotation, media_time, ..track.new };
                self.video = Some(Pending { new, ..track });
                self.begin_late(VIDEO_ID);
            }
        }
        self.is_head_written = false;
        self.video_params.push(sample.params.clone());
        Ok(u16::try_from(self.video_params.len() - 1).unwrap_or(u16::MAX))
    }

    /// Takes a frame of sound of a codec that has an entry.
    pub(super) fn audio(&mut self, sample: &AudioSample) -> Result<(), WriteError> {
        match &self.audio_params {
            Some(params) if Arc::ptr_eq(params, &sample.params) || **params == *sample.params => {}
            Some(_) => return Err(WriteError::NewFile),
            None => {
                let entry = Entry::of_audio(&sample.params).ok_or(WriteError::NewFile)?;
                let track =
                    Pending::new(AUDIO_ID, TrackKind::Audio, sample.params.sample_rate, entry, sample.dts);
                let is_opus = sample.params.codec == crate::media::track::AudioCodec::Opus;
                let media_time = if is_opus { u64::from(OPUS_PRE_SKIP) } else { 0 };
                self.audio = Some(Pending { new: NewTrack { media_time, ..track.new }, ..track });
                self.audio_params = Some(sample.params.clone());
                self.is_head_written = false;
                self.begin_late(AUDIO_ID);
            }
        }
        let size = u32::try_from(sample.data.len()).map_err(|_| Mp4Error::TooLarge("frame of sound"))?;
        if let Some(track) = &mut self.audio {
            track.push(sample.dts, sample.duration, size, 0, true);
            track.data.push(sample.data.clone());
        }
        Ok(())
    }

    /// Places a track that comes when the file has begun.
    fn begin_late(&mut self, id: u32) {
        let Some(zero) = self.zero else { return };
        let track = if id == VIDEO_ID { &mut self.video } else { &mut self.audio };
        if let Some(track) = track {
            track.begin(zero);
        }
    }

    fn tracks(&self) -> impl Iterator<Item = &Pending> {
        [&self.video, &self.audio].into_iter().flatten()
    }

    fn head(&self) -> Result<Vec<u8>, Mp4Error> {
        let tracks: Vec<_> = self.tracks().map(|track| track.new.clone()).collect();
        let mut bytes = head(self.created, &tracks)?;
        let room = HEAD_BYTES - bytes.len() as u64;
        bytes.extend_from_slice(&u32::try_from(room).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(b"free");
        Ok(bytes)
    }

    /// Writes what waits as one fragment.
    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        if self.tracks().all(|track| track.samples.is_empty()) {
            return Ok(());
        }
        if self.zero.is_none() {
            let zero = self.tracks().map(Pending::shown_from).min().unwrap_or(0);
            self.zero = Some(zero);
            for track in [&mut self.video, &mut self.audio].into_iter().flatten() {
                track.begin(zero);
            }
        }
        if !self.is_head_written {
            let head = self.head()?;
            if head.len() > HEAD_WRITE_MAX {
                return Err(WriteError::NewFile);
            }
            self.file.write_all_at(&head, 0)?;
            if self.sequence == 0 {
                self.file.set_len(HEAD_BYTES)?;
            }
            self.is_head_written = true;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let waiting: Vec<_> = self.tracks().filter(|track| !track.samples.is_empty()).collect();
        let parts: Vec<_> = waiting
            .iter()
            .map(|track| FragmentTrack {
                id: track.new.id,
                entry: track.entry,
                dts: u64::try_from(track.dts).unwrap_or(0),
                samples: &track.samples,
            })
            .collect();
        let mut bytes = fragment(self.sequence, &parts)?;
        bytes.reserve(waiting.iter().flat_map(|track| &track.data).map(Bytes::len).sum());
        waiting.iter().flat_map(|track| &track.data).for_each(|data| bytes.extend_from_slice(data));
        // A process that is killed leaves a large write cut off in its middle. So the head of the first box goes last: without it
        // there is a box of no type that reaches to the end of the file (ISO/IEC 14496-12 section 4.2), which all readers pass over.
        let (head, rest) = bytes.split_at(BOX_HEAD_BYTES);
        self.file.write_all_at(rest, self.end + BOX_HEAD_BYTES as u64)?;
        self.file.write_all_at(head, self.end)?;
        self.end += bytes.len() as u64;
        for track in [&mut self.video, &mut self.audio].into_iter().flatten() {
            track.samples.clear();
            track.data.clear();
        }
        Ok(())
    }

    /// Writes what waits and finishes the file.
    pub(super) fn finish(mut self) -> Result<Duration, WriteError> {
        self.flush()?;
        Ok(finish(&self.file)?)
    }
}

impl Pending {
    fn new(id: u32, kind: TrackKind, timescale: NonZeroU32, entry: Entry, origin: i64) -> Self {
        let new = NewTrack {
            id,
            kind,
            timescale,
            entries: vec![entry],
            rotation: Rotation::None,
            begins: 0,
            media_time: 0,
        };
        Self { new, origin, samples: Vec::new(), data: Vec::new(), dts: 0, next: origin, entry: 0 }
    }

    /// When the first of it is shown, on the recording's clock in video ticks. What an encoder of sound looked ahead is not
    /// shown, and its first frame is late by as much.
    fn shown_from(&self) -> i64 {
        let in_track = match self.new.kind {
            TrackKind::Video => self.origin + i64::try_from(self.new.media_time).unwrap_or(0),
            _ => self.origin,
        };
        rescale(in_track, self.new.timescale, VIDEO_TIMESCALE)
    }

    /// Says when the track begins in a file that begins at `zero`. What comes before that is not shown.
    fn begin(&mut self, zero: i64) {
        let begins = self.shown_from() - zero;
        self.new.begins = u64::try_from(begins).unwrap_or(0);
        let early = rescale((-begins).max(0), VIDEO_TIMESCALE, self.new.timescale);
        self.new.media_time += u64::try_from(early).unwrap_or(0);
    }

    fn push(&mut self, dts: i64, duration: u32, size: u32, composition: i32, key: bool) {
        let from_origin = (dts - self.origin).max(0);
        match self.samples.last_mut() {
            // Time between two samples is the former's: so it stays right whatever was guessed of it.
            Some(last) => {
                let last_dts = self.next - self.origin - i64::from(last.duration);
                last.duration = u32::try_from((from_origin - last_dts).max(0)).unwrap_or(u32::MAX);
            }
            None => self.dts = from_origin,
        }
        self.samples.push(FragmentSample { duration, size, composition, key });
        self.next = self.origin + from_origin + i64::from(duration);
    }
}

/// Parameter sets as NAL units after their lengths. They stand before each keyframe although the entry has them too: players that
/// do not follow a change of entry follow these.
fn parameter_sets(params: &VideoParams) -> Bytes {
    let Some((sps, pps)) = params.codec.h264_sets() else { return Bytes::new() };
    let mut bytes = Vec::new();
    for set in sps.iter().chain(pps) {
        bytes.extend_from_slice(&u32::try_from(set.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(set);
    }
    bytes.into()
}

/// Ticks of one clock in those of another, to the nearest.
pub(super) fn rescale(ticks: i64, from: NonZeroU32, to: NonZeroU32) -> i64 {
    let (from, to) = (i128::from(from.get()), i128::from(to.get()));
    let wide = (i128::from(ticks) * to * 2 + from).div_euclid(from * 2);
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

/// Makes an ordinary file of one that was written in fragments, whole or cut off; returns its duration. A finished one is left
/// as it is.
pub(super) fn finish(file: &File) -> Result<Duration, Mp4Error> {
    let mut movie = Movie::read(file)?;
    if movie.fragmented && movie.first_moof_offset().is_none() && close_gap(file)? {
        movie = Movie::read(file)?;
    }
    let duration = movie.duration();
    if !movie.fragmented {
        return Ok(duration);
    }
    let Some(first) = movie.first_moof_offset() else {
        return Err(Mp4Error::Format("nothing is recorded in it".to_owned()));
    };
    if file.size()? > movie.end {
        // The last fragment is not whole.
        file.set_len(movie.end)?;
    }
    let old = movie.index_at();
    let place = old.end() + 8;
    let room = first.checked_sub(OUTER_HEAD + 8).and_then(|end| end.checked_sub(place));
    let room = room.ok_or_else(|| Mp4Error::Format("it was not written here".to_owned()))?;
    let bytes = index(&movie, 0)?;
    if bytes.len() as u64 <= room {
        return put_index(file, &movie, place, &bytes, first, movie.end).map(|()| duration);
    }
    // Offsets of 64 bits may be needed then, hence the margin.
    let missing = bytes.len() as u64 - room + bytes.len() as u64 / 4;
    let inserted = missing.next_multiple_of(INSERT_STEP);
    drop(bytes);
    let bytes = index(&movie, inserted)?;
    let is_movable = old.end() == first - u64::from(read_u32(file, old.end())?);
    if is_movable
        && bytes.len() as u64 <= room + inserted
        && fallocate(file, FallocateFlags::INSERT_RANGE, first, inserted).is_ok()
    {
        write_u32(file, old.end(), first + inserted - old.end())?;
        let (first, end) = (first + inserted, movie.end + inserted);
        return put_index(file, &movie, place, &bytes, first, end).map(|()| duration);
    }
    let bytes = index(&movie, 0)?;
    file.write_all_at(&bytes, movie.end)?;
    write_outer(file, first, movie.end)?;
    file.sync_data()?;
    hide(file, &movie, first - OUTER_HEAD)?;
    Ok(duration)
}

/// Puts the index in force.
fn put_index(
    file: &File,
    movie: &Movie,
    place: u64,
    bytes: &[u8],
    first: u64,
    end: u64,
) -> Result<(), Mp4Error> {
    file.write_all_at(bytes, place)?;
    let after = place + bytes.len() as u64;
    write_u32(file, after, first - OUTER_HEAD - after)?;
    file.write_all_at(b"free", after + 4)?;
    write_outer(file, first, end)?;
    // Not before all that it puts in force is on the disk: a power failure may come between any two writes.
    file.sync_data()?;
    hide(file, movie, place)
}

/// The head of the `mdat` around all fragments.
fn write_outer(file: &File, first: u64, end: u64) -> Result<(), Mp4Error> {
    let start = first - OUTER_HEAD;
    let mut bytes = [0, 0, 0, 1, b'm', b'd', b'a', b't', 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[8..].copy_from_slice(&(end - start).to_be_bytes());
    Ok(file.write_all_at(&bytes, start)?)
}

/// Makes free room of the index of fragments, up to `end`.
fn hide(file: &File, movie: &Movie, end: u64) -> Result<(), Mp4Error> {
    let start = movie.index_at().offset;
    let size = u32::try_from(end - start).map_err(|_| Mp4Error::TooLarge("head"))?;
    let mut bytes = [0, 0, 0, 0, b'f', b'r', b'e', b'e'];
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    Ok(file.write_all_at(&bytes, start)?)
}

fn write_u32(file: &File, offset: u64, value: u64) -> Result<(), Mp4Error> {
    let value = u32::try_from(value).map_err(|_| Mp4Error::TooLarge("head"))?;
    Ok(file.write_all_at(&value.to_be_bytes(), offset)?)
}

fn read_u32(file: &File, offset: u64) -> Result<u32, Mp4Error> {
    let mut bytes = [0; 4];
    crate::services::mp4::ReadAt::read_exact_at(file, offset, &mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Room was inserted, and the process was killed before the box around it was told: finds the first fragment behind the
/// zeros. Returns whether anything was to be done.
fn close_gap(file: &File) -> Result<bool, Mp4Error> {
    let old = Movie::read(file)?.index_at();
    let size = file.size()?;
    let mut at = HEAD_BYTES;
    while at + 8 <= size && read_u32(file, at)? == 0 && read_u32(file, at + 4)? == 0 {
        at += INSERT_STEP;
    }
    if at == HEAD_BYTES || at + 8 > size || read_u32(file, at + 4)? != u32::from_be_bytes(*b"moof") {
        return Ok(false);
    }
    write_u32(file, old.end(), at - old.end())?;
    Ok(true)
}
