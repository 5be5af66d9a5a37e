//! The card as H.264: the one door to the encoder.

use std::ops::Range;
use std::time::{Instant, SystemTime};

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, MatrixCoefficients,
    RateControlMode, TransferCharacteristics, UsageType, VuiConfig,
};
use openh264::formats::YUVSource;

use super::CardError;
use super::draw::{I420, TestCard};
use crate::base::clock::Clock;
use crate::hub::Publisher;
use crate::media::h264::assemble::{UnitBuilder, UnitTimes};
use crate::media::h264::framing::{annex_b_units, append_annex_b};
use crate::media::time::Timestamp;
use crate::media::track::{Colour, Matrix};
use crate::media::unit::AccessUnit;

/// What kind of stream a card becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardSettings {
    /// Pixels in a row; even.
    pub width: u32,
    /// Rows; even.
    pub height: u32,
    /// Pictures a second: the step of time stamps, and what the bit rate is spread over.
    pub frames_per_second: u32,
    /// Pictures from one keyframe to the next; 0: only the first one and those asked for.
    pub keyframe_interval: u32,
    /// Bits a second that rate control aims at; `None`: constant quality, about 0.5 Mbit/s at 1280×720. With a rate
    /// the encoder library writes a line of its own to standard error.
    pub bitrate_bps: Option<u32>,
    /// Matrix and range, written into the SPS; `None`: what a decoder assumes where the stream does not say
    /// ([`Colour::unsaid`]), also written.
    pub colour: Option<Colour>,
}

impl CardSettings {
    /// A light stream of this size: 30 pictures a second, a keyframe every second, constant quality.
    #[must_use]
    pub fn sized(width: u32, height: u32) -> Self {
        Self { width, height, frames_per_second: 30, keyframe_interval: 30, bitrate_bps: None, colour: None }
    }
}

/// Encodes cards, each frame to one access unit; no picture is left out, none is reordered.
pub struct CardEncoder {
    settings: CardSettings,
    card: TestCard,
    encoder: Encoder,
    /// Reads the encoder's output as any publisher's is read: so parameters say what the stream says.
    units: UnitBuilder,
    since_key: u32,
    key_wanted: bool,
}

impl std::fmt::Debug for CardEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CardEncoder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl CardEncoder {
    /// An encoder whose first unit will be a keyframe.
    ///
    /// # Errors
    /// When the size is not usable.
    pub fn new(settings: CardSettings) -> Result<Self, CardError> {
        let colour = colour_of(&settings);
        let card = card(&settings, colour)?;
        let encoder = encoder(&settings, colour)?;
        let units = UnitBuilder::new(PIXELS_MAX);
        Ok(Self { settings, card, encoder, units, since_key: 0, key_wanted: true })
    }

    /// Frame `number` as an access unit that was captured at `arrived`; the card shows `wall`. Its time stamp is
    /// `number` / `frames_per_second`, so that numbers left out are a jump in time.
    ///
    /// # Errors
    /// When the encoder fails; the next unit is then a keyframe.
    pub fn encode(
        &mut self,
        number: u32,
        arrived: Instant,
        wall: SystemTime,
    ) -> Result<AccessUnit, CardError> {
        let interval = self.settings.keyframe_interval;
        if self.key_wanted || (interval > 0 && self.since_key >= interval) {
            self.encoder.force_intra_frame();
            self.since_key = 0;
        }
        // Until it worked: a failure leaves the decoder's references in doubt.
        self.key_wanted = true;
        let picture = self.card.draw(number, wall);
        let ticks = i64::from(number) * 90_000 / i64::from(self.settings.frames_per_second.max(1));
        let time = openh264::Timestamp::from_millis(u64::try_from(ticks / 90).unwrap_or(0));
        let stream = self.encoder.encode_at(&Planes(picture), time).map_err(refused)?;
        if !matches!(stream.frame_type(), FrameType::IDR | FrameType::I | FrameType::P) {
            return Err(CardError::Encoder(format!("no picture ({:?})", stream.frame_type())));
        }
        for layer in (0..stream.num_layers()).filter_map(|index| stream.layer(index)) {
            for nal in (0..layer.nal_count()).filter_map(|index| layer.nal_unit(index)) {
                annex_b_units(nal).for_each(|nal| self.units.push(nal));
            }
        }
        let pts = Timestamp::video(ticks);
        let unit = self.units.finish(UnitTimes { arrived, pts, dts: pts });
        let unit = unit.map_err(|error| CardError::Encoder(error.to_string()))?;
        let unit = unit.ok_or_else(|| CardError::Encoder("no slice".into()))?;
        self.since_key = if unit.key { 1 } else { self.since_key + 1 };
        self.key_wanted = false;
        Ok(unit)
    }

