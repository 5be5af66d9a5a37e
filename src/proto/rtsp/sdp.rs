//! Session descriptions of RTSP (RFC 8866, RFC 2326 appendix C): tracks with their payload formats and control URLs.
//!
//! The text is the `sdp-types` crate's. It is shown only the lines that we use, because cameras break the others; what
//! their attributes mean is told here. Tracks of codecs that we do not know keep their place and are passed over.

use std::num::NonZeroU32;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use sdp_types::{Attribute, Connection, Media, Origin, Session, Time};
use thiserror::Error;

use crate::media::h264::{NalHeader, NalType};
use crate::media::time::VIDEO_TIMESCALE;
use crate::media::track::{AudioCodec, AudioParams, VideoCodec, VideoParams};

/// Most tracks of one description; cameras have up to five.
pub const TRACKS_MAX: usize = 16;
/// Most lines that are read.
const LINES_MAX: usize = 1000;
/// Most parameter sets that are taken from one description; an encoder has two or three.
const PARAMETER_SETS_MAX: usize = 32;
/// Largest `AudioSpecificConfig`; the usual ones have two to seven bytes.
const AUDIO_CONFIG_BYTES_MAX: usize = 64;

/// Why a description cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DescriptionError {
    /// It is not SDP.
    #[error("session description cannot be read: {0}")]
    Unreadable(String),
    /// More lines or tracks than their bounds.
    #[error("session description has too many {0}")]
    TooMany(&'static str),
}

/// How a payload of MPEG-4 audio is laid out (RFC 3640 section 4.1): sizes of the fields of its headers, in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AacLayout {
    /// `sizeLength`: size of an access unit.
    pub size_bits: u8,
    /// `indexLength`: serial number of the first one.
    pub index_bits: u8,
    /// `indexDeltaLength`: step of the serial number for the others.
    pub index_delta_bits: u8,
}

impl AacLayout {
    /// AAC-hbr (RFC 3640 section 3.3.6), which all encoders use and which we write.
    pub const HIGH_BIT_RATE: Self = Self { size_bits: 13, index_bits: 3, index_delta_bits: 3 };
}

/// What the packets of a track hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// RFC 6184, packetization mode 0 or 1.
    H264 {
        /// `sprop-parameter-sets`: NAL units of types 7 and 8; empty where the description does not tell.
        parameter_sets: Vec<Bytes>,
    },
    /// RFC 7741.
    Vp8,
    /// RFC 3640.
    Aac {
        /// `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1).
        config: Bytes,
        /// Fields of its headers.
        layout: AacLayout,
    },
    /// RFC 7587.
    Opus,
    /// A-law (RFC 3551 section 4.5.14).
    Pcma,
    /// µ-law.
    Pcmu,
    /// Something that we do not read.
    Other {
        /// Its name, for logs.
        encoding: String,
    },
}

/// One track: an `m=` line with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// `video`, `audio`, `application` …
    pub media: String,
    /// What its packets hold.
    pub payload: Payload,
    /// Payload type of its packets.
    pub payload_type: u8,
    /// Ticks a second of its RTP clock.
    pub clock_rate: NonZeroU32,
    /// Channels; 1 where unsaid, and for video.
    pub channels: u8,
    /// `a=control`, as written; empty where unsaid.
    pub control: String,
}

impl Track {
    /// Whether its packets are of a known codec.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self.payload, Payload::Other { .. })
    }

    /// Whether it is a known codec of video.
    #[must_use]
    pub fn is_video(&self) -> bool {
        matches!(self.payload, Payload::H264 { .. } | Payload::Vp8)
    }

    /// Whether it is a known codec of sound.
    #[must_use]
    pub fn is_audio(&self) -> bool {
        self.is_known() && !self.is_video()
    }

    /// The name of its codec as signalling and REST know it; of an unknown one as the description has it.
    #[must_use]
    pub fn codec_name(&self) -> &str {
        match &self.payload {
            Payload::H264 { .. } => "H264",
            Payload::Vp8 => VideoCodec::Vp8.name(),
            Payload::Other { encoding } => encoding,
            _ => self.audio_params().map_or("", |params| match params.codec {
                AudioCodec::Opus => "opus",
                AudioCodec::Aac { .. } => "mpeg4-generic",
                AudioCodec::Pcma => "alaw",
                AudioCodec::Pcmu => "ulaw",
            }),
        }
    }

    /// What consumers of its sound must know; `None` of a track that is no known sound.
    #[must_use]
    pub fn audio_params(&self) -> Option<Arc<AudioParams>> {
        let codec = match &self.payload {
            Payload::Aac { config, .. } => AudioCodec::Aac { config: config.clone() },
            Payload::Opus => AudioCodec::Opus,
            Payload::Pcma => AudioCodec::Pcma,
            Payload::Pcmu => AudioCodec::Pcmu,
            Payload::H264 { .. } | Payload::Vp8 | Payload::Other { .. } => return None,
        };
        Some(Arc::new(AudioParams { codec, sample_rate: self.clock_rate, channels: self.channels }))
    }
}

