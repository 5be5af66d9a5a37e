//! Tag bodies: the payload of audio and video messages (FLV 10.1 annex E.4.2, E.4.3; Enhanced RTMP v2, "ExVideoTagHeader"
//! and "ExAudioTagHeader").
//!
//! What belongs here: taking a body apart. What its pictures are belongs in `media_reader`.

use bytes::Bytes;
use thiserror::Error;

/// A codec that Enhanced RTMP names by four characters.
pub type FourCc = [u8; 4];

/// H.264 by Enhanced RTMP.
pub const AVC1: FourCc = *b"avc1";
/// VP8 by Enhanced RTMP.
pub const VP08: FourCc = *b"vp08";
/// AAC by Enhanced RTMP.
pub const MP4A: FourCc = *b"mp4a";
/// Opus by Enhanced RTMP.
pub const OPUS: FourCc = *b"Opus";

/// Why a body is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TagError {
    /// It is cut short.
    #[error("tag is cut short")]
    Truncated,
    /// A codec that is not taken; names it.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Several tracks in one (Enhanced RTMP v2, "multitrack").
    #[error("several tracks of one kind (Enhanced RTMP multitrack) are not supported")]
    Multitrack,
}

/// A video body, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoTag {
    /// `AVCDecoderConfigurationRecord`.
    H264Config(Bytes),
    /// A coded picture: NAL units after their lengths.
    H264 {
        /// PTS less DTS in milliseconds.
        composition_ms: i32,
        /// The NAL units.
        data: Bytes,
    },
    /// Nothing to show: ends of sequence, commands, metadata about colours.
    Nothing,
}

/// An audio body, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTag {
    /// `AudioSpecificConfig`.
    AacConfig(Bytes),
    /// A raw AAC frame.
    Aac(Bytes),
    /// An Opus identification header (RFC 7845 section 5.1).
    OpusConfig(Bytes),
    /// An Opus packet.
    Opus(Bytes),
    /// G.711 samples at 8 kHz.
    G711 {
        /// A-law rather than µ-law.
        a_law: bool,
        /// Two channels rather than one.
        stereo: bool,
        /// The samples.
        data: Bytes,
    },
    /// Nothing to hear.
    Nothing,
}

/// A body being taken apart.
struct Body(Bytes);

impl Body {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], TagError> {
        let taken = *self.0.first_chunk::<N>().ok_or(TagError::Truncated)?;
        let _ = self.0.split_to(N);
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), TagError> {
        if count > self.0.len() {
            return Err(TagError::Truncated);
        }
        let _ = self.0.split_to(count);
        Ok(())
    }

    fn composition_ms(&mut self) -> Result<i32, TagError> {
        let [a, b, c] = self.take()?;
        // 24 bits with a sign.
        Ok(i32::from_be_bytes([a, b, c, 0]) >> 8)
    }

    /// Passes over modifiers of the packet (Enhanced RTMP v2, "ModEx") and returns its type.
    fn packet_type(&mut self, mut packet_type: u8) -> Result<u8, TagError> {
        const MODIFIER: u8 = 7;
        while packet_type == MODIFIER {
            let [size] = self.take()?;
            let mut size = usize::from(size) + 1;
            if size == 256 {
                size = usize::from(u16::from_be_bytes(self.take()?)) + 1;
            }
            self.skip(size)?;
            let [types] = self.take()?;
            packet_type = types & 0x0F;
        }
        Ok(packet_type)
    }
}

/// Takes a video body apart.
///
/// # Errors
/// When it cannot be used.
pub fn parse_video(body: Bytes) -> Result<VideoTag, TagError> {
    if body.is_empty() {
        return Ok(VideoTag::Nothing);
    }
    let mut body = Body(body);
    let [first] = body.take()?;
    let frame_type = first >> 4 & 7;
    /// A command to the player rather than a picture.
    const COMMAND_FRAME: u8 = 5;
    if first & 0x80 != 0 {
        return parse_enhanced_video(body, frame_type == COMMAND_FRAME, first & 0x0F);
    }
    if frame_type == COMMAND_FRAME {
        return Ok(VideoTag::Nothing);
    }
    let name = match first & 0x0F {
        7 => {
            let [packet_type] = body.take()?;
            let composition_ms = body.composition_ms()?;
            return Ok(match packet_type {
                0 => VideoTag::H264Config(body.0),
                1 => VideoTag::H264 { composition_ms, data: body.0 },
                _ => VideoTag::Nothing,
            });
        }
        2 => "Sorenson H.263",
        3 | 6 => "Screen video",
        4 | 5 => "VP6",
        12 => "HEVC",
        13 => "AV1",
        other => return Err(TagError::Unsupported(format!("video codec {other}"))),
    };
    Err(TagError::Unsupported(name.to_owned()))
}

