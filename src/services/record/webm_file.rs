//! Samples into a WebM file (Matroska, RFC 9559) that can be played at every moment: clusters of less than a second, each whole
//! before the next begins. In the end length, duration and places of keyframes are written into room that was kept at the head.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::ebml::{self, Element};
use super::mp4_file::WriteError;
use super::sample::{AudioSample, VideoSample};
use crate::media::track::{AudioCodec, AudioParams, Rotation, VideoParams};
use crate::services::mp4::{Mp4Error, OPUS_PRE_SKIP, ReadAt as _};

/// Where the first cluster begins.
const HEAD_BYTES: u64 = 64 * 1024;
/// Numbers of the tracks.
const VIDEO_TRACK: u64 = 1;
const AUDIO_TRACK: u64 = 2;
/// Most bytes of a cluster that is read back.
const CLUSTER_BYTES_MAX: u64 = 256 << 20;

/// A block that waits.
#[derive(Debug)]
struct Block {
    track: u64,
    /// In milliseconds of the file.
    at_ms: i64,
    key: bool,
    hidden: bool,
    data: bytes::Bytes,
}

/// A WebM file that is being written.
#[derive(Debug)]
pub(super) struct WebmFile {
    file: File,
    created: Duration,
    video: Option<Arc<VideoParams>>,
    audio: Option<Arc<AudioParams>>,
    waiting: Vec<Block>,
    /// The moment of the recording's clock at which the file begins, in ms.
    zero_ms: Option<i64>,
    is_head_written: bool,
    end: u64,
}

