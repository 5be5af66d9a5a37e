//! ITU-T H.264: NAL units, their framing, parameter sets and access units.
//!
//! What belongs here: what can be told from a stream's bytes without decoding pictures. What does not: how the bytes
//! came (`proto`) and decoding (`services`).

pub mod assemble;
pub mod coding;
pub mod decode_time;
pub mod decoder_config;
pub mod framing;
pub mod parameter_sets;
pub mod sei;
pub mod slice;
pub mod sps;
pub mod undelayed;

/// `nal_unit_type` (H.264 table 7-1), as far as we tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalType {
    /// 1: slice of a picture that is not an IDR picture.
    Slice,
    /// 2, 3, 4: data partitions of the Extended profile, which no peer of ours sends.
    Partition,
    /// 5: slice of an IDR picture: decoding may begin here.
    IdrSlice,
    /// 6: supplemental enhancement information.
    Sei,
    /// 7: sequence parameter set.
    Sps,
    /// 8: picture parameter set.
    Pps,
    /// 9: access unit delimiter.
    Aud,
    /// 12: filler.
    Filler,
    /// Any other: layers and views that a base decoder passes over, ends of sequence, what is reserved or unspecified.
    Other(u8),
}

/// The first byte of a NAL unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NalHeader(u8);

impl NalHeader {
    /// The header of a NAL unit; `None` for an empty one or one whose `forbidden_zero_bit` tells that it is damaged.
    #[must_use]
    pub fn of(nal: &[u8]) -> Option<Self> {
        nal.first().map(|&byte| Self(byte)).filter(|header| header.0 & 0x80 == 0)
    }

    /// What the unit holds.
    #[must_use]
    pub fn nal_type(self) -> NalType {
        match self.0 & 0x1F {
            1 => NalType::Slice,
            2..=4 => NalType::Partition,
            5 => NalType::IdrSlice,
            6 => NalType::Sei,
            7 => NalType::Sps,
            8 => NalType::Pps,
            9 => NalType::Aud,
            12 => NalType::Filler,
            other => NalType::Other(other),
        }
    }

    /// `nal_ref_idc`, 0 to 3.
    #[must_use]
    pub fn ref_idc(self) -> u8 {
        self.0 >> 5 & 3
    }

    /// Whether nothing refers to it (`nal_ref_idc` is 0).
    #[must_use]
    pub fn is_disposable(self) -> bool {
        self.ref_idc() == 0
    }

    /// Whether it is a slice of an IDR picture.
    #[must_use]
    pub fn is_idr(self) -> bool {
        self.nal_type() == NalType::IdrSlice
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Parameter sets of x264: constrained baseline, 640×360, ids 0.
    pub(crate) const SPS_640X360: &[u8] = &[
        0x67, 0x42, 0xC0, 0x1E, 0xD9, 0x00, 0xA0, 0x2F, 0xF9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00,
        0x00, 0x03, 0x00, 0x3C, 0x0F, 0x16, 0x2E, 0x48,
    ];
    pub(crate) const PPS: &[u8] = &[0x68, 0xCB, 0x83, 0xCB, 0x20];

    #[test]
    fn a_header_tells_type_and_importance() {
        let idr = NalHeader::of(&[0x65]).unwrap();
        assert!(idr.is_idr() && !idr.is_disposable());
        let slice = NalHeader::of(&[0x01]).unwrap();
        assert!(slice.is_disposable() && slice.nal_type() == NalType::Slice);
        assert_eq!((NalHeader::of(&[]), NalHeader::of(&[0xE5])), (None, None));
    }
}
