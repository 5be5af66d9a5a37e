//! Pictures to H.264: the one door to the encoder of crate `openh264`.
//!
//! Constrained baseline, one slice thread, no reordering: what every browser decodes at once. When a
//! picture is encoded, and which, is the business of whoever owns an [`H264Encoder`].

use std::time::Instant;

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, MatrixCoefficients,
    RateControlMode, TransferCharacteristics, UsageType, VuiConfig,
};
use openh264::formats::YUVSource;

use crate::media::h264::assemble::{UnitBuilder, UnitTimes};
use crate::media::h264::framing::annex_b_units;
use crate::media::time::Timestamp;
use crate::media::track::{Colour, Matrix, Rotation};
use crate::media::unit::AccessUnit;

/// Longest side of a picture, in pixels: the library's own bound.
pub const LONG_SIDE_MAX: u32 = 3840;
/// Longest shorter side, in pixels.
pub const SHORT_SIDE_MAX: u32 = 2160;
/// Shortest side, in pixels.
pub const SIDE_MIN: u32 = 16;

/// Why there is no coded picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Odd, too small or too large.
    #[error("pictures of {width}x{height} cannot be encoded")]
    Size {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The planes do not have the sizes that go with the picture's.
    #[error("planes do not fit the picture")]
    Planes,
    /// What the library says.
    #[error("the encoder refused: {0}")]
    Library(String),
}

/// What an encoder makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Pixels in a row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// Pictures a second that the rate is spread over.
    pub frames_per_second: u32,
    /// Bits a second that rate control aims at; `None`: constant quality, about 0.5 Mbit/s at 1280×720 for drawn content.
    pub bitrate_bps: Option<u32>,
    /// Whether pictures are left out where the rate would be exceeded. Where they are not and there is a rate, the library writes
    /// a line of its own to standard error.
    pub may_skip: bool,
    /// Matrix and range, written into the SPS.
    pub colour: Colour,
}

/// A picture in planes of 8-bit samples without padding, chroma halved both ways (4:2:0).
#[derive(Clone, Copy, Debug)]
pub struct I420Planes<'a> {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Luma: `height` rows of `width` samples.
    pub y: &'a [u8],
    /// Blue difference: (height + 1) / 2 rows of (width + 1) / 2 samples.
    pub u: &'a [u8],
    /// Red difference, likewise.
    pub v: &'a [u8],
}

impl I420Planes<'_> {
    fn is_whole(&self) -> bool {
        let (luma, chroma) = (
            self.width as usize * self.height as usize,
            self.width.div_ceil(2) as usize * self.height.div_ceil(2) as usize,
        );
        self.y.len() == luma && self.u.len() == chroma && self.v.len() == chroma
    }
}

impl YUVSource for I420Planes<'_> {
    fn dimensions(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    fn strides(&self) -> (usize, usize, usize) {
        let chroma = self.width.div_ceil(2) as usize;
        (self.width as usize, chroma, chroma)
    }

    fn y(&self) -> &[u8] {
        self.y
    }

    fn u(&self) -> &[u8] {
        self.u
    }

    fn v(&self) -> &[u8] {
        self.v
    }
}

/// Encodes pictures to one access unit each, in the order in which they are given.
pub struct H264Encoder {
    settings: EncoderSettings,
    encoder: Encoder,
    /// Reads the encoder's output as any publisher's is read: so parameters say what the stream says.
    units: UnitBuilder,
    keyframe_wanted: bool,
}