/// A session description, as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `a=control` of the whole; empty where unsaid.
    pub control: String,
    /// All tracks in order, unknown ones included.
    pub tracks: Vec<Track>,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// When it is not SDP or has too much of something. What is damaged in a track makes it an unknown one.
    pub fn parse(text: &[u8]) -> Result<Self, DescriptionError> {
        let text = String::from_utf8_lossy(text);
        let mut shown = String::with_capacity(text.len());
        for (number, line) in text.lines().enumerate() {
            if number >= LINES_MAX {
                return Err(DescriptionError::TooMany("lines"));
            }
            let line = line.trim();
            if ["v=", "m=", "a="].iter().any(|kind| line.starts_with(kind)) {
                shown.push_str(line);
                shown.push_str("\r\n");
            }
        }
        let session = Session::parse(shown.as_bytes())
            .map_err(|error| DescriptionError::Unreadable(error.to_string()))?;
        if session.medias.len() > TRACKS_MAX {
            return Err(DescriptionError::TooMany("tracks"));
        }
        let control = session.get_first_attribute_value("control").flatten().unwrap_or_default();
        Ok(Self { control: control.to_owned(), tracks: session.medias.iter().map(read_track).collect() })
    }

    /// The URL of the whole presentation (RFC 2326 appendix C.1.1). `base` is `Content-Base`, else `Content-Location`,
    /// else the URL that was asked for.
    #[must_use]
    pub fn aggregate_url(&self, base: &str) -> String {
        control_url(base, &self.control)
    }

    /// The URL of a track; `base` as for [`Description::aggregate_url`].
    #[must_use]
    pub fn track_url(&self, base: &str, track: &Track) -> String {
        control_url(&self.aggregate_url(base), &track.control)
    }

    /// What a player is told of a stream: its tracks get dynamic payload types from 96 on and `trackID=n` as control.
    /// Parameters that are not known yet leave their track out.
    #[must_use]
    pub fn of_stream(video: Option<&VideoParams>, audio: Option<&AudioParams>) -> Self {
        let mut tracks = Vec::new();
        if let Some(video) = video {
            let payload = match &video.codec {
                VideoCodec::H264 { sps, pps } => {
                    Payload::H264 { parameter_sets: sps.iter().chain(pps).cloned().collect() }
                }
                VideoCodec::Vp8 => Payload::Vp8,
            };
            tracks.push(("video", payload, VIDEO_TIMESCALE, 1));
        }
        if let Some(audio) = audio {
            let payload = match &audio.codec {
                AudioCodec::Opus => Payload::Opus,
                AudioCodec::Aac { config } => {
                    Payload::Aac { config: config.clone(), layout: AacLayout::HIGH_BIT_RATE }
                }
                AudioCodec::Pcma => Payload::Pcma,
                AudioCodec::Pcmu => Payload::Pcmu,
            };
            // Opus always says two channels (RFC 7587 section 7).
            let channels = if payload == Payload::Opus { 2 } else { audio.channels };
            tracks.push(("audio", payload, audio.sample_rate, channels));
        }
        let track =
            |(number, (media, payload, clock_rate, channels)): (u8, (&str, Payload, NonZeroU32, u8))| {
                let payload_type = match payload {
                    Payload::Pcmu if clock_rate == G711_RATE && channels == 1 => 0,
                    Payload::Pcma if clock_rate == G711_RATE && channels == 1 => 8,
                    _ => 96 + number,
                };
                Track {
                    media: media.to_owned(),
                    payload,
                    payload_type,
                    clock_rate,
                    channels,
                    control: format!("trackID={number}"),
                }
            };
        Self { control: "*".to_owned(), tracks: (0_u8..).zip(tracks).map(track).collect() }
    }

    /// The text of the description. `name` is shown to people; `address` is ours, as the client reached us.
    #[must_use]
    pub fn write(&self, name: &str, session_id: u64, address: std::net::IpAddr) -> Vec<u8> {
        let plain: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // An empty name is no SDP (RFC 8866 section 5.3).
        let name = if plain.is_empty() { "-" } else { &plain };
        let mut session = Session::new(Origin::with_ip_addr(session_id, 1, address), name);
        let unspecified: std::net::IpAddr = match address {
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        session.set_connection(Connection::from_ip_addr(unspecified));
        session.add_time(Time::new(0, 0));
        session.add_attribute_with_value("control", &self.control);
        session.add_attribute_with_value("range", "npt=now-");
        session.add_medias(self.tracks.iter().map(write_track));
        let mut text = Vec::new();
        // Writing into memory does not fail.
        let _ = session.write(&mut text);
        text
    }
}

