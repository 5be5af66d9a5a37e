//! How NAL units are told apart: AVCC (ISO/IEC 14496-15) and Annex B byte streams (H.264 annex B).

use thiserror::Error;

use super::{NalHeader, NalType};
use crate::media::unit::AccessUnit;

/// The start code as we write it: as wide as an AVCC length, so that one can be written over the other.
pub const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// Why bytes are not AVCC with lengths of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    /// Fewer than four bytes where a length should be.
    #[error("nal unit length is cut short at byte {0}")]
    Length(usize),
    /// A length leads out of the data.
    #[error("nal unit of {size_bytes} bytes at byte {at} leads out of the data")]
    Overrun {
        /// Where the length stands.
        at: usize,
        /// What it says.
        size_bytes: u32,
    },
}

/// Walks the NAL units of AVCC data. An error ends the walk.
#[must_use]
pub fn avcc_units(data: &[u8]) -> AvccUnits<'_> {
    AvccUnits { rest: data, at: 0 }
}

/// See [`avcc_units`].
#[derive(Clone, Debug)]
pub struct AvccUnits<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for AvccUnits<'a> {
    type Item = Result<&'a [u8], FramingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.at;
        let Some((length, after)) = self.rest.split_first_chunk::<4>() else {
            self.rest = &[];
            return Some(Err(FramingError::Length(at)));
        };
        let size_bytes = u32::from_be_bytes(*length);
        let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        let Some((nal, rest)) = after.split_at_checked(size) else {
            self.rest = &[];
            return Some(Err(FramingError::Overrun { at, size_bytes }));
        };
        self.rest = rest;
        self.at = at + 4 + size;
        Some(Ok(nal))
    }
}

/// Whether the first slice of AVCC data is one of an IDR picture. Any other keyframe is a recovery point: pictures after
/// it may be shown before it, and refer to what came before.
#[must_use]
pub fn begins_with_idr(data: &[u8]) -> bool {
    let types = avcc_units(data).map_while(Result::ok).filter_map(NalHeader::of).map(NalHeader::nal_type);
    types.into_iter().find(|kind| matches!(kind, NalType::Slice | NalType::IdrSlice))
        == Some(NalType::IdrSlice)
}

/// Overwrites each length with a start code: AVCC becomes an Annex B byte stream of the same size.
///
/// # Errors
/// When the lengths do not add up; the data is then of neither form.
pub fn avcc_to_annex_b(data: &mut [u8]) -> Result<(), FramingError> {
    let mut rest = data;
    let mut at = 0;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk_mut::<4>().ok_or(FramingError::Length(at))?;
        let size_bytes = u32::from_be_bytes(*length);
        let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        *length = START_CODE;
        rest = after.split_at_mut_checked(size).ok_or(FramingError::Overrun { at, size_bytes })?.1;
        at += 4 + size;
    }
    Ok(())
}

/// Appends an access unit as a decoder takes it: Annex B, before an IDR picture with its parameter sets.
///
/// # Errors
/// When the unit's lengths do not add up; `out` is then as before.
pub fn append_annex_b(unit: &AccessUnit, out: &mut Vec<u8>) -> Result<(), FramingError> {
    let before = out.len();
    if unit.key
        && let Some((sps, pps)) = unit.params.codec.h264_sets()
    {
        for set in sps.iter().chain(pps) {
            out.extend_from_slice(&START_CODE);
            out.extend_from_slice(set);
        }
    }
    let data_at = out.len();
    out.extend_from_slice(&unit.data);
    let result = avcc_to_annex_b(out.get_mut(data_at..).unwrap_or_default());
    if result.is_err() {
        out.truncate(before);
    }
    result
}

/// Walks the NAL units of an Annex B byte stream. What stands before the first start code is passed over, zero bytes
/// behind a unit (`trailing_zero_8bits`) are not part of it, and empty units are left out.
#[must_use]
pub fn annex_b_units(stream: &[u8]) -> AnnexBUnits<'_> {
    let rest = find_start_code(stream).and_then(|(_, after)| stream.get(after..)).unwrap_or_default();
    AnnexBUnits { rest }
}

/// See [`annex_b_units`].
#[derive(Clone, Debug)]
pub struct AnnexBUnits<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AnnexBUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (nal, rest) = match find_start_code(self.rest) {
                Some((at, after)) => (self.rest.get(..at)?, self.rest.get(after..)?),
                None => (self.rest, Default::default()),
            };
            self.rest = rest;
            let size = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if size > 0 {
                return nal.get(..size);
            }
        }
        None
    }
}

/// Where the next `00 00 01` begins and ends.
fn find_start_code(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = bytes.windows(3).position(|window| window == [0, 0, 1])?;
    Some((at, at + 3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_start_codes_and_zeros_between_units_are_understood() {
        let stream = [9, 0, 0, 1, 0x67, 1, 0, 0, 0, 0, 1, 0x68, 2, 0, 0, 1, 0, 0, 1, 0x65, 3, 0, 0];
        let units: Vec<_> = annex_b_units(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x65, 3]]);
        assert_eq!(annex_b_units(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_told_with_their_place() {
        let walk = |data: &[u8]| avcc_units(data).find_map(Result::err).unwrap();
        assert_eq!(walk(&[0, 0, 0, 1, 5, 0, 0]), FramingError::Length(5));
        let overrun = FramingError::Overrun { at: 5, size_bytes: 0xFFFF_FFFF };
        assert_eq!(walk(&[0, 0, 0, 1, 5, 255, 255, 255, 255]), overrun);
        assert_eq!(avcc_to_annex_b(&mut [0, 0, 0, 1, 5, 255, 255, 255, 255]), Err(overrun));
    }

    proptest! {
        #[test]
        fn the_walk_and_the_rewriting_agree_on_any_bytes(mut data in prop::collection::vec(0_u8..4, 0..64)) {
            let walked: Result<Vec<_>, _> = avcc_units(&data).map(|unit| unit.map(<[u8]>::to_vec)).collect();
            let rewritten = avcc_to_annex_b(&mut data);
            prop_assert_eq!(walked.as_ref().err(), rewritten.as_ref().err());
        }

        #[test]
        fn annex_b_gives_back_what_was_framed(units in prop::collection::vec(prop::collection::vec(2_u8..255, 1..40), 0..8)) {
            let mut stream = Vec::new();
            for unit in &units {
                stream.extend_from_slice(&u32::try_from(unit.len()).unwrap().to_be_bytes());
                stream.extend_from_slice(unit);
            }
            avcc_to_annex_b(&mut stream).unwrap();
            prop_assert_eq!(annex_b_units(&stream).map(<[u8]>::to_vec).collect::<Vec<_>>(), units);
        }
    }
}