fn parse_enhanced_video(mut body: Body, is_command: bool, packet_type: u8) -> Result<VideoTag, TagError> {
    const SEQUENCE_START: u8 = 0;
    const CODED_FRAMES: u8 = 1;
    const CODED_FRAMES_X: u8 = 3;
    const METADATA: u8 = 4;
    const MULTITRACK: u8 = 6;
    let packet_type = body.packet_type(packet_type)?;
    if packet_type == METADATA || is_command {
        return Ok(VideoTag::Nothing);
    }
    if packet_type == MULTITRACK {
        return Err(TagError::Multitrack);
    }
    let codec: FourCc = body.take()?;
    if codec != AVC1 {
        return Err(TagError::Unsupported(video_name(codec)));
    }
    Ok(match packet_type {
        SEQUENCE_START => VideoTag::H264Config(body.0),
        CODED_FRAMES => VideoTag::H264 { composition_ms: body.composition_ms()?, data: body.0 },
        CODED_FRAMES_X => VideoTag::H264 { composition_ms: 0, data: body.0 },
        _ => VideoTag::Nothing,
    })
}

fn video_name(codec: FourCc) -> String {
    match &codec {
        b"hvc1" | b"hev1" => "HEVC".to_owned(),
        b"av01" => "AV1".to_owned(),
        b"vp09" => "VP9".to_owned(),
        b"vp08" => "VP8 by RTMP".to_owned(),
        b"vvc1" => "VVC".to_owned(),
        _ => format!("video codec \"{}\"", codec.escape_ascii()),
    }
}

/// Takes an audio body apart.
///
/// # Errors
/// When it cannot be used.
pub fn parse_audio(body: Bytes) -> Result<AudioTag, TagError> {
    if body.is_empty() {
        return Ok(AudioTag::Nothing);
    }
    let mut body = Body(body);
    let [first] = body.take()?;
    let name = match first >> 4 {
        10 => {
            let [packet_type] = body.take()?;
            return Ok(if packet_type == 0 { AudioTag::AacConfig(body.0) } else { AudioTag::Aac(body.0) });
        }
        format @ (7 | 8) => {
            return Ok(AudioTag::G711 { a_law: format == 7, stereo: first & 1 == 1, data: body.0 });
        }
        9 => return parse_enhanced_audio(body, first & 0x0F),
        0 | 3 => "PCM",
        1 => "ADPCM",
        2 | 14 => "MP3",
        4..=6 => "Nellymoser",
        11 => "Speex",
        other => return Err(TagError::Unsupported(format!("audio codec {other}"))),
    };
    Err(TagError::Unsupported(name.to_owned()))
}