impl std::fmt::Debug for H264Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H264Encoder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl H264Encoder {
    /// An encoder whose first unit will be a keyframe; afterwards they come when asked for.
    ///
    /// # Errors
    /// When the size is not usable or the library refuses.
    pub fn new(settings: EncoderSettings) -> Result<Self, EncodeError> {
        let EncoderSettings { width, height, .. } = settings;
        let (long, short) = (width.max(height), width.min(height));
        let fits = long <= LONG_SIDE_MAX && (SIDE_MIN..=SHORT_SIDE_MAX).contains(&short);
        if !fits || width % 2 == 1 || height % 2 == 1 {
            return Err(EncodeError::Size { width, height });
        }
        let encoder = library(&settings)?;
        let pixels_max = u64::from(LONG_SIDE_MAX) * u64::from(SHORT_SIDE_MAX.next_multiple_of(16));
        Ok(Self { settings, encoder, units: UnitBuilder::new(pixels_max), keyframe_wanted: true })
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> EncoderSettings {
        self.settings
    }

    /// Goes on with other settings: the next unit is a keyframe with parameter sets of its own.
    ///
    /// # Errors
    /// As [`H264Encoder::new`]; the encoder then goes on as before.
    pub fn change(&mut self, settings: EncoderSettings) -> Result<(), EncodeError> {
        *self = Self::new(settings)?;
        Ok(())
    }

    /// Makes the next unit a keyframe.
    pub fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// How pictures are to be turned before showing, from the next one on: the encoder leaves them as they are.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.units.set_rotation(rotation);
    }

    /// The next picture as an access unit that is shown at `pts` and was captured at `arrived`; `None` where it is left out.
    ///
    /// # Errors
    /// When the picture is not of the encoder's size or the library fails; the next unit is then a keyframe.
    pub fn encode(
        &mut self,
        picture: &I420Planes<'_>,
        pts: Timestamp,
        arrived: Instant,
    ) -> Result<Option<AccessUnit>, EncodeError> {
        let size = (picture.width, picture.height);
        if size != (self.settings.width, self.settings.height) || !picture.is_whole() {
            return Err(EncodeError::Planes);
        }
        let is_keyframe_wanted = self.keyframe_wanted;
        if is_keyframe_wanted {
            self.encoder.force_intra_frame();
        }
        // Until it worked: a failure leaves the decoder's references in doubt.
        self.keyframe_wanted = true;
        let millis = pts.rescale(MILLISECONDS).ticks;
        let time = openh264::Timestamp::from_millis(u64::try_from(millis).unwrap_or(0));
        let stream = self.encoder.encode_at(picture, time).map_err(refused)?;
        match stream.frame_type() {
            FrameType::IDR | FrameType::I | FrameType::P => {}
            FrameType::Skip if self.settings.may_skip => {
                self.keyframe_wanted = is_keyframe_wanted;
                return Ok(None);
            }
            other => return Err(EncodeError::Library(format!("no picture ({other:?})"))),
        }
        for layer in (0..stream.num_layers()).filter_map(|index| stream.layer(index)) {
            for nal in (0..layer.nal_count()).filter_map(|index| layer.nal_unit(index)) {
                annex_b_units(nal).for_each(|nal| self.units.push(nal));
            }
        }
        let unit = self.units.finish(UnitTimes { arrived, pts, dts: pts });
        let unit = unit.map_err(|error| EncodeError::Library(error.to_string()))?;
        let unit = unit.ok_or_else(|| EncodeError::Library("no slice".into()))?;
        self.keyframe_wanted = false;
        Ok(Some(unit))
    }
}

const MILLISECONDS: std::num::NonZeroU32 = std::num::NonZeroU32::new(1000).unwrap();

fn library(settings: &EncoderSettings) -> Result<Encoder, EncodeError> {
    // Light on the processor, and no will of its own: keyframes only when told.
    let rate_control =
        settings.bitrate_bps.map_or(RateControlMode::Bufferbased, |_| RateControlMode::Bitrate);
    let config = EncoderConfig::new()
        .bitrate(BitRate::from_bps(settings.bitrate_bps.unwrap_or(2_000_000)))
        .max_frame_rate(FrameRate::from_hz(settings.frames_per_second.max(1) as f32))
        .rate_control_mode(rate_control)
        .skip_frames(settings.may_skip)
        .usage_type(UsageType::CameraVideoRealTime)
        .complexity(Complexity::Low)
        .scene_change_detect(false)
        .background_detection(false)
        .adaptive_quantization(false)
        .num_threads(1)
        .vui(vui(settings.colour));
    Encoder::with_api_config(OpenH264API::from_source(), config).map_err(refused)
}

