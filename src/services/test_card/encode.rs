//! The card as a stream of access units.

use std::ops::Range;
use std::time::{Instant, SystemTime};

use super::CardError;
use super::draw::{I420, TestCard};
use crate::base::clock::Clock;
use crate::hub::Publisher;
use crate::media::h264::framing::append_annex_b;
use crate::media::time::Timestamp;
use crate::media::track::Colour;
use crate::media::unit::AccessUnit;
use crate::services::encode::{EncodeError, EncoderSettings, H264Encoder, I420Planes};

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
#[derive(Debug)]
pub struct CardEncoder {
    settings: CardSettings,
    card: TestCard,
    encoder: H264Encoder,
    since_key: u32,
}

impl CardEncoder {
    /// An encoder whose first unit will be a keyframe.
    ///
    /// # Errors
    /// When the size is not usable.
    pub fn new(settings: CardSettings) -> Result<Self, CardError> {
        let encoder = H264Encoder::new(encoder_settings(&settings))?;
        let card = TestCard::new(settings.width, settings.height, encoder.settings().colour)?;
        Ok(Self { settings, card, encoder, since_key: 0 })
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
        if interval > 0 && self.since_key >= interval {
            self.encoder.request_keyframe();
        }
        let I420 { width, height, y, u, v } = self.card.draw(number, wall);
        let planes = I420Planes { width: *width, height: *height, y, u, v };
        let ticks = i64::from(number) * 90_000 / i64::from(self.settings.frames_per_second.max(1));
        let unit = self.encoder.encode(&planes, Timestamp::video(ticks), arrived)?;
        let unit = unit.ok_or_else(|| EncodeError::Library("no picture".into()))?;
        self.since_key = if unit.key { 1 } else { self.since_key + 1 };
        Ok(unit)
    }

    /// Makes the next unit a keyframe.
    pub fn request_keyframe(&mut self) {
        self.encoder.request_keyframe();
    }

    /// Goes on at another size: the next unit is a keyframe with parameter sets of its own.
    ///
    /// # Errors
    /// When the size is not usable; the encoder then goes on at the old one.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<(), CardError> {
        *self = Self::new(CardSettings { width, height, ..self.settings })?;
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
        append_annex_b(&unit, &mut bytes).map_err(|error| EncodeError::Library(error.to_string()))?;
    }
    Ok(bytes)
}

fn encoder_settings(settings: &CardSettings) -> EncoderSettings {
    let CardSettings { width, height, frames_per_second, bitrate_bps, .. } = *settings;
    let colour = settings.colour.unwrap_or_else(|| Colour::unsaid(width, height));
    EncoderSettings { width, height, frames_per_second, bitrate_bps, may_skip: false, colour }
}
