//! What we need of a sequence parameter set (H.264 7.3.2.1.1 and annex E).
//!
//! The reading is the `h264-reader` crate's; here stand our bounds, and where we are more lenient than it.

use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, SeqParameterSet, VideoSignalType};
use h264_reader::rbsp::{BitRead, BitReader, BitReaderError, ByteReader, Integer, Primitive};
use thiserror::Error;

use crate::media::track::{Colour, Matrix};

/// Largest parameter set that is looked at. Real ones have some tens of bytes, with all scaling lists some hundreds.
pub const PARAMETER_SET_BYTES_MAX: usize = 4096;

/// A sequence parameter set, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    /// `seq_parameter_set_id`, 0 to 31.
    pub id: u8,
    /// `profile_idc`: 66 baseline, 77 main, 100 high …
    pub profile_idc: u8,
    /// `level_idc`: ten times the level.
    pub level_idc: u8,
    /// Width of the picture after cropping, in pixels.
    pub width: u32,
    /// Height of the picture after cropping, in pixels; of a frame, also where fields are coded.
    pub height: u32,
    /// Pixels of the picture before cropping, which a decoder must hold.
    pub coded_pixels: u64,
    /// Width : height of a pixel; 1:1 where unsaid.
    pub sample_aspect_ratio: (u16, u16),
    /// Matrix and range.
    pub colour: Colour,
    /// Fields or macroblock pairs may be coded (`frame_mbs_only_flag` is 0).
    pub interlaced: bool,
    /// `chroma_format_idc`: 0 grey, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    /// Bits of a luma sample.
    pub bit_depth: u8,
}

/// Why a sequence parameter set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpsError {
    /// Longer than [`PARAMETER_SET_BYTES_MAX`].
    #[error("parameter set of {0} bytes")]
    Long(usize),
    /// Not according to the syntax.
    #[error("sequence parameter set cannot be read")]
    Unreadable,
    /// Nothing is left of the picture after cropping.
    #[error("picture is cropped to nothing")]
    Empty,
    /// More pixels than the caller's budget.
    #[error("picture of {0} pixels")]
    Pixels(u64),
    /// `matrix_coefficients` that we cannot convert: any colour made from it would be wrong.
    #[error("colour matrix {0}")]
    Matrix(u8),
}

impl Sps {
    /// Reads a NAL unit of type 7, header byte included.
    ///
    /// # Errors
    /// When it is damaged, or declares more than `pixels_max`: nobody has allocated anything for it then.
    pub fn parse(nal: &[u8], pixels_max: u64) -> Result<Self, SpsError> {
        if nal.len() > PARAMETER_SET_BYTES_MAX {
            return Err(SpsError::Long(nal.len()));
        }
        let read = read_leniently(nal).ok_or(SpsError::Unreadable)?;
        let interlaced = read.frame_mbs_flags != FrameMbsFlags::Frames;
        let macroblocks = u64::from(read.pic_width_in_mbs()) * u64::from(read.pic_height_in_map_units());
        let coded_pixels = macroblocks * 256 * if interlaced { 2 } else { 1 };
        if coded_pixels > pixels_max {
            return Err(SpsError::Pixels(coded_pixels));
        }
        let (width, height) = read.pixel_dimensions().map_err(|_| SpsError::Empty)?;
        if width == 0 || height == 0 {
            return Err(SpsError::Empty);
        }
        let chroma_format_idc = match read.chroma_info.chroma_format {
            ChromaFormat::Invalid(_) => return Err(SpsError::Unreadable),
            format => u8::try_from(format.to_u32()).unwrap_or_default(),
        };
        let vui = read.vui_parameters.as_ref();
        let ratio = vui.and_then(|vui| vui.aspect_ratio_info.as_ref()?.get());
        let signal = vui.and_then(|vui| vui.video_signal_type.as_ref());
        Ok(Self {
            id: read.id().id(),
            profile_idc: u8::from(read.profile_idc),
            level_idc: read.level_idc,
            width,
            height,
            coded_pixels,
            sample_aspect_ratio: ratio.unwrap_or((1, 1)),
            colour: colour(width, height, chroma_format_idc, signal)?,
            interlaced,
            chroma_format_idc,
            bit_depth: 8 + read.chroma_info.bit_depth_luma_minus8,
        })
    }
}

pub(super) const LEVEL_6_2: u8 = 62;

/// Reads a NAL unit of type 7 without the bitstream restrictions at the end of its VUI, and whatever its level says.
///
/// The crate refuses pictures larger than the level allows. Cameras and screens do send such; what protects us is our own
/// budget. So it is shown the highest level, and the true one is put back.
pub(super) fn read_leniently(nal: &[u8]) -> Option<SeqParameterSet> {
    let mut lenient = nal.to_vec();
    let level_idc = std::mem::replace(lenient.get_mut(3)?, LEVEL_6_2);
    let bits = Lenient(BitReader::new(ByteReader::skipping_h264_header(&lenient[..])));
    let read = SeqParameterSet::from_bits(bits).ok()?;
    Some(SeqParameterSet { level_idc, ..read })
}

