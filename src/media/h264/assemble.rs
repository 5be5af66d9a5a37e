//! NAL units in, access units out.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use thiserror::Error;

use super::framing::annex_b_units;
use super::parameter_sets::{ParameterSetError, ParameterSets};
use super::sei::recovery_point;
use super::slice::SliceStart;
use super::{NalHeader, NalType};
use crate::media::time::Timestamp;
use crate::media::track::{Rotation, VideoCodec, VideoParams};
use crate::media::unit::AccessUnit;

/// Largest access unit that is put together. The largest IDR picture of a 4K camera at 20 Mbit/s stays below 2 MiB.
pub const UNIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most NAL units of one access unit: more than the slices that level 6.2 allows (table A-1, 139 264 macroblocks in
/// rows of 128), each with some SEI.
pub const NAL_UNITS_MAX: usize = 2048;
/// The working buffer keeps this much between units; what a large picture made it grow beyond is given back.
const SCRATCH_KEPT_BYTES: usize = 64 * 1024;

/// Why no access unit was made of the NAL units given. The builder is empty then, and takes the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// More than [`UNIT_BYTES_MAX`].
    #[error("access unit is too large")]
    TooLarge,
    /// More than [`NAL_UNITS_MAX`].
    #[error("access unit of too many nal units")]
    TooManyNalUnits,
    /// A NAL unit is empty, marked as damaged, or its slice header cannot be read; or slices of an IDR picture and of
    /// another one are mixed.
    #[error("damaged nal unit")]
    Malformed,
    /// Data partitions (Extended profile).
    #[error("data partitions are not supported")]
    Partitioned,
    /// A parameter set that cannot be used.
    #[error(transparent)]
    ParameterSet(#[from] ParameterSetError),
    /// A slice names a parameter set that never came.
    #[error("unknown picture parameter set {0}")]
    UnknownParameters(u8),
    /// The sequence parameter set changed, but not at an IDR picture.
    #[error("parameters changed without an idr picture")]
    ParametersChanged,
    /// The beginning of the picture is missing.
    #[error("picture without its first slice")]
    NoFirstSlice,
}

/// When a unit came and when it is to be shown.
#[derive(Clone, Copy, Debug)]
pub struct UnitTimes {
    /// See [`AccessUnit::arrived`].
    pub arrived: Instant,
    /// See [`AccessUnit::pts`].
    pub pts: Timestamp,
    /// See [`AccessUnit::dts`].
    pub dts: Timestamp,
}

/// Puts the NAL units of one picture together and keeps the stream's parameter sets.
///
/// Parameter sets, delimiters, filler, and the units of other layers and views are taken out. SEI stays: it belongs to
/// its picture (time codes, captions), and decoders pass over what they do not know.
#[derive(Debug)]
pub struct UnitBuilder {
    sets: ParameterSets,
    rotation: Rotation,
    params: Option<Arc<VideoParams>>,
    /// `ParameterSets::changes` when `params` was made.
    params_made_at: u64,
    picture: Picture,
}

/// What was gathered of the current picture.
#[derive(Debug, Default)]
struct Picture {
    /// AVCC.
    data: Vec<u8>,
    /// Where the length of the NAL unit begins that is being written.
    open: Option<usize>,
    nal_units: usize,
    error: Option<UnitError>,
    slices: usize,
    idr_slices: usize,
    intra_slices: usize,
    /// A recovery point said that pictures are exact from this one on.
    recovers: bool,
    referred: bool,
    bidirectional: bool,
    begins: bool,
    /// Picture parameter sets named by the slices, without repeats.
    pps_ids: Vec<u8>,
}

impl UnitBuilder {
    /// A builder that knows no parameter sets; pictures of more than `pixels_max` are refused.
    #[must_use]
    pub fn new(pixels_max: u64) -> Self {
        Self {
            sets: ParameterSets::new(pixels_max),
            rotation: Rotation::None,
            params: None,
            params_made_at: 0,
            picture: Picture::default(),
        }
    }

    /// The parameters of the last unit made.
    #[must_use]
    pub fn params(&self) -> Option<&Arc<VideoParams>> {
        self.params.as_ref()
    }

    /// How pictures are to be turned, from the current one on.
    pub fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    /// Adds a whole NAL unit.
    pub fn push(&mut self, nal: &[u8]) {
        self.open();
        self.append(nal);
        self.close();
    }

    /// Begins a NAL unit that comes in pieces. One that was not closed is damaged.
    pub fn open(&mut self) {
        if self.picture.open.is_some() {
            self.fail(UnitError::Malformed);
        }
        if self.picture.error.is_none() {
            self.picture.open = Some(self.picture.data.len());
            self.picture.data.extend_from_slice(&[0; 4]);
        }
    }

    /// Adds to the NAL unit begun.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.picture.error.is_some() {
            return;
        }
        if self.picture.open.is_none() {
            self.fail(UnitError::Malformed);
        } else if self.picture.data.len() + bytes.len() > UNIT_BYTES_MAX {
            self.fail(UnitError::TooLarge);
        } else {
            self.picture.data.extend_from_slice(bytes);
        }
    }

    /// Ends the NAL unit begun.
    pub fn close(&mut self) {
        if self.picture.error.is_some() {
            return;
        }
        if let Err(error) = self.take_nal() {
            self.fail(error);
        }
    }

    /// Whether a NAL unit was begun and not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.picture.open.is_some()
    }

    fn take_nal(&mut self) -> Result<(), UnitError> {
        let picture = &mut self.picture;
        let start = picture.open.take().ok_or(UnitError::Malformed)?;
        let nal = picture.data.get(start + 4..).ok_or(UnitError::Malformed)?;
        let header = NalHeader::of(nal).ok_or(UnitError::Malformed)?;
        picture.nal_units += 1;
        if picture.nal_units > NAL_UNITS_MAX {
            return Err(UnitError::TooManyNalUnits);
        }
        let keep = match header.nal_type() {
            NalType::Slice | NalType::IdrSlice => {
                let slice = SliceStart::parse(nal).ok_or(UnitError::Malformed)?;
                picture.slices += 1;
                picture.idr_slices += usize::from(header.is_idr());
                picture.intra_slices += usize::from(slice.intra);
                picture.referred |= !header.is_disposable();
                picture.bidirectional |= slice.bidirectional;
                picture.begins |= slice.first_mb == 0;
                if !picture.pps_ids.contains(&slice.pps_id) {
                    picture.pps_ids.push(slice.pps_id);
                }
                true
            }
            NalType::Sei => {
                let point = recovery_point(nal);
                picture.recovers |= point.is_some_and(|point| point.after_frames == 0 && point.exact);
                true
            }
            NalType::Sps => {
                self.sets.insert_sps(nal)?;
                false
            }
            NalType::Pps => {
                self.sets.insert_pps(nal)?;
                false
            }
            NalType::Partition => return Err(UnitError::Partitioned),
            NalType::Aud | NalType::Filler | NalType::Other(_) => false,
        };
        if keep {
            let size = u32::try_from(nal.len()).map_err(|_| UnitError::TooLarge)?;
            let length = picture.data.get_mut(start..start + 4).ok_or(UnitError::Malformed)?;
            length.copy_from_slice(&size.to_be_bytes());
        } else {
            picture.data.truncate(start);
        }
        Ok(())
    }

    /// The first error counts; what was gathered is given back at once.
    fn fail(&mut self, error: UnitError) {
        self.discard();
        self.picture.error = Some(error);
    }

    /// Forgets the current picture. Parameter sets that came with it stay.
    pub fn discard(&mut self) {
        let mut data = std::mem::take(&mut self.picture.data);
        data.clear();
        data.shrink_to(SCRATCH_KEPT_BYTES);
        self.picture = Picture { data, ..Picture::default() };
    }

    /// Ends the current picture. `None` when nothing but parameter sets and the like came.
    ///
    /// # Errors
    /// When the NAL units since the last call do not make a picture that can be decoded.
    pub fn finish(&mut self, times: UnitTimes) -> Result<Option<AccessUnit>, UnitError> {
        let result = self.make_unit(times);
        self.discard();
        result
    }

    fn make_unit(&mut self, times: UnitTimes) -> Result<Option<AccessUnit>, UnitError> {
        if let Some(error) = self.picture.error {
            return Err(error);
        }
        if self.picture.open.is_some() {
            return Err(UnitError::Malformed);
        }
        if self.picture.slices == 0 {
            return Ok(None);
        }
        if !self.picture.begins {
            return Err(UnitError::NoFirstSlice);
        }
        let idr = self.picture.idr_slices > 0;
        if idr && self.picture.idr_slices < self.picture.slices {
            return Err(UnitError::Malformed);
        }
        // What a recovery point promises is only believed of a picture that stands for itself.
        let key = idr || (self.picture.recovers && self.picture.intra_slices == self.picture.slices);
        // Another sequence parameter set begins with an IDR picture, unless nothing came before.
        let may_change = idr || (key && self.params.is_none());
        Ok(Some(AccessUnit {
            seq: 0,
            arrived: times.arrived,
            pts: times.pts,
            dts: times.dts,
            key,
            disposable: !self.picture.referred,
            bidirectional: self.picture.bidirectional,
            hidden: false,
            params: self.params_of_picture(may_change)?,
            // An exact copy: the cache holds units for long, the working buffer is larger than most.
            data: Bytes::copy_from_slice(&self.picture.data),
        }))
    }

    /// The parameters that the current picture's slices name; the same `Arc` as before where nothing changed.
    fn params_of_picture(&mut self, may_change: bool) -> Result<Arc<VideoParams>, UnitError> {
        let mut active = None;
        for &pps_id in &self.picture.pps_ids {
            let sps = self.sets.sps_of(pps_id).ok_or(UnitError::UnknownParameters(pps_id))?;
            if active.is_some_and(|other| other != sps) {
                return Err(UnitError::Malformed);
            }
            active = Some(sps);
        }
        let sps = active.ok_or(UnitError::NoFirstSlice)?;
        let in_force = self.params.as_ref();
        let same_sps = in_force
            .and_then(|params| params.codec.h264_sets())
            .is_some_and(|(known, _)| known.first() == Some(&sps.bytes));
        if !may_change && !same_sps {
            // Without parameters in force there was no keyframe yet, and this one refers to nothing.
            return Err(UnitError::ParametersChanged);
        }
        if let Some(params) = in_force
            && same_sps
            && self.params_made_at == self.sets.changes()
            && params.rotation == self.rotation
        {
            return Ok(params.clone());
        }
        let made = VideoParams {
            codec: VideoCodec::H264 { sps: vec![sps.bytes.clone()], pps: self.sets.pps_for(sps.read.id) },
            width: sps.read.width,
            height: sps.read.height,
            sample_aspect_ratio: sps.read.sample_aspect_ratio,
            colour: sps.read.colour,
            rotation: self.rotation,
        };
        self.params_made_at = self.sets.changes();
        let params = in_force.filter(|params| ***params == made).cloned().unwrap_or_else(|| Arc::new(made));
        self.params = Some(params.clone());
        Ok(params)
    }
}

/// Groups the NAL units of an Annex B byte stream by access unit (H.264 7.4.1.2.3): a new one begins at a delimiter,
/// parameter set, SEI, or first slice that comes after a slice.
#[must_use]
pub fn annex_b_pictures(stream: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut pictures: Vec<Vec<&[u8]>> = Vec::new();
    let mut has_slice = true;
    for nal in annex_b_units(stream) {
        let Some(header) = NalHeader::of(nal) else { continue };
        let is_slice = matches!(header.nal_type(), NalType::Slice | NalType::IdrSlice);
        let leads = match header.nal_type() {
            NalType::Aud | NalType::Sps | NalType::Pps | NalType::Sei => true,
            _ => is_slice && SliceStart::parse(nal).is_some_and(|slice| slice.first_mb == 0),
        };
        if leads && has_slice {
            pictures.push(Vec::new());
            has_slice = false;
        }
        has_slice |= is_slice;
        if let Some(picture) = pictures.last_mut() {
            picture.push(nal);
        }
    }
    pictures
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
