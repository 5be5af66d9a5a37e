//! What must be known of a track before its units can be used.

use std::num::NonZeroU32;

use bytes::Bytes;

/// Everything about a video track that units need: made anew when any of it changes, so that a change is visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoParams {
    /// The codec, with what its decoder must be told first.
    pub codec: VideoCodec,
    /// Width of the picture as sent, in pixels, after cropping (H.264 7.4.2.1.1) and before rotation.
    pub width: u32,
    /// Height likewise.
    pub height: u32,
    /// Width : height of one pixel (H.264 table E-1); 1:1 where unsaid.
    pub sample_aspect_ratio: (u16, u16),
    /// How its YUV samples become RGB.
    pub colour: Colour,
    /// Turn clockwise before showing (3GPP TS 26.114 section 7.4.5, coordination of video orientation).
    pub rotation: Rotation,
}

/// The codec of a video track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    /// ITU-T H.264. NAL units without length or start code.
    H264 {
        /// Sequence parameter sets in force.
        sps: Vec<Bytes>,
        /// Picture parameter sets in force.
        pps: Vec<Bytes>,
    },
    /// RFC 6386. Nothing is needed beside the frames: a keyframe says all.
    Vp8,
}

impl VideoCodec {
    /// The name used in signalling and REST ("H264").
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::H264 { .. } => "H264",
            Self::Vp8 => "VP8",
        }
    }

    /// The sequence and picture parameter sets of an H.264 track; `None` of any other.
    #[must_use]
    pub fn h264_sets(&self) -> Option<(&[Bytes], &[Bytes])> {
        match self {
            Self::H264 { sps, pps } => Some((sps, pps)),
            Self::Vp8 => None,
        }
    }
}

/// Matrix and range of YUV samples (H.264 annex E: `matrix_coefficients`, `video_full_range_flag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Colour {
    /// The matrix.
    pub matrix: Matrix,
    /// Luma spans 0–255 rather than 16–235.
    pub full_range: bool,
}

/// Matrix coefficients that we can convert from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// ITU-R BT.601 (values 5 and 6).
    Bt601,
    /// ITU-R BT.709 (value 1).
    Bt709,
    /// ITU-R BT.2020, non-constant luminance (value 9).
    Bt2020,
    /// SMPTE 240M (value 7).
    Smpte240,
    /// FCC (value 4).
    Fcc,
}

impl Colour {
    /// What is meant where the stream does not say: BT.601 for SD, BT.709 from 720 lines (either way up) on, limited range.
    #[must_use]
    pub fn unsaid(width: u32, height: u32) -> Self {
        let matrix = if width.min(height) >= 720 { Matrix::Bt709 } else { Matrix::Bt601 };
        Self { matrix, full_range: false }
    }
}

/// Clockwise quarter turns to apply before showing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rotation {
    /// As it is.
    #[default]
    None,
    /// 90 degrees clockwise.
    Cw90,
    /// Upside down.
    Cw180,
    /// 270 degrees clockwise.
    Cw270,
}

impl VideoParams {
    /// Width × height as shown, in pixels: after cropping and rotation. The sample aspect ratio is not applied.
    #[must_use]
    pub fn display_size(&self) -> (u32, u32) {
        match self.rotation {
            Rotation::None | Rotation::Cw180 => (self.width, self.height),
            Rotation::Cw90 | Rotation::Cw270 => (self.height, self.width),
        }
    }

    /// Width : height of one pixel as shown: a quarter turn swaps them.
    #[must_use]
    pub fn display_sample_aspect_ratio(&self) -> (u16, u16) {
        let (across, down) = self.sample_aspect_ratio;
        match self.rotation {
            Rotation::None | Rotation::Cw180 => (across, down),
            Rotation::Cw90 | Rotation::Cw270 => (down, across),
        }
    }

    /// Whether a decoder can go on from units of `other` to units of these: all but the rotation is equal.
    #[must_use]
    pub fn same_coding(&self, other: &Self) -> bool {
        self.codec == other.codec && (self.width, self.height) == (other.width, other.height)
    }
}

/// What must be known of an audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioParams {
    /// The codec.
    pub codec: AudioCodec,
    /// Samples a second, and ticks a second of its time stamps.
    pub sample_rate: NonZeroU32,
    /// Channels.
    pub channels: u8,
}

/// The codec of an audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioCodec {
    /// RFC 6716; one RTP packet is one frame packet (RFC 7587).
    Opus,
    /// ISO/IEC 14496-3; one frame is one raw data block, without ADTS.
    Aac {
        /// `AudioSpecificConfig` (ISO/IEC 14496-3 section 1.6.2.1).
        config: Bytes,
    },
    /// ITU-T G.711 with A-law; any number of samples is a frame.
    Pcma,
    /// ITU-T G.711 with µ-law; any number of samples is a frame.
    Pcmu,
}

impl AudioCodec {
    /// The name used in signalling, REST and the key `codecs` (protocol document, sections 9.3 and 11.2).
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Opus => "opus",
            Self::Aac { .. } => "mpeg4-generic",
            Self::Pcma => "alaw",
            Self::Pcmu => "ulaw",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portrait_hd_is_hd() {
        assert_eq!(Colour::unsaid(720, 1280).matrix, Matrix::Bt709);
        assert_eq!(Colour::unsaid(854, 480).matrix, Matrix::Bt601);
    }
}
