//! Audio and video messages in, access units and frames of sound out. The same for encoders that publish into us and
//! for servers from which we pull.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::amf0::Value;
use super::flv::{self, AudioTag, TagError, VideoTag};
use super::timeline::{Timeline, Track};
use crate::media::aac;
use crate::media::h264::assemble::{UnitBuilder, UnitError, UnitTimes};
use crate::media::h264::decoder_config::DecoderConfig;
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams};
use crate::media::unit::{AccessUnit, AudioFrame};

/// When sound has come for so long and no picture, and nothing announced one, there are none.
const SOUND_ALONE: Duration = Duration::from_secs(2);
/// Ticks of the video clock in a millisecond.
const TICKS_PER_MS: i64 = 90;
/// Samples a second of Opus (RFC 7845 section 4) and of G.711.
const OPUS_RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();
const G711_RATE: NonZeroU32 = NonZeroU32::new(8000).unwrap();
/// Length of NAL units' lengths while no sequence header said it.
const LENGTH_BYTES_USUAL: usize = 4;

/// What comes out of a [`MediaReader`].
#[derive(Clone, Debug)]
pub enum MediaOutput {
    /// A coded picture. The first, and the first after a gap, is a keyframe; decoding times never run backwards.
    Video(AccessUnit),
    /// A frame of sound.
    Audio(AudioFrame),
    /// What the sound will be, known before its first frame.
    AudioParams(Arc<AudioParams>),
    /// Which tracks there are, as far as that is known by now; told when it changes.
    Tracks {
        /// Pictures come, or are announced.
        video: bool,
        /// Likewise sound.
        audio: bool,
    },
    /// A picture was damaged: nothing can be decoded before the next keyframe.
    Gap,
    /// Something could not be used and was left out; the kind under which it is counted, and why.
    Damaged(&'static str, String),
    /// The pictures or the sound are of a kind that is not taken. Sound that is not taken is told once and left out;
    /// pictures that are not taken end the publication.
    Unsupported {
        /// The pictures rather than the sound.
        is_video: bool,
        /// Which kind.
        error: TagError,
    },
}

/// Reads the media of one publication.
#[derive(Debug)]
pub struct MediaReader {
    pixels_max: u64,
    builder: UnitBuilder,
    length_bytes: usize,
    timeline: Timeline,
    /// Nothing can be decoded before the next keyframe.
    waits_for_key: bool,
    /// Some encoders write a PTS before its DTS; all are moved by the largest difference seen.
    composition_shift_ms: i64,
    audio: Option<Arc<AudioParams>>,
    audio_refused: bool,
    first_audio: Option<Instant>,
    saw_video: bool,
    told: Option<(bool, bool)>,
    announced: Option<(bool, bool)>,
}

impl MediaReader {
    /// A reader that refuses pictures of more than `pixels_max` pixels.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self {
            pixels_max,
            builder: UnitBuilder::new(pixels_max),
            length_bytes: LENGTH_BYTES_USUAL,
            timeline: Timeline::default(),
            waits_for_key: true,
            composition_shift_ms: 0,
            audio: None,
            audio_refused: false,
            first_audio: None,
            saw_video: false,
            told: None,
            announced: None,
        }
    }

    /// Takes the values of a data message: `onMetaData`, wrapped in `@setDataFrame` or not, announces tracks.
    pub fn metadata(&mut self, values: &[Value], out: &mut VecDeque<MediaOutput>) {
        let names = values.iter().filter_map(Value::as_str);
        if !names.into_iter().any(|name| name == "onMetaData") {
            return;
        }
        let has = |name: &str| values.iter().any(|value| value.get(name).is_some());
        let (video, audio) = (has("videocodecid") || has("width"), has("audiocodecid"));
        if video || audio {
            self.announced = Some((video, audio));
            self.tell_tracks(out);
        }
    }

    fn tell_tracks(&mut self, out: &mut VecDeque<MediaOutput>) {
        let (video, audio) = self.announced.unwrap_or((true, false));
        let tracks = (video || self.saw_video, audio || self.first_audio.is_some());
        if self.told != Some(tracks) {
            self.told = Some(tracks);
            out.push_back(MediaOutput::Tracks { video: tracks.0, audio: tracks.1 });
        }
    }

    /// Takes the body of a video message.
    pub fn video(&mut self, timestamp: u32, arrived: Instant, body: Bytes, out: &mut VecDeque<MediaOutput>) {
        let tag = match flv::parse_video(body) {
            Ok(tag) => tag,
            Err(TagError::Truncated) => return self.damaged("rtmp_video", &TagError::Truncated, out),
            Err(error) => return out.push_back(MediaOutput::Unsupported { is_video: true, error }),
        };
        if tag != VideoTag::Nothing && !self.saw_video {
            self.saw_video = true;
            self.tell_tracks(out);
        }
        match tag {
            VideoTag::H264Config(record) => self.take_config(&record, arrived, out),
            VideoTag::H264 { composition_ms, data } => {
                let times = self.times(timestamp, arrived, composition_ms);
                self.take_picture(&data, times, out);
            }
            VideoTag::Nothing => {}
        }
    }

    fn times(&mut self, timestamp: u32, arrived: Instant, composition_ms: i32) -> UnitTimes {
        let dts_ms = self.timeline.place(Track::Video, timestamp);
        let composition_ms = i64::from(composition_ms);
        self.composition_shift_ms = self.composition_shift_ms.max(-composition_ms);
        let pts_ms = dts_ms.saturating_add(composition_ms + self.composition_shift_ms);
        let ticks = |ms: i64| Timestamp::video(ms.saturating_mul(TICKS_PER_MS));
        UnitTimes { arrived, pts: ticks(pts_ms), dts: ticks(dts_ms) }
    }

    /// A sequence header: new parameter sets, in force from the next keyframe on.
    fn take_config(&mut self, record: &[u8], arrived: Instant, out: &mut VecDeque<MediaOutput>) {
        let Some(config) = DecoderConfig::parse(record) else {
            // What follows was made for it, and read with the older sets it would give a wrong picture.
            self.builder = UnitBuilder::new(self.pixels_max);
            return self.damaged("rtmp_video", &"sequence header cannot be read", out);
        };
        self.length_bytes = config.length_bytes;
        config.sets.iter().for_each(|set| self.builder.push(set));
        // Parameter sets alone make no unit; what is wrong with them shows here.
        let zero = Timestamp::video(0);
        if let Err(error) = self.builder.finish(UnitTimes { arrived, pts: zero, dts: zero }) {
            self.damaged("rtmp_video", &error, out);
        }
    }

    fn take_picture(&mut self, data: &[u8], times: UnitTimes, out: &mut VecDeque<MediaOutput>) {
        let mut rest = data;
        while !rest.is_empty() {
            let Some((nal, after)) = split_nal(rest, self.length_bytes) else {
                self.builder.discard();
                return self.damaged("rtmp_video", &"nal unit leads out of its message", out);
            };
            // Empty ones are made by some encoders, and are nothing.
            if !nal.is_empty() {
                self.builder.push(nal);
            }
            rest = after;
        }
        match self.builder.finish(times) {
            Ok(None) => {}
            Ok(Some(unit)) if self.waits_for_key && !unit.key => {}
            Ok(Some(unit)) => {
                self.waits_for_key = false;
                out.push_back(MediaOutput::Video(unit));
            }
            // Nothing came before it that it could refer to: the stream begins in the middle of a group.
            Err(UnitError::UnknownParameters(_) | UnitError::ParametersChanged) if self.waits_for_key => {}
            Err(error) => self.damaged("rtmp_video", &error, out),
        }
    }

    /// A picture is lost. The gap is told once; what follows it is left out up to the next keyframe.
    fn damaged(&mut self, kind: &'static str, why: &dyn ToString, out: &mut VecDeque<MediaOutput>) {
        out.push_back(MediaOutput::Damaged(kind, why.to_string()));
        if !self.waits_for_key {
            self.waits_for_key = true;
            out.push_back(MediaOutput::Gap);
        }
    }

    /// Takes the body of an audio message.
    pub fn audio(&mut self, timestamp: u32, arrived: Instant, body: Bytes, out: &mut VecDeque<MediaOutput>) {
        if self.audio_refused {
            return;
        }
        let tag = match flv::parse_audio(body) {
            Ok(tag) => tag,
            Err(TagError::Truncated) => {
                return out.push_back(MediaOutput::Damaged("rtmp_audio", TagError::Truncated.to_string()));
            }
            Err(error) => {
                self.audio_refused = true;
                return out.push_back(MediaOutput::Unsupported { is_video: false, error });
            }
        };
        let data = match tag {
            AudioTag::Nothing => return,
            AudioTag::AacConfig(config) => match aac::params(&config) {
                Some(params) => return self.set_audio(params, arrived, out),
                None => {
                    let why = "audio configuration cannot be read".to_owned();
                    return out.push_back(MediaOutput::Damaged("rtmp_audio", why));
                }
            },
            AudioTag::OpusConfig(header) => {
                // "OpusHead", version, channels.
                let channels = header.get(9).copied().filter(|_| header.starts_with(b"OpusHead"));
                return self.set_audio(opus(channels.unwrap_or(2)), arrived, out);
            }
            AudioTag::Aac(data) => {
                if !self.audio.as_ref().is_some_and(|audio| matches!(audio.codec, AudioCodec::Aac { .. })) {
                    // Without its configuration it cannot be understood.
                    return;
                }
                data
            }
            AudioTag::Opus(data) => {
                if !self.audio.as_ref().is_some_and(|audio| audio.codec == AudioCodec::Opus) {
                    self.set_audio(opus(2), arrived, out);
                }
                data
            }
            AudioTag::G711 { a_law, stereo, data } => {
                let codec = if a_law { AudioCodec::Pcma } else { AudioCodec::Pcmu };
                let channels = if stereo { 2 } else { 1 };
                self.set_audio(AudioParams { codec, sample_rate: G711_RATE, channels }, arrived, out);
                data
            }
        };
        let Some(params) = self.audio.clone().filter(|_| !data.is_empty()) else { return };
        self.note_audio(arrived, out);
        let ms = self.timeline.place(Track::Audio, timestamp);
        let pts = Timestamp { ticks: ms, timescale: MILLISECONDS }.rescale(params.sample_rate);
        out.push_back(MediaOutput::Audio(AudioFrame { arrived, pts, params, data }));
    }

    fn set_audio(&mut self, params: AudioParams, arrived: Instant, out: &mut VecDeque<MediaOutput>) {
        if self.audio.as_deref() != Some(&params) {
            let params = Arc::new(params);
            self.audio = Some(params.clone());
            self.note_audio(arrived, out);
            out.push_back(MediaOutput::AudioParams(params));
        }
    }

    /// Sound came.
    fn note_audio(&mut self, arrived: Instant, out: &mut VecDeque<MediaOutput>) {
        let first = *self.first_audio.get_or_insert(arrived);
        if self.announced.is_none()
            && !self.saw_video
            && arrived.saturating_duration_since(first) >= SOUND_ALONE
        {
            self.announced = Some((false, true));
        }
        self.tell_tracks(out);
    }
}

const MILLISECONDS: NonZeroU32 = NonZeroU32::new(1000).unwrap();

fn opus(channels: u8) -> AudioParams {
    AudioParams { codec: AudioCodec::Opus, sample_rate: OPUS_RATE, channels: channels.max(1) }
}

/// The first NAL unit and what follows it; `None` when its length leads out of the data.
fn split_nal(data: &[u8], length_bytes: usize) -> Option<(&[u8], &[u8])> {
    let (length, after) = data.split_at_checked(length_bytes)?;
    let size = length.iter().fold(0_usize, |size, &byte| size << 8 | usize::from(byte));
    after.split_at_checked(size)
}

#[cfg(test)]
#[path = "media_reader_tests.rs"]
mod tests;