/// As [`read_leniently`], with the bitstream restrictions, which are often wrong; `None` when they are.
pub(super) fn read_strictly(nal: &[u8]) -> Option<SeqParameterSet> {
    let mut highest = nal.to_vec();
    *highest.get_mut(3)? = LEVEL_6_2;
    SeqParameterSet::from_bits(BitReader::new(ByteReader::skipping_h264_header(&highest[..]))).ok()
}

fn colour(
    width: u32,
    height: u32,
    chroma_format_idc: u8,
    signal: Option<&VideoSignalType>,
) -> Result<Colour, SpsError> {
    let unsaid = Colour::unsaid(width, height);
    let Some(signal) = signal else { return Ok(unsaid) };
    let matrix = match signal.colour_description.as_ref().map_or(2, |colour| colour.matrix_coefficients) {
        1 => Matrix::Bt709,
        4 => Matrix::Fcc,
        5 | 6 => Matrix::Bt601,
        7 => Matrix::Smpte240,
        9 => Matrix::Bt2020,
        2 | 3 => unsaid.matrix,
        // "RGB" is only allowed with 4:4:4 (E.2.1); with less it is an encoder's way of not saying.
        0 if chroma_format_idc != 3 => unsaid.matrix,
        other => return Err(SpsError::Matrix(other)),
    };
    Ok(Colour { matrix, full_range: signal.video_full_range_flag })
}

/// Passes over what is of no use to us and is often wrong: the bitstream restrictions at the end of the VUI, and
/// bytes behind the end.
struct Lenient<R>(R);

impl<R: BitRead> BitRead for Lenient<R> {
    fn read_ue(&mut self, name: &'static str) -> Result<u32, BitReaderError> {
        self.0.read_ue(name)
    }

    fn read_se(&mut self, name: &'static str) -> Result<i32, BitReaderError> {
        self.0.read_se(name)
    }

    fn read_bit(&mut self, name: &'static str) -> Result<bool, BitReaderError> {
        if name == "bitstream_restriction_flag" { Ok(false) } else { self.0.read_bit(name) }
    }

    fn read<const BITS: u32, I: Integer>(&mut self, name: &'static str) -> Result<I, BitReaderError> {
        self.0.read::<BITS, I>(name)
    }

    fn read_var<I: Integer>(&mut self, bit_count: u32, name: &'static str) -> Result<I, BitReaderError> {
        self.0.read_var(bit_count, name)
    }

    fn read_to<V: Primitive>(&mut self, name: &'static str) -> Result<V, BitReaderError> {
        self.0.read_to(name)
    }

    fn skip(&mut self, bit_count: u32, name: &'static str) -> Result<(), BitReaderError> {
        self.0.skip(bit_count, name)
    }

    fn byte_aligned(&self) -> bool {
        self.0.byte_aligned()
    }

    fn has_more_rbsp_data(&mut self, name: &'static str) -> Result<bool, BitReaderError> {
        self.0.has_more_rbsp_data(name)
    }

    fn finish_rbsp(self) -> Result<(), BitReaderError> {
        Ok(())
    }