const G711_RATE: NonZeroU32 = NonZeroU32::new(8000).unwrap();
const OPUS_RATE: NonZeroU32 = NonZeroU32::new(48_000).unwrap();

/// A control URL in its base (RFC 2326 appendix C.1.1): `*` and nothing are the base itself, and a relative one is
/// appended, behind a query too, as clients and cameras have it.
#[must_use]
pub fn control_url(base: &str, control: &str) -> String {
    let is_absolute = control
        .split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
    match control {
        "" | "*" => base.to_owned(),
        absolute if is_absolute => absolute.to_owned(),
        relative => format!("{}/{}", base.trim_end_matches('/'), relative.trim_start_matches('/')),
    }
}

fn read_track(media: &Media) -> Track {
    let payload_type = media.fmt.split_whitespace().next().and_then(|format| format.parse().ok());
    let payload_type: u8 = payload_type.filter(|&payload_type| payload_type < 128).unwrap_or_default();
    let of_type = |name: &str| {
        let values =
            media.attributes.iter().filter(|attribute| attribute.attribute.eq_ignore_ascii_case(name));
        values.filter_map(|attribute| attribute.value.as_deref()).find_map(|value| {
            let (number, rest) = value.trim().split_once([' ', '\t'])?;
            (number.parse() == Ok(payload_type)).then(|| rest.trim())
        })
    };
    let mut map = of_type("rtpmap").unwrap_or_default().split('/').map(str::trim);
    let encoding = map.next().unwrap_or_default();
    let clock_rate = map.next().and_then(|rate| rate.parse::<NonZeroU32>().ok());
    let channels =
        map.next().and_then(|channels| channels.parse::<u8>().ok()).filter(|&channels| channels > 0);
    let (payload, clock_rate, channels) = read_payload(
        encoding,
        payload_type,
        clock_rate,
        channels,
        &Parameters(of_type("fmtp").unwrap_or_default()),
    );
    let control = media.get_first_attribute_value("control").flatten().unwrap_or_default();
    Track {
        media: media.media.clone(),
        payload,
        payload_type,
        clock_rate,
        channels,
        control: control.to_owned(),
    }
}

fn read_payload(
    encoding: &str,
    payload_type: u8,
    clock_rate: Option<NonZeroU32>,
    channels: Option<u8>,
    parameters: &Parameters<'_>,
) -> (Payload, NonZeroU32, u8) {
    let rate = clock_rate.unwrap_or(VIDEO_TIMESCALE);
    let other = || {
        let encoding =
            if encoding.is_empty() { format!("payload type {payload_type}") } else { encoding.to_owned() };
        (Payload::Other { encoding }, rate, 1)
    };
    match (encoding.to_ascii_uppercase().as_str(), payload_type) {
        // The clock of H.264 and VP8 is fixed (RFC 6184 section 8.2.1, RFC 7741 section 6.1).
        ("H264", _) => (Payload::H264 { parameter_sets: parameters.parameter_sets() }, VIDEO_TIMESCALE, 1),
        ("VP8", _) => (Payload::Vp8, VIDEO_TIMESCALE, 1),
        ("MPEG4-GENERIC", _) => match (parameters.aac(), clock_rate) {
            (Some((config, layout)), Some(rate)) => {
                let channels = channels.or_else(|| channels_of(&config)).unwrap_or(1);
                (Payload::Aac { config, layout }, rate, channels)
            }
            _ => other(),
        },
        ("OPUS", _) => (Payload::Opus, OPUS_RATE, 2),
        ("PCMA", _) => (Payload::Pcma, clock_rate.unwrap_or(G711_RATE), channels.unwrap_or(1)),
        ("PCMU", _) => (Payload::Pcmu, clock_rate.unwrap_or(G711_RATE), channels.unwrap_or(1)),
        // Static payload types (RFC 3551 table 4) need no map.
        ("", 0) => (Payload::Pcmu, G711_RATE, 1),
        ("", 8) => (Payload::Pcma, G711_RATE, 1),
        _ => other(),
    }
}

/// `channelConfiguration` of an `AudioSpecificConfig` with a frequency out of the table.
fn channels_of(config: &[u8]) -> Option<u8> {
    let (&first, rest) = config.split_first()?;
    let &second = rest.first()?;
    let frequency_index = (first & 7) << 1 | second >> 7;
    let channels = second >> 3 & 0x0F;
    (frequency_index != 15 && (1..=7).contains(&channels)).then_some(if channels == 7 { 8 } else { channels })
}

