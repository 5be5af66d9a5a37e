//! VP8 frames (RFC 6386), as far as a server must look into them: the frame tag and the header of keyframes.
//!
//! What belongs here: size, kind and visibility of a frame, and the unit that is made of it. What does not: how frames
//! travel (`proto::rtp::depack_vp8`) and what they show (`services::decode`).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use thiserror::Error;

use super::time::Timestamp;
use super::track::{Colour, Matrix, Rotation, VideoCodec, VideoParams};
use super::unit::AccessUnit;

/// Largest frame that is taken: the bound of H.264 access units, for the same streams.
pub const FRAME_BYTES_MAX: usize = super::h264::assemble::UNIT_BYTES_MAX;

/// Bytes of the frame tag.
const TAG_BYTES: usize = 3;
/// Bytes of the tag, the start code and the two sizes of a keyframe.
const KEYFRAME_HEADER_BYTES: usize = 10;
/// Follows the tag of a keyframe.
const START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];
/// Highest version of the bit stream (section 9.1); what higher ones mean is not defined.
const VERSION_MAX: u8 = 3;

/// What VP8 samples mean. Section 9.2 knows one colour space, "similar to" BT.601, and no range but the usual one.
pub const COLOUR: Colour = Colour { matrix: Matrix::Bt601, full_range: false };

/// Why a frame cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// More than [`FRAME_BYTES_MAX`].
    #[error("frame is too large")]
    TooLarge,
    /// It ends within its header, or within the first of its partitions.
    #[error("frame of {0} bytes is cut short")]
    Short(usize),
    /// A version of the bit stream that RFC 6386 does not define.
    #[error("bit stream version {0}")]
    Version(u8),
    /// A keyframe without the start code.
    #[error("keyframe without start code")]
    StartCode,
    /// A keyframe of no width or no height.
    #[error("keyframe of {width}x{height}")]
    Empty {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A keyframe of more pixels than are allowed.
    #[error("keyframe of {width}x{height}, {pixels_max} pixels are allowed")]
    TooManyPixels {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The bound.
        pixels_max: u64,
    },
    /// A frame that refers to others before any keyframe.
    #[error("no keyframe yet")]
    NoKeyframe,
}

/// The part of a frame that is not entropy-coded (RFC 6386 section 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Says which reconstruction filters are used, 0–3.
    pub version: u8,
    /// The frame is to be shown; otherwise others refer to it, and that is all.
    pub shown: bool,
    /// Bytes of the first partition, which holds modes and motion vectors.
    pub first_partition_bytes: u32,
    /// Of a keyframe; `None` of a frame that refers to others.
    pub key: Option<KeyframeHeader>,
}

/// What a keyframe says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyframeHeader {
    /// Pixels in a row, 1–16383.
    pub width: u32,
    /// Rows, likewise.
    pub height: u32,
    /// How much wider the sender would like it shown (0: as it is, 1: 5/4, 2: 5/3, 3: 2). Browsers do not heed it, and
    /// neither do pictures made here.
    pub horizontal_scale: u8,
    /// Likewise higher.
    pub vertical_scale: u8,
    /// The reserved colour space (section 9.2) rather than that of [`COLOUR`].
    pub reserved_colour: bool,
    /// The sender vouches that no sample leaves 0–255. Read only with the colour space that is defined.
    pub unclamped: bool,
}

impl FrameHeader {
    /// Reads the header of a whole frame.
    ///
    /// # Errors
    /// When the frame cannot be decoded for what its header says, or is shorter than that.
    pub fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short(frame.len());
        let tag = *frame.first_chunk::<TAG_BYTES>().ok_or(short)?;
        let bits = u32::from_le_bytes([tag[0], tag[1], tag[2], 0]);
        let version = (bits >> 1 & 7) as u8;
        if version > VERSION_MAX {
            return Err(FrameError::Version(version));
        }
        let is_key = bits & 1 == 0;
        let header_bytes = if is_key { KEYFRAME_HEADER_BYTES } else { TAG_BYTES };
        let first_partition_bytes = bits >> 5;
        let rest = frame.get(header_bytes..).ok_or(short)?;
        // Every frame has at least the entropy-coded header in its first partition.
        if first_partition_bytes == 0 || rest.len() < first_partition_bytes as usize {
            return Err(short);
        }
        let key = if is_key { Some(KeyframeHeader::parse(frame)?) } else { None };
        Ok(Self { version, shown: bits >> 4 & 1 == 1, first_partition_bytes, key })
    }
}

