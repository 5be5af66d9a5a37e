//! The first fields of a slice header (H.264 7.3.3): all that can be read without the parameter sets.

use h264_reader::rbsp::{BitRead as _, BitReader, ByteReader};

/// What the beginning of a slice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceStart {
    /// Address of its first macroblock; 0 in the first slice of a picture.
    pub first_mb: u32,
    /// It may refer to pictures shown later: `slice_type` is B.
    pub bidirectional: bool,
    /// The picture parameter set that it refers to.
    pub pps_id: u8,
}

/// Most bytes that three Exp-Golomb codes of 32 bits and the header take, with emulation prevention.
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
        // Table 7-6: 1 is B, 6 is B in all slices of the picture.
        Some(Self { first_mb, bidirectional: slice_type % 5 == 1, pps_id: u8::try_from(pps_id).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_codes_are_read() {
        // 1 | 00110 | 1: first_mb 0, slice_type 5 (P), pps 0.
        let first = SliceStart { first_mb: 0, bidirectional: false, pps_id: 0 };
        assert_eq!(SliceStart::parse(&[0x41, 0b1001_1010]), Some(first));
        // 010 | 010 | 011: first_mb 1, slice_type 1 (B), pps 2.
        let second = SliceStart { first_mb: 1, bidirectional: true, pps_id: 2 };
        assert_eq!(SliceStart::parse(&[0x01, 0b0100_1001, 0b1000_0000]), Some(second));
        assert_eq!(SliceStart::parse(&[0x41]), None);
        assert_eq!(SliceStart::parse(&[0x41, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
