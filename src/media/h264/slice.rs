//! The first fields of a slice header (H.264 7.3.3): all that can be read without the parameter sets.

use h264_reader::rbsp::{BitRead as _, BitReader, ByteReader};

use super::coding::{FrameNum, Interlaced};

/// What the beginning of a slice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceStart {
    /// Address of its first macroblock; 0 in the first slice of a picture.
    pub first_mb: u32,
    /// It may refer to pictures shown later: `slice_type` is B.
    pub bidirectional: bool,
    /// It refers to no other picture: `slice_type` is I.
    pub intra: bool,
    /// The picture parameter set that it refers to.
    pub pps_id: u8,
}

/// Most bytes that three Exp-Golomb codes of 32 bits, a frame number and the header take, with emulation prevention.
const START_BYTES: usize = 40;

impl SliceStart {
    /// Reads the beginning of a NAL unit of type 1 or 5; `None` when it is damaged.
    #[must_use]
    pub fn parse(nal: &[u8]) -> Option<Self> {
        let start = nal.get(..START_BYTES).unwrap_or(nal);
        let mut bits = BitReader::new(ByteReader::skipping_h264_header(start));
        let first_mb = bits.read_ue("first_mb_in_slice").ok()?;
        let slice_type = bits.read_ue("slice_type").ok().filter(|&slice_type| slice_type < 10)?;
        let pps_id = bits.read_ue("pic_parameter_set_id").ok()?;
        // Table 7-6: 1 is B and 2 is I; 6 and 7 are the same in all slices of the picture.
        let (bidirectional, intra) = (slice_type % 5 == 1, slice_type % 5 == 2);
        Some(Self { first_mb, bidirectional, intra, pps_id: u8::try_from(pps_id).ok()? })
    }
}

/// `frame_num` of a NAL unit of type 1 or 5 (H.264 7.3.3); `None` when it is damaged.
#[must_use]
pub fn frame_num(nal: &[u8], syntax: &FrameNum) -> Option<u32> {
    let start = nal.get(..START_BYTES).unwrap_or(nal);
    let mut bits = BitReader::new(ByteReader::skipping_h264_header(start));
    for name in ["first_mb_in_slice", "slice_type", "pic_parameter_set_id"] {
        bits.read_ue(name).ok()?;
    }
    if syntax.separate_planes {
        bits.skip(2, "colour_plane_id").ok()?;
    }
    bits.read_var::<u32>(syntax.bits, "frame_num").ok()
}

/// `field_pic_flag` of a NAL unit of type 1 or 5 of an interlaced stream (H.264 7.3.3): whether it is a slice of one
/// field rather than of a whole picture; `None` when it is damaged.
#[must_use]
pub fn is_field(nal: &[u8], interlaced: &Interlaced) -> Option<bool> {
    let start = nal.get(..START_BYTES).unwrap_or(nal);
    let mut bits = BitReader::new(ByteReader::skipping_h264_header(start));
    for name in ["first_mb_in_slice", "slice_type", "pic_parameter_set_id"] {
        bits.read_ue(name).ok()?;
    }
    let planes = if interlaced.separate_planes { 2 } else { 0 };
    bits.skip(planes + interlaced.frame_num_bits, "colour_plane_id, frame_num").ok()?;
    bits.read_bit("field_pic_flag").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_codes_are_read() {
        // 1 | 00110 | 1: first_mb 0, slice_type 5 (P), pps 0.
        let first = SliceStart { first_mb: 0, bidirectional: false, intra: false, pps_id: 0 };
        assert_eq!(SliceStart::parse(&[0x41, 0b1001_1010]), Some(first));
        // 010 | 010 | 011: first_mb 1, slice_type 1 (B), pps 2.
        let second = SliceStart { first_mb: 1, bidirectional: true, intra: false, pps_id: 2 };
        assert_eq!(SliceStart::parse(&[0x01, 0b0100_1001, 0b1000_0000]), Some(second));
        assert_eq!(SliceStart::parse(&[0x41]), None);
        assert_eq!(SliceStart::parse(&[0x41, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
