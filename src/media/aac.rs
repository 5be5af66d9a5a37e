//! AAC: what its `AudioSpecificConfig` says (ISO/IEC 14496-3 section 1.6.2.1).

use std::num::NonZeroU32;

use bytes::Bytes;

use super::track::{AudioCodec, AudioParams};

/// Sampling frequencies by index (table 1.18).
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];
/// Channels by configuration (table 1.19); 0: told elsewhere.
const CHANNELS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 8];
/// The index that says that the frequency stands in 24 bits of its own.
const EXPLICIT: u32 = 15;
/// Longest configuration that is kept. Real ones have 2 to 5 bytes, with a program config element some tens.
pub const CONFIG_BYTES_MAX: usize = 256;

/// Reads bits from the highest on.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }
}

/// The parameters of a track with this `AudioSpecificConfig`; its clock is the sampling frequency of the core (of
/// HE-AAC, half of what is heard). `None` when it cannot be read. Channels that only a program config element tells
/// count as two.
#[must_use]
pub fn params(config: &[u8]) -> Option<AudioParams> {
    if config.len() > CONFIG_BYTES_MAX {
        return None;
    }
    let mut bits = Bits { bytes: config, at: 0 };
    if bits.take(5)? == 31 {
        // An escape: the object type stands in the next bits.
        bits.take(6)?;
    }
    let rate = match bits.take(4)? {
        EXPLICIT => bits.take(24)?,
        index => *SAMPLE_RATES.get(usize::try_from(index).ok()?)?,
    };
    let channels = match *CHANNELS.get(usize::try_from(bits.take(4)?).ok()?)? {
        0 => 2,
        channels => channels,
    };
    let codec = AudioCodec::Aac { config: Bytes::copy_from_slice(config) };
    Some(AudioParams { codec, sample_rate: NonZeroU32::new(rate)?, channels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_channels_are_read() {
        let read = |config: &[u8]| params(config).map(|params| (params.sample_rate.get(), params.channels));
        assert_eq!(read(&[0x12, 0x10]), Some((44_100, 2)));
        assert_eq!(read(&[0x11, 0x88]), Some((48_000, 1)));
        assert_eq!(read(&[0x17, 0x80, 0x56, 0x22, 0x10]), Some((44_100, 2)), "an explicit frequency");
        assert_eq!(read(&[0x12]), None);
        assert_eq!(read(&[0x16, 0x90]), None, "index 13 is reserved");
        assert_eq!(read(&[0x12; 1000]), None);
    }
}
