//! Sequence parameter sets for a decoder that must give each picture at once: what our decoder cannot do is refused
//! here with its reason, and what it would hold back is marked so that it does not.

use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, ProfileIdc};
use h264_reader::nal::{NalHeader, WritableNal as _};

use super::sps::read_leniently;

/// `profile_idc` of the Baseline profile (H.264 A.2.1).
const BASELINE: u8 = 66;
/// `profile_idc` of the Scalable Baseline profile (H.264 G.10.1.1). Its SPS has the fields of the High profile.
const SCALABLE_BASELINE: u8 = 83;

/// A sequence parameter set whose pictures come out of the decoder at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndelayedSps {
    /// The NAL unit, without length or start code.
    pub nal: Vec<u8>,
    /// Width × height of the coded picture, before cropping.
    pub coded_pixels: u64,
}

/// Why pictures of an SPS cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpsRefusal {
    /// It breaks the syntax of 7.3.2.1.
    #[error("sequence parameter set cannot be read")]
    Unreadable,
    /// It asks for something that the decoder cannot do.
    #[error("{0} cannot be decoded")]
    Unsupported(&'static str),
}

/// Checks an SPS against what the decoder can do, and takes output reordering out of it.
///
/// OpenH264 holds pictures back for output in display order (H.264 C.4.5.3) in every profile but the two Baseline
/// ones: a stream without B slices comes out one unit late, and one with them by guess. We need the picture *of a
/// unit*, at once, and do the ordering by time stamps ourselves. The decoder looks at `profile_idc` for nothing
/// else than that, so each SPS of another profile is written anew as Scalable Baseline, whose syntax holds all
/// fields of the High profile; the tools in use are told by flags in SPS, PPS and slices, which stay as they are.
/// What is left out of it are the bitstream restrictions of the VUI, which tell of output order again.
///
/// # Errors
/// When it cannot be read, or its pictures cannot be decoded.
pub fn undelayed(nal: &[u8]) -> Result<UndelayedSps, SpsRefusal> {
    let header = nal.first().and_then(|byte| NalHeader::new(*byte).ok()).ok_or(SpsRefusal::Unreadable)?;
    let mut sps = read_leniently(nal).ok_or(SpsRefusal::Unreadable)?;
    let chroma = &sps.chroma_info;
    if matches!(sps.frame_mbs_flags, FrameMbsFlags::Fields { .. }) {
        return Err(SpsRefusal::Unsupported("interlaced video"));
    }
    // Without chroma, too: the decoder crops such pictures in steps of two pixels where the standard has one.
    if chroma.chroma_format != ChromaFormat::YUV420 {
        return Err(SpsRefusal::Unsupported("chroma format other than 4:2:0"));
    }
    if chroma.bit_depth_luma_minus8 != 0 || chroma.bit_depth_chroma_minus8 != 0 {
        return Err(SpsRefusal::Unsupported("more than 8 bits a sample"));
    }
    if chroma.qpprime_y_zero_transform_bypass_flag {
        return Err(SpsRefusal::Unsupported("lossless coding"));
    }
    // The reader has checked that the size in macroblocks fits.
    let macroblocks = u64::from(sps.pic_width_in_mbs()) * u64::from(sps.pic_height_in_map_units());
    let coded_pixels = macroblocks * 256;
    let profile = u8::from(sps.profile_idc);
    let nal = if matches!(profile, BASELINE | SCALABLE_BASELINE) {
        nal.to_vec()
    } else {
        sps.profile_idc = ProfileIdc::from(SCALABLE_BASELINE);
        sps.to_vec_with_header(header)
    };
    Ok(UndelayedSps { nal, coded_pixels })
}

#[cfg(test)]
mod tests {
    use h264_reader::nal::sps::{SeqParameterSet, VuiParameters};
    use h264_reader::rbsp::{BitReader, decode_nal};
    use proptest::prelude::*;

    use super::*;
    use crate::media::h264::tests::SPS_640X360;

    /// High profile with VUI, 426×240 (x264).
    const HIGH: &[u8] = &[
        0x67, 0x64, 0x00, 0x15, 0xac, 0xd9, 0x41, 0xb1, 0xfe, 0x4f, 0x01, 0x6a, 0x02, 0x02, 0x02, 0x80, 0x00,
        0x00, 0x03, 0x00, 0x80, 0x00, 0x00, 0x1e, 0x07, 0x8b, 0x16, 0xcb,
    ];

    #[test]
    fn all_that_matters_survives_and_only_the_profile_changes() {
        assert_eq!(undelayed(SPS_640X360).unwrap().nal, SPS_640X360, "Baseline is never delayed");
        let made = undelayed(HIGH).unwrap();
        assert_eq!(made.coded_pixels, 432 * 240);
        let read =
            |nal: &[u8]| SeqParameterSet::from_bits(BitReader::new(&*decode_nal(nal).unwrap())).unwrap();
        let (before, after) = (read(HIGH), read(&made.nal));
        assert_eq!(u8::from(after.profile_idc), SCALABLE_BASELINE);
        let restrictions = before.vui_parameters.as_ref().unwrap().bitstream_restrictions.clone();
        assert!(
            restrictions.is_some() && after.vui_parameters.as_ref().unwrap().bitstream_restrictions.is_none()
        );
        let vui =
            after.vui_parameters.map(|vui| VuiParameters { bitstream_restrictions: restrictions, ..vui });
        let as_before = SeqParameterSet { profile_idc: before.profile_idc, vui_parameters: vui, ..after };
        assert_eq!(format!("{as_before:?}"), format!("{before:?}"));
    }

    #[test]
    fn a_picture_larger_than_its_level_allows_is_taken_with_its_level_as_it_is() {
        let mut low = HIGH.to_vec();
        low[3] = 10;
        let made = undelayed(&low).unwrap();
        assert_eq!((made.coded_pixels, made.nal[3]), (432 * 240, 10));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            flips in prop::collection::vec((0..HIGH.len(), any::<u8>()), 0..6),
            length in 0..=HIGH.len(),
        ) {
            let mut nal = HIGH[..length].to_vec();
            for (at, byte) in flips {
                if let Some(slot) = nal.get_mut(at) {
                    *slot = byte;
                }
            }
            let _ = undelayed(&nal);
        }
    }
}