impl WebmFile {
    /// Begins a file; `created` is the wall clock since 1970.
    pub(super) fn new(file: File, created: Duration) -> Self {
        Self {
            file,
            created,
            video: None,
            audio: None,
            waiting: Vec::new(),
            zero_ms: None,
            is_head_written: false,
            end: HEAD_BYTES,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end + self.waiting.iter().map(|block| block.data.len() as u64).sum::<u64>()
    }

    pub(super) fn waiting(&self) -> Duration {
        let times = self.waiting.iter().map(|block| block.at_ms);
        let span = times.clone().max().unwrap_or(0) - times.min().unwrap_or(0);
        Duration::from_millis(span.unsigned_abs())
    }

    /// Takes a picture. The first one must be a keyframe. A change of size is in the frames themselves.
    pub(super) fn video(&mut self, sample: &VideoSample) -> Result<(), WriteError> {
        match &self.video {
            Some(params)
                if params.codec == sample.params.codec && params.rotation == sample.params.rotation => {}
            Some(_) => return Err(WriteError::NewFile),
            None if sample.params.codec != crate::media::track::VideoCodec::Vp8 => {
                return Err(WriteError::NewFile);
            }
            None => {
                self.video = Some(sample.params.clone());
                self.is_head_written = false;
            }
        }
        let at_ms = (sample.dts + sample.composition) / 90;
        self.push(Block {
            track: VIDEO_TRACK,
            at_ms,
            key: sample.key,
            hidden: sample.hidden,
            data: sample.data.clone(),
        })
    }

    /// Takes a frame of Opus.
    pub(super) fn audio(&mut self, sample: &AudioSample) -> Result<(), WriteError> {
        match &self.audio {
            Some(params) if **params == *sample.params => {}
            Some(_) => return Err(WriteError::NewFile),
            None if sample.params.codec != AudioCodec::Opus => return Err(WriteError::NewFile),
            None => {
                self.audio = Some(sample.params.clone());
                self.is_head_written = false;
            }
        }
        let at_ms = sample.dts * 1000 / i64::from(sample.params.sample_rate.get());
        self.push(Block { track: AUDIO_TRACK, at_ms, key: true, hidden: false, data: sample.data.clone() })
    }

    fn push(&mut self, block: Block) -> Result<(), WriteError> {
        // The time of a block is told in 16 bits from its cluster's.
        let far = self.waiting.first().is_some_and(|first| (block.at_ms - first.at_ms).abs() > 20_000);
        if far {
            self.flush()?;
        }
        self.waiting.push(block);
        Ok(())
    }

    /// Writes what waits as one cluster.
    pub(super) fn flush(&mut self) -> Result<(), WriteError> {
        let Some(first) = self.waiting.iter().map(|block| block.at_ms).min() else { return Ok(()) };
        let zero = *self.zero_ms.get_or_insert(first);
        if !self.is_head_written {
            self.file.write_all_at(&self.head(None)?, 0)?;
            self.is_head_written = true;
        }
        self.waiting.sort_by_key(|block| block.at_ms);
        let base = (first - zero).max(0);
        let mut body = Element::uint(ebml::TIMESTAMP, base.unsigned_abs());
        for block in &self.waiting {
            let relative = i16::try_from((block.at_ms - zero).max(0) - base).unwrap_or(i16::MAX);
            let flags = u8::from(block.key) << 7 | u8::from(block.hidden) << 3;
            let mut simple = vec![0x80 | block.track as u8];
            simple.extend_from_slice(&relative.to_be_bytes());
            simple.push(flags);
            simple.extend_from_slice(&block.data);
            body.extend(Element::binary(ebml::SIMPLE_BLOCK, &simple));
        }
        let cluster = Element::binary(ebml::CLUSTER, &body);
        self.file.write_all_at(&cluster, self.end)?;
        self.end += cluster.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The head, filled up to [`HEAD_BYTES`].
    fn head(&self, end: Option<&End>) -> Result<Vec<u8>, Mp4Error> {
        let mut tracks = Vec::new();
        if let Some(params) = &self.video {
            tracks.extend(video_track(params));
        }
        if let Some(params) = &self.audio {
            tracks.extend(audio_track(params));
        }
        head(&info(self.created, end.map(|end| end.duration)), &Element::binary(ebml::TRACKS, &tracks), end)
    }

    /// Writes what waits and finishes the file.
    pub(super) fn finish(mut self) -> Result<Duration, WriteError> {
        self.flush()?;
        Ok(finish(&self.file)?)
    }
}

/// What is known of a file in the end.
struct End {
    duration: Duration,
    size: u64,
    /// Time in ms and place of the clusters that begin with a keyframe.
    cues: Vec<(u64, u64)>,
}

fn info(created: Duration, duration: Option<Duration>) -> Vec<u8> {
    // Matroska counts nanoseconds from the year 2001.
    let since_2001 = i64::try_from(created.as_nanos()).unwrap_or(i64::MAX) - 978_307_200 * 1_000_000_000;
    let mut info = Element::uint(ebml::TIMESTAMP_SCALE, 1_000_000);
    info.extend(Element::binary(ebml::MUXING_APP, b"stillcast"));
    info.extend(Element::binary(ebml::WRITING_APP, b"stillcast"));
    info.extend(Element::binary(ebml::DATE_UTC, &since_2001.to_be_bytes()));
    if let Some(duration) = duration {
        let ms = duration.as_secs_f64() * 1000.0;
        info.extend(Element::binary(ebml::DURATION, &ms.to_be_bytes()));
    }
    Element::binary(ebml::INFO, &info)
}

fn video_track(params: &VideoParams) -> Vec<u8> {
    let mut video = Element::uint(ebml::PIXEL_WIDTH, u64::from(params.width));
    video.extend(Element::uint(ebml::PIXEL_HEIGHT, u64::from(params.height)));
    let roll: f32 = match params.rotation {
        Rotation::None => 0.0,
        // Counted against the clock (RFC 9559 section 5.1.4.1.28.46).
        Rotation::Cw90 => -90.0,
        Rotation::Cw180 => 180.0,
        Rotation::Cw270 => 90.0,
    };
    if roll != 0.0 {
        let mut projection = Element::uint(ebml::PROJECTION_TYPE, 0);
        projection.extend(Element::binary(ebml::PROJECTION_ROLL, &roll.to_be_bytes()));
        video.extend(Element::binary(ebml::PROJECTION, &projection));
    }
    let mut track = Element::uint(ebml::TRACK_NUMBER, VIDEO_TRACK);
    track.extend(Element::uint(ebml::TRACK_UID, VIDEO_TRACK));
    track.extend(Element::uint(ebml::TRACK_TYPE, 1));
    track.extend(Element::uint(ebml::FLAG_LACING, 0));
    track.extend(Element::binary(ebml::CODEC_ID, b"V_VP8"));
    track.extend(Element::binary(ebml::VIDEO, &video));
    Element::binary(ebml::TRACK_ENTRY, &track)
}

fn audio_track(params: &AudioParams) -> Vec<u8> {
    let mut audio = Element::binary(ebml::SAMPLING_FREQUENCY, &48_000_f64.to_be_bytes());
    audio.extend(Element::uint(ebml::CHANNELS, u64::from(params.channels)));
    // The head of Opus in Ogg (RFC 7845 section 5.1).
    let mut private = b"OpusHead\x01".to_vec();
    private.push(params.channels);
    private.extend_from_slice(&OPUS_PRE_SKIP.to_le_bytes());
    private.extend_from_slice(&48_000_u32.to_le_bytes());
    private.extend_from_slice(&[0, 0, 0]);
    let mut track = Element::uint(ebml::TRACK_NUMBER, AUDIO_TRACK);
    track.extend(Element::uint(ebml::TRACK_UID, AUDIO_TRACK));
    track.extend(Element::uint(ebml::TRACK_TYPE, 2));
    track.extend(Element::uint(ebml::FLAG_LACING, 0));
    track.extend(Element::binary(ebml::CODEC_ID, b"A_OPUS"));
    track.extend(Element::binary(ebml::CODEC_PRIVATE, &private));
    track.extend(Element::uint(ebml::CODEC_DELAY, u64::from(OPUS_PRE_SKIP) * 1_000_000_000 / 48_000));
    track.extend(Element::uint(ebml::SEEK_PRE_ROLL, 80_000_000));
    track.extend(Element::binary(ebml::AUDIO, &audio));
    Element::binary(ebml::TRACK_ENTRY, &track)
}

/// The file's head and the segment's, with what belongs before the first cluster, padded.
fn head(info: &[u8], tracks: &[u8], end: Option<&End>) -> Result<Vec<u8>, Mp4Error> {
    let mut bytes = ebml_head();
    bytes.extend_from_slice(ebml::SEGMENT);
    let start = bytes.len() as u64 + 8;
    bytes.extend_from_slice(&match end {
        Some(end) => ebml::size_in_eight(end.size - start),
        None => ebml::UNKNOWN_SIZE,
    });
    bytes.extend_from_slice(info);
    bytes.extend_from_slice(tracks);
    let room = (HEAD_BYTES as usize).checked_sub(bytes.len() + 16).ok_or(Mp4Error::TooLarge("head"))?;
    if let Some(end) = end {
        bytes.extend(cues(end, start, room));
    }
    let left = HEAD_BYTES as usize - bytes.len();
    bytes.extend(ebml::void(left));
    Ok(bytes)
}

fn ebml_head() -> Vec<u8> {
    let mut head = Element::uint(&[0x42, 0x86], 1);
    head.extend(Element::uint(&[0x42, 0xF7], 1));
    head.extend(Element::uint(&[0x42, 0xF2], 4));
    head.extend(Element::uint(&[0x42, 0xF3], 8));
    head.extend(Element::binary(&[0x42, 0x82], b"webm"));
    head.extend(Element::uint(&[0x42, 0x87], 4));
    head.extend(Element::uint(&[0x42, 0x85], 2));
    Element::binary(&[0x1A, 0x45, 0xDF, 0xA3], &head)
}

/// Places of keyframes, as many as there is room for, evenly.
fn cues(end: &End, start: u64, room: usize) -> Vec<u8> {
    let point = |(time, place): &(u64, u64)| {
        let mut position = Element::uint(&[0xF7], VIDEO_TRACK);
        position.extend(Element::uint(&[0xF1], place - start));
        let mut point = Element::uint(&[0xB3], *time);
        point.extend(Element::binary(&[0xB7], &position));
        Element::binary(&[0xBB], &point)
    };
    // A point takes less than this.
    const POINT_BYTES: usize = 40;
    let fits = (room / POINT_BYTES).saturating_sub(1).max(1);
    let step = end.cues.len().div_ceil(fits).max(1);
    let points: Vec<u8> = end.cues.iter().step_by(step).flat_map(point).collect();
    if points.is_empty() { Vec::new() } else { Element::binary(ebml::CUES, &points) }
}

/// Tells length, duration and keyframes of a file that was written in clusters, whole or cut off.
pub(super) fn finish(file: &File) -> Result<Duration, Mp4Error> {
    let wrong = |what: &str| Mp4Error::Format(what.to_owned());
    let size = file.size()?;
    if size <= HEAD_BYTES {
        return Err(wrong("nothing is recorded in it"));
    }
    let old = file.read(0, HEAD_BYTES as usize)?;
    let prefix = ebml_head();
    let after = old.strip_prefix(&prefix[..]).and_then(|rest| rest.strip_prefix(ebml::SEGMENT));
    let children = after.and_then(|rest| rest.get(8..)).ok_or_else(|| wrong("it was not written here"))?;
    let child = |id: &[u8]| ebml::children(children).find(|(found, _)| *found == id).map(|(_, body)| body);
    let tracks = child(ebml::TRACKS).ok_or_else(|| wrong("no tracks"))?;
    let info = child(ebml::INFO).ok_or_else(|| wrong("no head"))?;
    let (mut at, mut cues, mut last_ms, mut span_ms) = (HEAD_BYTES, Vec::new(), 0, 0);
    while at + 12 <= size {
        let head = file.read(at, 12)?;
        let Some((ebml::CLUSTER, length, head_bytes)) = ebml::element_head(&head) else { break };
        let end = at.saturating_add(head_bytes as u64).saturating_add(length);
        if end > size || length > CLUSTER_BYTES_MAX {
            break;
        }
        let body = file.read(at + head_bytes as u64, usize::try_from(length).unwrap_or(usize::MAX))?;
        let mut base = 0;
        let mut is_key = None;
        for (id, body) in ebml::children(&body) {
            if id == ebml::TIMESTAMP {
                base = body.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            } else if let (ebml::SIMPLE_BLOCK, [track, t0, t1, flags, ..]) = (id, body) {
                let relative = i16::from_be_bytes([*t0, *t1]);
                let time = base.saturating_add_signed(i64::from(relative));
                if u64::from(track & 0x7F) == VIDEO_TRACK && is_key.is_none() {
                    is_key = Some((flags & 0x80 != 0, time));
                }
                span_ms = if time > last_ms { time - last_ms } else { span_ms };
                last_ms = last_ms.max(time);
            }
        }
        // A player begins at a cluster, whose first picture must be a keyframe.
        if let Some((true, time)) = is_key {
            cues.push((time, at));
        }
        at = end;
    }
    if at == HEAD_BYTES {
        return Err(wrong("nothing is recorded in it"));
    }
    if size > at {
        file.set_len(at)?;
    }
    // The last frame lasts as long as the one before it, about.
    let duration = Duration::from_millis(last_ms + span_ms.min(100));
    let end = End { duration, size: at, cues };
    let mut kept: Vec<u8> = Vec::new();
    for (id, body) in ebml::children(info).filter(|(id, _)| *id != ebml::DURATION) {
        kept.extend(Element::binary(id, body));
    }
    kept.extend(Element::binary(ebml::DURATION, &(duration.as_secs_f64() * 1000.0).to_be_bytes()));
    let bytes =
        head(&Element::binary(ebml::INFO, &kept), &Element::binary(ebml::TRACKS, tracks), Some(&end))?;
    file.write_all_at(&bytes, 0)?;
    Ok(duration)
}

impl From<io::ErrorKind> for WriteError {
    fn from(kind: io::ErrorKind) -> Self {
        io::Error::from(kind).into()
    }
}