fn vui(colour: Colour) -> VuiConfig {
    let (primaries, transfer, matrix) = match colour.matrix {
        Matrix::Bt601 => {
            (ColorPrimaries::Smpte170M, TransferCharacteristics::Smpte170M, MatrixCoefficients::Smpte170M)
        }
        Matrix::Bt709 => (ColorPrimaries::Bt709, TransferCharacteristics::Bt709, MatrixCoefficients::Bt709),
        Matrix::Bt2020 => {
            (ColorPrimaries::Bt2020, TransferCharacteristics::Bt2020_10, MatrixCoefficients::Bt2020Ncl)
        }
        Matrix::Smpte240 => {
            (ColorPrimaries::Smpte240M, TransferCharacteristics::Smpte240M, MatrixCoefficients::Smpte240M)
        }
        Matrix::Fcc => (ColorPrimaries::Bt470M, TransferCharacteristics::Bt470M, MatrixCoefficients::Fcc),
    };
    VuiConfig::new()
        .color_primaries(primaries)
        .transfer_characteristics(transfer)
        .matrix_coefficients(matrix)
        .full_range(colour.full_range)
}

fn refused(error: openh264::Error) -> EncodeError {
    EncodeError::Library(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    fn settings(width: u32, height: u32) -> EncoderSettings {
        let colour = Colour::unsaid(width, height);
        EncoderSettings { width, height, frames_per_second: 30, bitrate_bps: None, may_skip: false, colour }
    }

    #[test]
    fn sizes_that_cannot_be_encoded_are_refused_by_name() {
        for (width, height) in [(15, 16), (14, 64), (64, 14), (3842, 2160), (2162, 3840), (2200, 2200)] {
            let refused = H264Encoder::new(settings(width, height)).err();
            assert_eq!(refused, Some(EncodeError::Size { width, height }));
        }
        assert!(H264Encoder::new(settings(16, 16)).is_ok());
    }

    #[test]
    fn keyframes_come_first_and_when_asked_for() {
        let mut encoder = H264Encoder::new(settings(64, 64)).unwrap();
        let (luma, chroma) = (vec![90; 64 * 64], vec![128; 32 * 32]);
        let whole = I420Planes { width: 64, height: 64, y: &luma, u: &chroma, v: &chroma };
        let now = Clock::manual().now();
        let mut key = |planes: &I420Planes<'_>| {
            encoder.encode(planes, Timestamp::video(0), now).map(|unit| unit.unwrap().key)
        };
        assert_eq!((key(&whole), key(&whole)), (Ok(true), Ok(false)));
        assert_eq!(key(&I420Planes { y: &luma[1..], ..whole }), Err(EncodeError::Planes));
        assert_eq!(key(&I420Planes { width: 32, ..whole }), Err(EncodeError::Planes));
        assert_eq!(key(&whole), Ok(false), "a picture that was not begun leaves no doubt");
        encoder.request_keyframe();
        let unit = encoder.encode(&whole, Timestamp::video(0), now).unwrap().unwrap();
        assert!(unit.key && !unit.bidirectional);
        assert_eq!((unit.params.width, unit.params.height), (64, 64));
    }

    #[test]
    fn a_rate_is_kept_where_pictures_may_be_left_out() {
        let (width, height, bitrate_bps) = (320, 240, Some(200_000));
        let wanted = EncoderSettings { bitrate_bps, may_skip: true, ..settings(width, height) };
        let mut encoder = H264Encoder::new(wanted).unwrap();
        let (mut bits, mut random, now) = (0, 1_u32, Clock::manual().now());
        // Noise, of which no encoder makes little.
        for number in 0..90 {
            let mut noise = |count: u32| -> Vec<u8> {
                let next = |_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 24) as u8
                };
                (0..count).map(next).collect()
            };
            let (y, u, v) = (noise(width * height), noise(160 * 120), noise(160 * 120));
            let planes = I420Planes { width, height, y: &y, u: &u, v: &v };
            let unit = encoder.encode(&planes, Timestamp::video(number * 3000), now).unwrap();
            bits += unit.map_or(0, |unit| unit.data.len() * 8);
        }
        assert!((300_000..1_200_000).contains(&bits), "{bits} bits in three seconds");
    }
}