/// The text of an `a=fmtp` behind the payload type.
struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn parameter_sets(&self) -> Vec<Bytes> {
        let text = self.get("sprop-parameter-sets").unwrap_or_default();
        let sets = text.split(',').filter_map(|set| {
            let set = set.trim().trim_end_matches('=');
            STANDARD_NO_PAD.decode(set).ok().filter(|set| is_parameter_set(set))
        });
        sets.take(PARAMETER_SETS_MAX).map(Bytes::from).collect()
    }

    fn aac(&self) -> Option<(Bytes, AacLayout)> {
        let config = from_hex(self.get("config")?)?;
        // Streams of other types are no AAC (RFC 3640 section 4.1: audio is 5).
        if self.get("streamtype").is_some_and(|kind| kind != "5") || config.len() < 2 {
            return None;
        }
        let low = AacLayout { size_bits: 6, index_bits: 2, index_delta_bits: 2 };
        let by_mode = match self.get("mode").unwrap_or_default().to_ascii_lowercase().as_str() {
            "aac-lbr" => low,
            _ => AacLayout::HIGH_BIT_RATE,
        };
        let bits = |name: &str, usual: u8| match self.get(name) {
            None => Some(usual),
            Some(text) => text.parse().ok().filter(|&bits: &u8| bits <= 32),
        };
        let layout = AacLayout {
            size_bits: bits("sizelength", by_mode.size_bits)?,
            index_bits: bits("indexlength", by_mode.index_bits)?,
            index_delta_bits: bits("indexdeltalength", by_mode.index_delta_bits)?,
        };
        (layout.size_bits > 0).then_some((config, layout))
    }
}

fn is_parameter_set(nal: &[u8]) -> bool {
    matches!(NalHeader::of(nal).map(NalHeader::nal_type), Some(NalType::Sps | NalType::Pps)) && nal.len() > 1
}

fn from_hex(text: &str) -> Option<Bytes> {
    let text = text.trim_matches('"');
    if text.len() > AUDIO_CONFIG_BYTES_MAX * 2 || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes: Vec<u8> =
        digits?.chunks(2).filter_map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect();
    Some(bytes.into())
}

fn write_track(track: &Track) -> Media {
    let Track { payload, payload_type, clock_rate, channels, .. } = track;
    let (encoding, format) = match payload {
        Payload::H264 { parameter_sets } => ("H264", h264_format(parameter_sets)),
        Payload::Vp8 => ("VP8", String::new()),
        Payload::Aac { config, layout } => ("mpeg4-generic", aac_format(config, *layout)),
        Payload::Opus => ("opus", "sprop-stereo=1".to_owned()),
        Payload::Pcma => ("PCMA", String::new()),
        Payload::Pcmu => ("PCMU", String::new()),
        Payload::Other { encoding } => (encoding.as_str(), String::new()),
    };
    let suffix = if track.is_audio() { format!("/{channels}") } else { String::new() };
    let mut attributes =
        vec![Attribute::with_value("rtpmap", format!("{payload_type} {encoding}/{clock_rate}{suffix}"))];
    if !format.is_empty() {
        attributes.push(Attribute::with_value("fmtp", format!("{payload_type} {format}")));
    }
    attributes.push(Attribute::with_value("control", &track.control));
    Media {
        media: track.media.clone(),
        port: 0,
        num_ports: None,
        proto: "RTP/AVP".to_owned(),
        fmt: payload_type.to_string(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes,
    }
}

fn h264_format(parameter_sets: &[Bytes]) -> String {
    let mut format = "packetization-mode=1".to_owned();
    let sps = parameter_sets.iter().find(|set| set.first().is_some_and(|head| head & 0x1F == 7));
    if let Some(&[profile, constraints, level]) = sps.and_then(|sps| sps.get(1..4)) {
        format.push_str(&format!(";profile-level-id={profile:02X}{constraints:02X}{level:02X}"));
    }
    let sets: Vec<String> = parameter_sets.iter().map(|set| STANDARD.encode(set)).collect();
    if !sets.is_empty() {
        format.push_str(&format!(";sprop-parameter-sets={}", sets.join(",")));
    }
    format
}

fn aac_format(config: &[u8], layout: AacLayout) -> String {
    let config: String = config.iter().map(|byte| format!("{byte:02x}")).collect();
    let AacLayout { size_bits, index_bits, index_delta_bits } = layout;
    format!(
        "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength={size_bits};indexlength={index_bits};\
         indexdeltalength={index_delta_bits};config={config}"
    )
}

#[cfg(test)]
#[path = "sdp_tests.rs"]
mod tests;