impl KeyframeHeader {
    fn parse(frame: &[u8]) -> Result<Self, FrameError> {
        let short = FrameError::Short(frame.len());
        let &[_, _, _, a, b, c, w0, w1, h0, h1, coded] = frame.first_chunk().ok_or(short)?;
        if [a, b, c] != START_CODE {
            return Err(FrameError::StartCode);
        }
        let (across, down) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]));
        let (width, height) = (u32::from(across & 0x3FFF), u32::from(down & 0x3FFF));
        if width == 0 || height == 0 {
            return Err(FrameError::Empty { width, height });
        }
        // The first two entropy-coded flags have even odds, which leaves the first one as it is, and the second one
        // where the first is 0 (section 7.3).
        let reserved_colour = coded & 0x80 != 0;
        Ok(Self {
            width,
            height,
            horizontal_scale: (across >> 14) as u8,
            vertical_scale: (down >> 14) as u8,
            reserved_colour,
            unclamped: !reserved_colour && coded & 0x40 != 0,
        })
    }

    /// Pixels of the coded picture: whole macroblocks.
    #[must_use]
    pub fn coded_pixels(&self) -> u64 {
        u64::from(self.width.next_multiple_of(16)) * u64::from(self.height.next_multiple_of(16))
    }
}

/// Makes units of frames: keeps the parameters that the last keyframe gave.
#[derive(Debug)]
pub struct FrameUnits {
    pixels_max: u64,
    rotation: Rotation,
    params: Option<Arc<VideoParams>>,
}

