//! The parameter sets of one stream: several of each kind by number, replaced as the stream goes on.

use std::collections::BTreeMap;

use bytes::Bytes;
use h264_reader::rbsp::{BitRead as _, BitReader, ByteReader};
use thiserror::Error;

use super::sps::{PARAMETER_SET_BYTES_MAX, Sps, SpsError};

/// Most bytes of parameter sets of one stream, all together. Real streams need some hundreds; the standard allows
/// 32 + 256 sets.
pub const PARAMETER_SETS_BYTES_MAX: usize = 128 * 1024;

/// Why a parameter set was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParameterSetError {
    /// A sequence parameter set that cannot be used.
    #[error(transparent)]
    Sps(#[from] SpsError),
    /// A picture parameter set that cannot be read.
    #[error("picture parameter set cannot be read")]
    Pps,
    /// More than [`PARAMETER_SETS_BYTES_MAX`] in all.
    #[error("too many parameter sets")]
    TooMany,
}

/// A sequence parameter set with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSps {
    /// The NAL unit.
    pub bytes: Bytes,
    /// What it says.
    pub read: Sps,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredPps {
    bytes: Bytes,
    sps_id: u8,
}

/// All parameter sets known of one stream.
#[derive(Clone, Debug)]
pub struct ParameterSets {
    pixels_max: u64,
    sps: BTreeMap<u8, StoredSps>,
    pps: BTreeMap<u8, StoredPps>,
    size_bytes: usize,
    changes: u64,
}

impl ParameterSets {
    /// None known yet. Sequence parameter sets of more than `pixels_max` will be refused.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self { pixels_max, sps: BTreeMap::new(), pps: BTreeMap::new(), size_bytes: 0, changes: 0 }
    }

    /// Takes a NAL unit of type 7. A set that is repeated unchanged changes nothing.
    ///
    /// # Errors
    /// When it cannot be used. All sets are forgotten then: what follows was made for the refused one, and read with
    /// an older one it would give a wrong picture.
    pub fn insert_sps(&mut self, nal: &[u8]) -> Result<(), ParameterSetError> {
        if self.sps.values().any(|known| known.bytes == nal) {
            return Ok(());
        }
        let read = match Sps::parse(nal, self.pixels_max) {
            Ok(read) => read,
            Err(error) => {
                self.clear();
                return Err(error.into());
            }
        };
        self.make_room(nal.len())?;
        let stored = StoredSps { bytes: Bytes::copy_from_slice(nal), read };
        if let Some(old) = self.sps.insert(stored.read.id, stored) {
            self.size_bytes -= old.bytes.len();
        }
        Ok(())
    }

    /// Takes a NAL unit of type 8.
    ///
    /// # Errors
    /// As [`ParameterSets::insert_sps`].
    pub fn insert_pps(&mut self, nal: &[u8]) -> Result<(), ParameterSetError> {
        if self.pps.values().any(|known| known.bytes == nal) {
            return Ok(());
        }
        let Some((id, sps_id)) = pps_ids(nal) else {
            self.clear();
            return Err(ParameterSetError::Pps);
        };
        self.make_room(nal.len())?;
        let stored = StoredPps { bytes: Bytes::copy_from_slice(nal), sps_id };
        if let Some(old) = self.pps.insert(id, stored) {
            self.size_bytes -= old.bytes.len();
        }
        Ok(())
    }

    /// The sequence parameter set that a slice uses which names this picture parameter set.
    #[must_use]
    pub fn sps_of(&self, pps_id: u8) -> Option<&StoredSps> {
        self.sps.get(&self.pps.get(&pps_id)?.sps_id)
    }

    /// The picture parameter sets that belong to a sequence parameter set, by rising number.
    #[must_use]
    pub fn pps_for(&self, sps_id: u8) -> Vec<Bytes> {
        self.pps.values().filter(|pps| pps.sps_id == sps_id).map(|pps| pps.bytes.clone()).collect()
    }

    /// Grows whenever a set was added, replaced or forgotten.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn make_room(&mut self, size_bytes: usize) -> Result<(), ParameterSetError> {
        if self.size_bytes + size_bytes > PARAMETER_SETS_BYTES_MAX {
            self.clear();
            return Err(ParameterSetError::TooMany);
        }
        self.size_bytes += size_bytes;
        self.changes += 1;
        Ok(())
    }

    fn clear(&mut self) {
        self.sps.clear();
        self.pps.clear();
        self.size_bytes = 0;
        self.changes += 1;
    }
}

/// `pic_parameter_set_id` and `seq_parameter_set_id` of a NAL unit of type 8.
fn pps_ids(nal: &[u8]) -> Option<(u8, u8)> {
    if nal.len() > PARAMETER_SET_BYTES_MAX {
        return None;
    }
    let mut bits = BitReader::new(ByteReader::skipping_h264_header(nal));
    let id = u8::try_from(bits.read_ue("pic_parameter_set_id").ok()?).ok()?;
    let sps_id = bits.read_ue("seq_parameter_set_id").ok().filter(|&id| id < 32)?;
    Some((id, u8::try_from(sps_id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::h264::tests::{PPS, SPS_640X360};

    #[test]
    fn sets_are_found_by_the_number_in_a_slice_and_repeats_change_nothing() {
        let mut sets = ParameterSets::new(u64::MAX);
        // Bits 010 1: picture set 1 of sequence set 0.
        let pps_1 = [0x68, 0b0101_1000];
        sets.insert_pps(&pps_1).unwrap();
        assert!(sets.sps_of(1).is_none(), "its sequence set is not there yet");
        sets.insert_sps(SPS_640X360).unwrap();
        sets.insert_pps(PPS).unwrap();
        let changes = sets.changes();
        sets.insert_sps(SPS_640X360).unwrap();
        sets.insert_pps(PPS).unwrap();
        assert_eq!(sets.changes(), changes);
        assert_eq!(sets.sps_of(1).unwrap().read.width, 640);
        assert_eq!(sets.pps_for(0), [PPS, &pps_1[..]]);
        assert!(sets.pps_for(1).is_empty() && sets.sps_of(2).is_none());
    }

    #[test]
    fn a_refused_set_takes_the_older_ones_with_it() {
        let mut sets = ParameterSets::new(640 * 368);
        sets.insert_sps(SPS_640X360).unwrap();
        sets.insert_pps(PPS).unwrap();
        assert!(sets.sps_of(0).is_some());
        assert!(sets.insert_sps(&[0x67, 66, 0, 30]).is_err());
        assert!(sets.sps_of(0).is_none());
    }

    #[test]
    fn the_bytes_of_all_sets_are_bounded() {
        let mut sets = ParameterSets::new(u64::MAX);
        let mut refused = 0;
        // Numbers 0 to 254, each in several lengths: a replaced set gives its room back.
        for n in 0..2000_u32 {
            let code = (n % 255 + 1) << 8;
            let mut nal = vec![0x68, 0, (code >> 8) as u8, 0xFF];
            nal.resize(1000 + n as usize, 0xFF);
            refused += u32::from(sets.insert_pps(&nal).is_err());
            let held: usize = sets.pps.values().map(|pps| pps.bytes.len()).sum();
            assert_eq!(sets.size_bytes, held);
            assert!(held <= PARAMETER_SETS_BYTES_MAX);
        }
        assert!(refused > 0);
    }
}