    /// Makes the next unit a keyframe.
    pub fn request_keyframe(&mut self) {
        self.key_wanted = true;
    }

    /// Goes on at another size: the next unit is a keyframe with parameter sets of its own.
    ///
    /// # Errors
    /// When the size is not usable; the encoder then goes on at the old one.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<(), CardError> {
        let settings = CardSettings { width, height, ..self.settings };
        let colour = colour_of(&settings);
        let card = card(&settings, colour)?;
        self.encoder = encoder(&settings, colour)?;
        (self.settings, self.card, self.key_wanted) = (settings, card, true);
        Ok(())
    }

    /// What it was made with; the size is the current one.
    #[must_use]
    pub fn settings(&self) -> CardSettings {
        self.settings
    }
}

/// Pushes the frames of these numbers into a stream at once, each marked as captured now: whole streams in no time,
/// for tests and measurements.
///
/// # Errors
/// When the encoder fails.
pub fn push_cards(
    publisher: &Publisher,
    encoder: &mut CardEncoder,
    numbers: Range<u32>,
    clock: &Clock,
) -> Result<(), CardError> {
    for number in numbers {
        publisher.push_video(encoder.encode(number, clock.now(), clock.wall())?);
    }
    Ok(())
}

/// The frames of these numbers as one byte stream (H.264 annex B): for files and for other programs.
///
/// # Errors
/// When the size is not usable or the encoder fails.
pub fn annex_b_run(settings: CardSettings, numbers: Range<u32>, clock: &Clock) -> Result<Vec<u8>, CardError> {
    let mut encoder = CardEncoder::new(settings)?;
    let mut bytes = Vec::new();
    for number in numbers {
        let unit = encoder.encode(number, clock.now(), clock.wall())?;
        append_annex_b(&unit, &mut bytes).map_err(|error| CardError::Encoder(error.to_string()))?;
    }
    Ok(bytes)
}

struct Planes<'a>(&'a I420);

impl YUVSource for Planes<'_> {
    fn dimensions(&self) -> (usize, usize) {
        (self.0.width as usize, self.0.height as usize)
    }

    fn strides(&self) -> (usize, usize, usize) {
        let chroma = self.0.width.div_ceil(2) as usize;
        (self.0.width as usize, chroma, chroma)
    }

    fn y(&self) -> &[u8] {
        &self.0.y
    }

    fn u(&self) -> &[u8] {
        &self.0.u
    }

    fn v(&self) -> &[u8] {
        &self.0.v
    }
}

/// The encoder's own bound (3840×2160), in whole macroblocks.
const PIXELS_MAX: u64 = 3840 * 2160;

fn colour_of(settings: &CardSettings) -> Colour {
    settings.colour.unwrap_or_else(|| Colour::unsaid(settings.width, settings.height))
}

fn card(settings: &CardSettings, colour: Colour) -> Result<TestCard, CardError> {
    let CardSettings { width, height, .. } = *settings;
    let (long, short) = (width.max(height), width.min(height));
    // The encoder's own bounds, and chroma that belongs to whole pixels.
    if long > 3840 || short > 2160 || width % 2 == 1 || height % 2 == 1 {
        return Err(CardError::Size { width, height });
    }
    TestCard::new(width, height, colour)
}

fn encoder(settings: &CardSettings, colour: Colour) -> Result<Encoder, CardError> {
    // Light on the processor, and no will of its own: keyframes only when told, no picture left out.
    let rate_control =
        settings.bitrate_bps.map_or(RateControlMode::Bufferbased, |_| RateControlMode::Bitrate);
    let config = EncoderConfig::new()
        .bitrate(BitRate::from_bps(settings.bitrate_bps.unwrap_or(2_000_000)))
        .max_frame_rate(FrameRate::from_hz(settings.frames_per_second.max(1) as f32))
        .rate_control_mode(rate_control)
        .skip_frames(false)
        .usage_type(UsageType::CameraVideoRealTime)
        .complexity(Complexity::Low)
        .scene_change_detect(false)
        .background_detection(false)
        .adaptive_quantization(false)
        .num_threads(1)
        .vui(vui(colour));
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

fn refused(error: openh264::Error) -> CardError {
    CardError::Encoder(error.to_string())
}