impl FrameUnits {
    /// One that knows no keyframe; keyframes of more than `pixels_max` pixels are refused.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self { pixels_max, rotation: Rotation::None, params: None }
    }

    /// How pictures are to be turned, from the next one on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    /// The parameters of the last unit made.
    #[must_use]
    pub fn params(&self) -> Option<&Arc<VideoParams>> {
        self.params.as_ref()
    }

    /// Makes the unit of a whole frame. `disposable` is false: that nothing refers to a frame is said deep inside it, and
    /// taking none for such only costs the time to decode it.
    ///
    /// # Errors
    /// When the frame cannot be decoded for what its header says.
    pub fn unit(&mut self, frame: &[u8], arrived: Instant, pts: Timestamp) -> Result<AccessUnit, FrameError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge);
        }
        let header = FrameHeader::parse(frame)?;
        let (width, height) = match (&header.key, &self.params) {
            (Some(key), _) if key.coded_pixels() > self.pixels_max => {
                let (width, height, pixels_max) = (key.width, key.height, self.pixels_max);
                return Err(FrameError::TooManyPixels { width, height, pixels_max });
            }
            (Some(key), _) => (key.width, key.height),
            (None, Some(params)) => (params.width, params.height),
            (None, None) => return Err(FrameError::NoKeyframe),
        };
        let wanted = VideoParams {
            codec: VideoCodec::Vp8,
            width,
            height,
            sample_aspect_ratio: (1, 1),
            colour: COLOUR,
            rotation: self.rotation,
        };
        let params = match &self.params {
            Some(params) if **params == wanted => params.clone(),
            _ => Arc::new(wanted),
        };
        self.params = Some(params.clone());
        Ok(AccessUnit {
            seq: 0,
            arrived,
            pts,
            // VP8 is shown in the order in which it is decoded.
            dts: pts,
            key: header.key.is_some(),
            disposable: false,
            bidirectional: false,
            hidden: !header.shown,
            params,
            data: Bytes::copy_from_slice(frame),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::clock::Clock;

    /// A keyframe's header, and `size` bytes in all.
    pub(crate) fn keyframe(width: u16, height: u16, size: usize) -> Vec<u8> {
        frame(true, true, size, &[width.to_le_bytes(), height.to_le_bytes()].concat())
    }

    /// A frame that refers to others, of `size` bytes in all.
    pub(crate) fn interframe(size: usize) -> Vec<u8> {
        frame(false, true, size, &[])
    }

    /// A frame that is not to be shown.
    pub(crate) fn hidden(size: usize) -> Vec<u8> {
        frame(false, false, size, &[])
    }

    fn frame(key: bool, shown: bool, size: usize, sizes: &[u8]) -> Vec<u8> {
        let bits = u32::from(!key) | u32::from(shown) << 4 | 1 << 5;
        let mut frame = bits.to_le_bytes()[..3].to_vec();
        if key {
            frame.extend_from_slice(&START_CODE);
            frame.extend_from_slice(sizes);
        }
        frame.resize(size.max(frame.len() + 1), 0);
        frame
    }

    fn unit(units: &mut FrameUnits, frame: &[u8]) -> Result<AccessUnit, FrameError> {
        units.unit(frame, Clock::manual().now(), Timestamp::video(0))
    }

    #[test]
    fn a_keyframe_says_its_size_without_the_scale() {
        let key = FrameHeader::parse(&keyframe(638 | 1 << 14, 358 | 3 << 14, 20)).unwrap().key.unwrap();
        assert_eq!((key.width, key.height), (638, 358));
        assert_eq!((key.horizontal_scale, key.vertical_scale), (1, 3));
        assert_eq!(key.coded_pixels(), 640 * 368);
    }

    #[test]
    fn the_first_two_coded_flags_are_read() {
        let mut frame = keyframe(16, 16, 20);
        let flags = |frame: &[u8]| {
            let key = FrameHeader::parse(frame).unwrap().key.unwrap();
            (key.reserved_colour, key.unclamped)
        };
        assert_eq!(flags(&frame), (false, false));
        frame[10] = 0x40;
        assert_eq!(flags(&frame), (false, true));
        frame[10] = 0x80;
        assert_eq!(flags(&frame), (true, false));
    }

    #[test]
    fn what_cannot_be_a_frame_is_refused() {
        let whole = keyframe(64, 64, 30);
        for length in 0..11 {
            assert_eq!(FrameHeader::parse(&whole[..length]), Err(FrameError::Short(length)));
        }
        let mut wrong = whole.clone();
        wrong[4] = 0;
        assert_eq!(FrameHeader::parse(&wrong), Err(FrameError::StartCode));
        let mut wrong = whole.clone();
        wrong[0] |= 4 << 1;
        assert_eq!(FrameHeader::parse(&wrong), Err(FrameError::Version(4)));
        let mut wrong = whole.clone();
        wrong[1] = 3;
        assert_eq!(
            FrameHeader::parse(&wrong),
            Err(FrameError::Short(30)),
            "a first partition of 25 bytes where there are 20"
        );
        let empty = Err(FrameError::Empty { width: 64, height: 0 });
        assert_eq!(FrameHeader::parse(&keyframe(64, 0, 30)), empty);
    }

    #[test]
    fn parameters_change_with_the_size_and_the_rotation_alone() {
        let mut units = FrameUnits::new(1 << 20);
        assert_eq!(unit(&mut units, &interframe(9)).unwrap_err(), FrameError::NoKeyframe);
        let first = unit(&mut units, &keyframe(640, 480, 30)).unwrap();
        assert!(first.key && !first.hidden);
        let second = unit(&mut units, &interframe(9)).unwrap();
        assert!(!second.key && Arc::ptr_eq(&first.params, &second.params));
        assert!(unit(&mut units, &hidden(9)).unwrap().hidden);
        units.set_rotation(Rotation::Cw90);
        let third = unit(&mut units, &interframe(9)).unwrap();
        assert_eq!((third.params.rotation, third.params.display_size()), (Rotation::Cw90, (480, 640)));
        assert!(third.params.same_coding(&second.params));
        let fourth = unit(&mut units, &keyframe(320, 240, 30)).unwrap();
        assert_eq!((fourth.params.width, fourth.params.height), (320, 240));
        assert!(!fourth.params.same_coding(&third.params));
    }

    #[test]
    fn pictures_past_the_bound_are_refused_by_their_whole_macroblocks() {
        let mut units = FrameUnits::new(640 * 480);
        assert!(unit(&mut units, &keyframe(639, 479, 30)).is_ok());
        let refused = FrameError::TooManyPixels { width: 641, height: 480, pixels_max: 640 * 480 };
        assert_eq!(unit(&mut units, &keyframe(641, 480, 30)).unwrap_err(), refused);
        let large = interframe(FRAME_BYTES_MAX + 1);
        assert_eq!(unit(&mut units, &large).unwrap_err(), FrameError::TooLarge);
    }
}
