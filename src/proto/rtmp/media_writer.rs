//! Access units and frames of sound in, audio and video messages out: what a player of ours is given.

use std::sync::Arc;
use std::time::Instant;

use super::amf0::Value;
use super::flv::{FourCc, MP4A, OPUS, VP08};
use super::link::Link;
use crate::media::h264::decoder_config::decoder_config;
use crate::media::time::Timestamp;
use crate::media::track::{AudioCodec, AudioParams, VideoCodec, VideoParams};
use crate::media::unit::{AccessUnit, AudioFrame, MediaUnit};

/// Times of the two tracks count on one clock when they agree with the times of arrival this well, in milliseconds.
const ALIGNED_MS: i64 = 2000;

/// The codecs beyond Flash's own that a player announced in `connect` (Enhanced RTMP, `fourCcList` and the maps of v2).
#[derive(Clone, Debug, Default)]
pub(super) struct Announced {
    any: bool,
    listed: Vec<String>,
}

impl Announced {
    pub(super) fn read(object: &Value) -> Self {
        /// More names than there are codecs.
        const NAMES_MAX: usize = 64;
        let list = object.get("fourCcList").map(Value::elements).unwrap_or_default();
        let maps = ["audioFourCcInfoMap", "videoFourCcInfoMap"].map(|name| object.get(name));
        let mapped = maps.into_iter().flatten().flat_map(Value::properties).map(|(name, _)| name.as_str());
        let names = list.iter().filter_map(Value::as_str).chain(mapped);
        let listed: Vec<String> = names.take(NAMES_MAX).map(str::to_owned).collect();
        Self { any: listed.iter().any(|name| name == "*"), listed }
    }

    fn has(&self, codec: FourCc) -> bool {
        self.any || self.listed.iter().any(|name| name.as_bytes() == codec)
    }

    /// Whether the client speaks Enhanced RTMP at all.
    pub(super) fn is_enhanced(&self) -> bool {
        !self.listed.is_empty()
    }
}

