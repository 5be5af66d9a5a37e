//! The codecs that can be received over WebRTC: one table, from the name in the configuration to the line in the answer.
//!
//! Another codec is another row here, another payload format in `rtp::receiver`, and another decoder.

use super::answer::{ABS_SEND_TIME, MID, VIDEO_ORIENTATION};
use super::offer::Codec;

/// Feedback that the receiver gives to sources of pictures, as `a=rtcp-fb` spells it.
const VIDEO_FEEDBACK: [&str; 4] = ["nack", "nack pli", "ccm fir", "goog-remb"];
const VIDEO_EXTENSIONS: [&str; 3] = [MID, ABS_SEND_TIME, VIDEO_ORIENTATION];
const AUDIO_EXTENSIONS: [&str; 2] = [MID, ABS_SEND_TIME];

/// Codecs that can be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownCodec {
    /// RFC 7587.
    Opus,
    /// RFC 6184.
    H264,
    /// RFC 7741.
    Vp8,
}

/// What the negotiation must know of a codec.
struct Row {
    codec: KnownCodec,
    /// As `a=rtpmap` has it; without regard to case also in the configuration.
    name: &'static str,
    media: &'static str,
    clock_rate: u32,
    channels: u8,
    feedback: &'static [&'static str],
    extensions: &'static [&'static str],
    /// How well the parameters of an offered payload type suit: lower is better, `None` for a variant that cannot be
    /// received.
    rank: fn(&Codec) -> Option<u8>,
    /// The parameters of the answer.
    parameters: fn(&Codec) -> Vec<String>,
}

const ROWS: [Row; 3] = [
    Row {
        codec: KnownCodec::Opus,
        name: "opus",
        media: "audio",
        clock_rate: 48_000,
        channels: 2,
        feedback: &[],
        extensions: &AUDIO_EXTENSIONS,
        rank: |_| Some(0),
        parameters: |_| vec!["minptime=10".into(), "useinbandfec=1".into()],
    },
    Row {
        codec: KnownCodec::H264,
        name: "H264",
        media: "video",
        clock_rate: 90_000,
        channels: 1,
        feedback: &VIDEO_FEEDBACK,
        extensions: &VIDEO_EXTENSIONS,
        rank: h264_rank,
        parameters: h264_parameters,
    },
    Row {
        codec: KnownCodec::Vp8,
        name: "VP8",
        media: "video",
        clock_rate: 90_000,
        channels: 1,
        feedback: &VIDEO_FEEDBACK,
        extensions: &VIDEO_EXTENSIONS,
        rank: |_| Some(0),
        // RFC 7741 section 6.1 has bounds of size and rate for the sender; ours is the bound of pixels, which it learns by
        // being refused, since no camera reaches it.
        parameters: |_| Vec::new(),
    },
];

impl KnownCodec {
    fn row(self) -> &'static Row {
        let [opus, h264, vp8] = &ROWS;
        match self {
            Self::Opus => opus,
            Self::H264 => h264,
            Self::Vp8 => vp8,
        }
    }

    /// The name in `a=rtpmap` and in status messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// `audio` or `video`.
    #[must_use]
    pub fn media(self) -> &'static str {
        self.row().media
    }

    /// Finds the codec behind a name of the configuration; `None` for those that cannot be received.
    #[must_use]
    pub fn from_setting(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name.eq_ignore_ascii_case(name.trim())).map(|row| row.codec)
    }

    /// Feedback that the receiver gives to its source.
    pub(super) fn feedback(self) -> &'static [&'static str] {
        self.row().feedback
    }

    /// Header extensions that the receiver reads.
    pub(super) fn extensions(self) -> &'static [&'static str] {
        self.row().extensions
    }

    /// How well an offered payload type suits: lower is better, `None` where it is another codec or a variant that
    /// cannot be decoded.
    pub(super) fn rank(self, codec: &Codec) -> Option<u8> {
        let row = self.row();
        let is_this = codec.name.eq_ignore_ascii_case(row.name)
            && (codec.clock_rate, codec.channels) == (row.clock_rate, row.channels);
        if is_this { (row.rank)(codec) } else { None }
    }

    /// Parameters for `a=fmtp` of the answer, of the payload type that was chosen.
    pub(super) fn parameters(self, codec: &Codec, bitrate_start_kbps: u64) -> Vec<String> {
        let mut said = (self.row().parameters)(codec);
        if self.media() == "video" && bitrate_start_kbps > 0 {
            said.push(format!("x-google-start-bitrate={bitrate_start_kbps}"));
        }
        said
    }
}

fn h264_rank(codec: &Codec) -> Option<u8> {
    // RFC 6184 section 8.1: mode 0 where unsaid; mode 2 (interleaved) is not received.
    let mode = match codec.parameter("packetization-mode").unwrap_or("0") {
        "1" => 0,
        "0" => 10,
        _ => return None,
    };
    Some(mode + profile_rank(codec.parameter("profile-level-id"))?)
}

/// Constrained baseline first, which every sender and decoder knows (RFC 7742 section 6.2), then main, high, and
/// baseline, which in theory allows slice groups. Others (4:2:2, 4:4:4, extended) cannot be decoded.
fn profile_rank(profile_level_id: Option<&str>) -> Option<u8> {
    let Some(text) = profile_level_id else { return Some(0) };
    let value = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 6)?;
    let [_, profile, constraints, _] = value.to_be_bytes();
    match (profile, constraints & 0x40 != 0) {
        (66, true) => Some(0),
        (77, _) => Some(1),
        (100, _) => Some(2),
        (66, false) => Some(3),
        _ => None,
    }
}

/// RFC 6184 section 8.2.2: profile and mode are the offered ones; parameters that the offer leaves out stay at their
/// defaults.
fn h264_parameters(codec: &Codec) -> Vec<String> {
    ["level-asymmetry-allowed", "packetization-mode", "profile-level-id"]
        .into_iter()
        .filter_map(|name| Some((name, codec.parameter(name)?)))
        .filter(|(_, value)| value.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_codec_has_its_own_row() {
        for row in &ROWS {
            assert_eq!(row.codec.row().name, row.name);
            assert_eq!(KnownCodec::from_setting(&row.name.to_uppercase()), Some(row.codec));
        }
        assert_eq!(KnownCodec::from_setting("vp9"), None);
    }
}
