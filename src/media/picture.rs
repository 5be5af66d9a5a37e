//! Decoded pictures, as YUV planes and as RGB.

use std::sync::Arc;
use std::time::Instant;

use super::track::VideoParams;

/// A decoded picture as the decoder gives it: three planes of 8-bit samples, cropped to the track's width × height, not
/// rotated.
#[derive(Clone, Debug)]
pub struct YuvPicture {
    /// `seq` of the access unit it was decoded from.
    pub seq: u64,
    /// `arrived` of that unit.
    pub arrived: Instant,
    /// The track's parameters at that unit: size, colour, rotation.
    pub params: Arc<VideoParams>,
    /// How often `u` and `v` are sampled.
    pub sampling: ChromaSampling,
    /// Luma: height rows of width samples, no padding.
    pub y: Vec<u8>,
    /// Blue difference: [`ChromaSampling::rows`] rows of (width + 1) / 2 samples.
    pub u: Vec<u8>,
    /// Red difference, likewise.
    pub v: Vec<u8>,
}

/// How often chroma is sampled; across it is halved in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChromaSampling {
    /// 4:2:0: halved down, too (I420).
    #[default]
    Yuv420,
    /// 4:2:2: a row of chroma for each row of luma.
    Yuv422,
}

impl ChromaSampling {
    /// Rows of chroma of a picture of `height` rows.
    #[must_use]
    pub fn rows(self, height: usize) -> usize {
        match self {
            Self::Yuv420 => height.div_ceil(2),
            Self::Yuv422 => height,
        }
    }
}

/// A picture ready for an encoder: 8-bit R, G, B, rows from the top without padding, upright.
#[derive(Clone, Debug)]
pub struct RgbPicture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 3 × width × height bytes.
    pub rgb: Vec<u8>,
}