/// The stream's video cannot be told to this player; the name of its codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is {0}, which this player did not announce (Enhanced RTMP fourCcList)")]
pub struct Unplayable(pub &'static str);

/// Writes the media of one player.
#[derive(Debug)]
pub(super) struct MediaWriter {
    stream_id: u32,
    announced: Announced,
    video: Option<Arc<VideoParams>>,
    audio: Option<Arc<AudioParams>>,
    /// The first unit of all: when it came, and where its track's clock stood.
    origin: Option<(Instant, i64)>,
    /// Where zero is on each track's own clock.
    video_zero_ms: Option<i64>,
    audio_zero_ms: Option<i64>,
}

fn ms(time: Timestamp) -> i64 {
    let wide = i128::from(time.ticks) * 1000;
    i64::try_from(wide.div_euclid(i128::from(time.timescale.get()))).unwrap_or(i64::MAX)
}

impl MediaWriter {
    pub(super) fn new(stream_id: u32, announced: Announced) -> Self {
        Self {
            stream_id,
            announced,
            video: None,
            audio: None,
            origin: None,
            video_zero_ms: None,
            audio_zero_ms: None,
        }
    }

    pub(super) fn stream_id(&self) -> u32 {
        self.stream_id
    }

    /// Writes a unit, with whatever a decoder must know before it.
    pub(super) fn write(&mut self, link: &mut Link, unit: &MediaUnit) -> Result<(), Unplayable> {
        match unit {
            MediaUnit::Video(unit) => self.write_video(link, unit),
            MediaUnit::Audio(frame) => {
                self.write_audio(link, frame);
                Ok(())
            }
        }
    }

    /// Where zero is on a track's clock whose first unit this is: on the clock of the track that began, unless the two
    /// clocks have nothing to do with each other; then the times of arrival tell.
    fn zero_ms(&mut self, arrived: Instant, at_ms: i64) -> i64 {
        let (origin_arrived, origin_ms) = *self.origin.get_or_insert((arrived, at_ms));
        let later = arrived.saturating_duration_since(origin_arrived).as_millis();
        let earlier = origin_arrived.saturating_duration_since(arrived).as_millis();
        let by_arrival = i64::try_from(later).unwrap_or(0) - i64::try_from(earlier).unwrap_or(0);
        let by_clock = at_ms.saturating_sub(origin_ms);
        if by_clock.saturating_sub(by_arrival).saturating_abs() <= ALIGNED_MS {
            origin_ms
        } else {
            at_ms.saturating_sub(by_arrival)
        }
    }

    fn write_video(&mut self, link: &mut Link, unit: &AccessUnit) -> Result<(), Unplayable> {
        let dts_ms = ms(unit.dts);
        let zero_ms = self.video_zero_ms.unwrap_or_else(|| self.zero_ms(unit.arrived, dts_ms));
        self.video_zero_ms = Some(zero_ms);
        let timestamp = wrapped(dts_ms.saturating_sub(zero_ms));
        let is_new = !self.video.as_ref().is_some_and(|known| *known == unit.params);
        // Frame type 1 begins, 2 refers, 3 is referred to by nothing.
        let frame_type = if unit.key { 1 } else { 2 + u8::from(unit.disposable) };
        if is_new {
            self.video = Some(unit.params.clone());
            self.write_metadata(link, timestamp);
        }
        match &unit.params.codec {
            VideoCodec::H264 { sps, pps } => {
                if is_new && let Some(config) = decoder_config(sps, pps) {
                    link.video(self.stream_id, timestamp, &[&[0x17, 0, 0, 0, 0], &config]);
                }
                let composition_ms = ms(unit.pts).saturating_sub(dts_ms).clamp(-0x0080_0000, 0x007F_FFFF);
                let [_, .., a, b, c] = composition_ms.to_be_bytes();
                let header = [frame_type << 4 | 7, 1, a, b, c];
                link.video(self.stream_id, timestamp, &[&header, &unit.data]);
            }
            VideoCodec::Vp8 if self.announced.has(VP08) => {
                let header = [0x80 | frame_type << 4 | 1];
                link.video(self.stream_id, timestamp, &[&header, &VP08, &unit.data]);
            }
            other => return Err(Unplayable(other.name())),
        }
        Ok(())
    }

    /// Sound that the player cannot be told is left out.
    fn write_audio(&mut self, link: &mut Link, frame: &AudioFrame) {
        let Some(form) = self.audio_form(&frame.params) else { return };
        let at_ms = ms(frame.pts);
        let zero_ms = self.audio_zero_ms.unwrap_or_else(|| self.zero_ms(frame.arrived, at_ms));
        self.audio_zero_ms = Some(zero_ms);
        let timestamp = wrapped(at_ms.saturating_sub(zero_ms));
        let is_new = !self.audio.as_ref().is_some_and(|known| *known == frame.params);
        if is_new {
            self.audio = Some(frame.params.clone());
            self.write_metadata(link, timestamp);
            if let Some(config) = form.config {
                link.audio(self.stream_id, timestamp, &[&form.config_head, &config]);
            }
        }
        link.audio(self.stream_id, timestamp, &[&form.frame_head, &frame.data]);
    }

    /// How this player is told this sound; `None` when it cannot be.
    fn audio_form(&self, params: &AudioParams) -> Option<AudioForm> {
        let stereo = u8::from(params.channels > 1);
        Some(match &params.codec {
            AudioCodec::Aac { config } => AudioForm {
                // Rate and channels are fixed for AAC: the configuration tells them.
                config_head: vec![0xAF, 0],
                config: Some(config.to_vec()),
                frame_head: vec![0xAF, 1],
            },
            AudioCodec::Opus if self.announced.has(OPUS) => AudioForm {
                config_head: [&[0x90], OPUS.as_slice()].concat(),
                config: Some(opus_head(params)),
                frame_head: [&[0x91], OPUS.as_slice()].concat(),
            },
            AudioCodec::Pcma | AudioCodec::Pcmu if params.sample_rate.get() == 8000 => {
                let format = if params.codec == AudioCodec::Pcma { 7 } else { 8 };
                AudioForm {
                    config_head: Vec::new(),
                    config: None,
                    frame_head: vec![format << 4 | 2 | stereo],
                }
            }
            AudioCodec::Opus | AudioCodec::Pcma | AudioCodec::Pcmu => return None,
        })
    }

    fn write_metadata(&self, link: &mut Link, timestamp: u32) {
        let mut properties = vec![("duration".to_owned(), Value::Number(0.0))];
        let mut put = |name: &str, value: Value| properties.push((name.to_owned(), value));
        if let Some(video) = &self.video {
            put("width", Value::Number(video.width.into()));
            put("height", Value::Number(video.height.into()));
            let codec = match video.codec {
                VideoCodec::H264 { .. } => 7.0,
                // Enhanced RTMP: the four characters as a number.
                VideoCodec::Vp8 => u32::from_be_bytes(VP08).into(),
            };
            put("videocodecid", Value::Number(codec));
        }
        if let Some(audio) = &self.audio {
            let codec = match audio.codec {
                AudioCodec::Aac { .. } => 10.0,
                AudioCodec::Opus => u32::from_be_bytes(OPUS).into(),
                AudioCodec::Pcma => 7.0,
                AudioCodec::Pcmu => 8.0,
            };
            put("audiocodecid", Value::Number(codec));
            put("audiosamplerate", Value::Number(audio.sample_rate.get().into()));
            put("stereo", Value::Boolean(audio.channels > 1));
        }
        link.data(self.stream_id, timestamp, &[Value::text("onMetaData"), Value::EcmaArray(properties)]);
    }
}

/// The bodies' beginnings for one kind of sound.
struct AudioForm {
    config_head: Vec<u8>,
    config: Option<Vec<u8>>,
    frame_head: Vec<u8>,
}

/// The codecs that we name to a client that speaks Enhanced RTMP: what may be published.
pub(super) fn four_ccs() -> Vec<Value> {
    [super::flv::AVC1, MP4A, OPUS].map(|codec| Value::text(codec.escape_ascii().to_string())).to_vec()
}

/// Identification header of Opus (RFC 7845 section 5.1): nothing skipped, no gain, one stream.
fn opus_head(params: &AudioParams) -> Vec<u8> {
    let mut head = b"OpusHead\x01".to_vec();
    head.push(params.channels);
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(&params.sample_rate.get().to_le_bytes());
    head.extend_from_slice(&[0, 0, 0]);
    head
}

/// A time as a message has it: modulo 2^32, and nothing before zero.
fn wrapped(at_ms: i64) -> u32 {
    at_ms.max(0) as u32
}