fn parse_enhanced_audio(mut body: Body, packet_type: u8) -> Result<AudioTag, TagError> {
    const SEQUENCE_START: u8 = 0;
    const CODED_FRAMES: u8 = 1;
    const MULTITRACK: u8 = 5;
    let packet_type = body.packet_type(packet_type)?;
    if packet_type == MULTITRACK {
        return Err(TagError::Multitrack);
    }
    let codec: FourCc = body.take()?;
    Ok(match (codec, packet_type) {
        (OPUS, SEQUENCE_START) => AudioTag::OpusConfig(body.0),
        (OPUS, CODED_FRAMES) => AudioTag::Opus(body.0),
        (MP4A, SEQUENCE_START) => AudioTag::AacConfig(body.0),
        (MP4A, CODED_FRAMES) => AudioTag::Aac(body.0),
        (OPUS | MP4A, _) => AudioTag::Nothing,
        (other, _) => {
            return Err(TagError::Unsupported(format!("audio codec \"{}\"", other.escape_ascii())));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(body: &[u8]) -> Result<VideoTag, TagError> {
        parse_video(Bytes::copy_from_slice(body))
    }

    fn audio(body: &[u8]) -> Result<AudioTag, TagError> {
        parse_audio(Bytes::copy_from_slice(body))
    }

    fn unsupported<T>(name: &str) -> Result<T, TagError> {
        Err(TagError::Unsupported(name.to_owned()))
    }

    #[test]
    fn h264_comes_in_the_old_and_in_the_enhanced_form() {
        let data = Bytes::from_static(b"\0\0\0\x01\x65");
        let coded = |composition_ms| Ok(VideoTag::H264 { composition_ms, data: data.clone() });
        assert_eq!(video(b"\x17\x01\x00\x00\x21\0\0\0\x01\x65"), coded(33));
        assert_eq!(video(b"\x27\x01\xFF\xFF\xDF\0\0\0\x01\x65"), coded(-33));
        assert_eq!(video(b"\x91avc1\x00\x00\x21\0\0\0\x01\x65"), coded(33));
        assert_eq!(video(b"\xA3avc1\0\0\0\x01\x65"), coded(0));
        let config = Ok(VideoTag::H264Config(Bytes::from_static(b"record")));
        assert_eq!(video(b"\x17\0\0\0\0record"), config);
        assert_eq!(video(b"\x90avc1record"), config);
        // A modifier of three bytes that tells nanoseconds before the same.
        assert_eq!(video(b"\x97\x02abc\x00avc1record"), config);
        for nothing in
            [b"".as_slice(), b"\x17\x02\0\0\0", b"\x92avc1", b"\x94avc1colours", b"\x57\x00", b"\xD0"]
        {
            assert_eq!(video(nothing), Ok(VideoTag::Nothing), "{nothing:?}");
        }
    }

    #[test]
    fn what_is_not_taken_is_named() {
        assert_eq!(video(b"\x90hvc1record"), unsupported("HEVC"));
        assert_eq!(video(b"\x1C\0\0\0\0record"), unsupported("HEVC"));
        assert_eq!(video(b"\x90av01record"), unsupported("AV1"));
        assert_eq!(video(b"\x90vp09record"), unsupported("VP9"));
        assert_eq!(video(b"\x22data"), unsupported("Sorenson H.263"));
        assert_eq!(video(b"\x90\x01\r\n;r"), unsupported("video codec \"\\x01\\r\\n;\""));
        assert_eq!(video(b"\x96\x00avc1"), Err(TagError::Multitrack));
        assert_eq!(audio(b"\x2Fdata"), unsupported("MP3"));
        assert_eq!(audio(b"\x90fLaCdata"), unsupported("audio codec \"fLaC\""));
        assert_eq!(audio(b"\x95\x00Opus"), Err(TagError::Multitrack));
        for cut in
            [b"\x17".as_slice(), b"\x17\x01\0\0", b"\x90av", b"\x91avc1\0", b"\x97\xFF\0", b"\x97\x05ab"]
        {
            assert_eq!(video(cut), Err(TagError::Truncated), "{cut:?}");
        }
    }

    #[test]
    fn sound_comes_in_four_codecs() {
        let data = Bytes::from_static(b"data");
        assert_eq!(audio(b"\xAF\x00data"), Ok(AudioTag::AacConfig(data.clone())));
        assert_eq!(audio(b"\xAF\x01data"), Ok(AudioTag::Aac(data.clone())));
        assert_eq!(audio(b"\x91mp4adata"), Ok(AudioTag::Aac(data.clone())));
        assert_eq!(audio(b"\x90Opusdata"), Ok(AudioTag::OpusConfig(data.clone())));
        assert_eq!(audio(b"\x91Opusdata"), Ok(AudioTag::Opus(data.clone())));
        assert_eq!(audio(b"\x7Edata"), Ok(AudioTag::G711 { a_law: true, stereo: false, data: data.clone() }));
        assert_eq!(audio(b"\x8Fdata"), Ok(AudioTag::G711 { a_law: false, stereo: true, data }));
        assert_eq!((audio(b""), audio(b"\x94Opus")), (Ok(AudioTag::Nothing), Ok(AudioTag::Nothing)));
        assert_eq!(audio(b"\xAF"), Err(TagError::Truncated));
    }
}