    fn finish_sei_payload(self) -> Result<(), BitReaderError> {
        self.0.finish_sei_payload()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::h264::tests::SPS_640X360;

    const PIXELS: u64 = 8192 * 4352;

    /// Writes bits and Exp-Golomb codes, with emulation prevention.
    #[derive(Default)]
    struct Bits(Vec<bool>);

    impl Bits {
        fn u(mut self, value: u32, bits: u32) -> Self {
            self.0.extend((0..bits).rev().map(|bit| value >> bit & 1 == 1));
            self
        }
        fn ue(self, value: u32) -> Self {
            let bits = 32 - (value + 1).leading_zeros();
            self.u(0, bits - 1).u(value + 1, bits)
        }
        fn nal(mut self, header: u8) -> Vec<u8> {
            self.0.push(true);
            self.0.resize(self.0.len().next_multiple_of(8), false);
            let mut nal = vec![header];
            for byte in
                self.0.chunks(8).map(|bits| bits.iter().fold(0_u8, |byte, &bit| byte << 1 | u8::from(bit)))
            {
                if byte <= 3 && nal.len() > 2 && nal.ends_with(&[0, 0]) {
                    nal.push(3);
                }
                nal.push(byte);
            }
            nal
        }
    }

    fn frame(profile: u32, level: u32, width_mbs: u32, height_mbs: u32) -> Bits {
        let bits = Bits::default().u(profile, 8).u(0, 8).u(level, 8).ue(0).ue(0).ue(0).ue(0).ue(1).u(0, 1);
        bits.ue(width_mbs - 1).ue(height_mbs - 1)
    }

    /// A VUI with an extended aspect ratio and a colour description.
    fn vui(bits: Bits, ratio: (u32, u32), full_range: u32, matrix: u32) -> Bits {
        let bits = bits.u(1, 1).u(1, 1).u(255, 8).u(ratio.0, 16).u(ratio.1, 16).u(0, 1);
        bits.u(1, 1).u(5, 3).u(full_range, 1).u(1, 1).u(1, 8).u(1, 8).u(matrix, 8).u(0, 6)
    }

    #[test]
    fn size_is_told_after_cropping() {
        let sps = Sps::parse(SPS_640X360, PIXELS).unwrap();
        assert_eq!((sps.width, sps.height, sps.coded_pixels), (640, 360, 640 * 368));
        assert_eq!((sps.profile_idc, sps.id, sps.interlaced, sps.level_idc), (66, 0, false, 0x1E));
        assert_eq!((sps.sample_aspect_ratio, sps.colour), ((1, 1), Colour::unsaid(640, 360)));
    }

    #[test]
    fn colour_and_aspect_ratio_come_from_the_vui() {
        let read = |matrix, range| {
            let bits = frame(66, 31, 45, 36).u(1, 1).u(1, 1).u(0, 1);
            Sps::parse(&vui(bits, (64, 45), range, matrix).nal(0x67), PIXELS)
        };
        let sps = read(1, 1).unwrap();
        assert_eq!(sps.sample_aspect_ratio, (64, 45));
        assert_eq!(sps.colour, Colour { matrix: Matrix::Bt709, full_range: true });
        assert_eq!(read(6, 0).unwrap().colour, Colour { matrix: Matrix::Bt601, full_range: false });
        assert_eq!(read(0, 0).unwrap().colour, Colour::unsaid(720, 576));
        assert_eq!(read(8, 0), Err(SpsError::Matrix(8)));
    }

    #[test]
    fn fields_are_told_and_double_the_height() {
        let sps =
            Sps::parse(&frame(77, 40, 120, 34).u(0, 1).u(1, 1).u(1, 1).u(0, 2).nal(0x67), PIXELS).unwrap();
        assert_eq!((sps.width, sps.height, sps.interlaced), (1920, 1088, true));
    }

    #[test]
    fn a_picture_beyond_the_budget_is_refused_and_one_beyond_its_level_is_not() {
        let large = frame(66, 10, 512, 272).u(1, 1).u(1, 1).u(0, 2).nal(0x67);
        assert_eq!(Sps::parse(&large, PIXELS).unwrap().width, 8192);
        assert_eq!(Sps::parse(&large, PIXELS - 1), Err(SpsError::Pixels(PIXELS)));
        let bomb = frame(66, 10, 60_000, 60_000).u(1, 1).u(1, 1).u(0, 2).nal(0x67);
        assert!(Sps::parse(&bomb, u64::MAX).is_err());
    }

    #[test]
    fn cropping_everything_away_is_refused() {
        let crop = frame(66, 31, 4, 4).u(1, 1).u(1, 1).u(1, 1).ue(16).ue(16).ue(0).ue(0).u(0, 1).nal(0x67);
        assert_eq!(Sps::parse(&crop, PIXELS), Err(SpsError::Empty));
        let more = frame(66, 31, 4, 4).u(1, 1).u(1, 1).u(1, 1).ue(99).ue(99).ue(0).ue(0).u(0, 1).nal(0x67);
        assert_eq!(Sps::parse(&more, PIXELS), Err(SpsError::Empty));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn any_bytes_are_read_or_refused(
            tail in prop::collection::vec(any::<u8>(), 0..80),
            profile in prop::sample::select(vec![66_u8, 77, 88, 100, 110, 122, 244, 44, 118, 0]),
        ) {
            let mut nal = vec![0x67, profile];
            nal.extend(tail);
            if let Ok(sps) = Sps::parse(&nal, PIXELS) {
                prop_assert!(sps.coded_pixels <= PIXELS && sps.width > 0 && sps.height > 0);
            }
        }

        #[test]
        fn a_real_set_with_flipped_bits_is_read_or_refused(flips in prop::collection::vec(0..SPS_640X360.len() * 8, 1..6)) {
            let mut nal = SPS_640X360.to_vec();
            for flip in flips {
                nal[flip / 8] ^= 1 << (flip % 8);
            }
            let _ = Sps::parse(&nal, PIXELS);
        }
    }
}
