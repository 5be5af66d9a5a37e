//! Decoding times for pictures whose transport tells only when they are shown (RTP), without holding any back.
//!
//! Of pictures in decoding order, the n-th may be given the n-th smallest showing time as its decoding time, less the
//! depth of reordering: with depth d, the picture that came last is decoded when the earliest shown of the last d + 1
//! pictures is shown. So no later picture need be known. The depth comes from the SPS where it says it
//! (`max_num_reorder_frames`, H.264 E.2.1); else it is 0, until a picture order count (8.2.1) skips places that later
//! pictures must fill, or a picture comes that is shown before the newest decoding time.

use std::sync::Arc;

use h264_reader::nal::sps::{FrameMbsFlags, PicOrderCntType, SeqParameterSet};
use h264_reader::rbsp::{BitRead as _, BitReader, ByteReader};

use super::framing::avcc_units;
use super::sps::{read_leniently, read_strictly};
use super::{NalHeader, NalType};
use crate::media::time::Timestamp;
use crate::media::track::VideoParams;
use crate::media::unit::AccessUnit;

/// Deepest reordering that the standard allows (H.264 A.3.1: `MaxDpbFrames` is at most 16).
pub const REORDER_DEPTH_MAX: usize = 16;
/// Most bytes of a slice header up to its picture order count: six codes, with emulation prevention.
const SLICE_HEAD_BYTES: usize = 64;

/// Gives the units of one stream their decoding times: they rise with each unit and are never behind the showing time.
#[derive(Debug, Default)]
pub struct DecodeTimes {
    depth: usize,
    /// The latest showing times, at most [`REORDER_DEPTH_MAX`] + 1, rising.
    latest: Vec<i64>,
    last: Option<i64>,
    /// The latest showing time so far.
    highest: Option<i64>,
    params: Option<Arc<VideoParams>>,
    order: Option<OrderSyntax>,
    /// Picture order count of the latest shown picture since the IDR picture.
    highest_order: i64,
    /// Pictures since the IDR picture, itself included; `None` when it is not known which was the last one.
    since_idr: Option<i64>,
}

/// What of an SPS is needed to read the picture order count of a slice (H.264 7.3.3, type 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OrderSyntax {
    frame_num_bits: u32,
    lsb_bits: u32,
    has_fields: bool,
    has_colour_plane: bool,
}

impl DecodeTimes {
    /// At the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what came before: units were lost, or time jumped. Decoding times go on rising.
    pub fn reset(&mut self) {
        self.latest.clear();
        self.since_idr = None;
    }

    /// The depth of reordering as far as it is known.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Sets the decoding time of the next unit in decoding order. A picture that turns out to be shown before the
    /// newest decoding time, because more is reordered than was known, is moved up to it; that happens at most
    /// [`REORDER_DEPTH_MAX`] times, unless time itself runs backwards.
    pub fn stamp(&mut self, unit: &mut AccessUnit) {
        self.learn_params(&unit.params);
        self.learn_order(unit);
        let pts = unit.pts.ticks;
        let is_reordered = self.highest.is_some_and(|highest| pts < highest);
        if is_reordered && self.last.is_some_and(|last| pts <= last) {
            self.depth = (self.depth + 1).min(REORDER_DEPTH_MAX);
        }
        self.highest = self.highest.max(Some(pts));
        let at = self.latest.partition_point(|&latest| latest <= pts);
        self.latest.insert(at, pts);
        if self.latest.len() > REORDER_DEPTH_MAX + 1 {
            self.latest.remove(0);
        }
        let wanted = match self.latest.len().checked_sub(self.depth + 1) {
            Some(at) => self.latest.get(at).copied().unwrap_or(pts),
            // There is no earlier picture to take the place of: a tick each is enough, as many below the earliest one as
            // pictures are still to come.
            None => {
                let missing = i64::try_from(self.depth + 1 - self.latest.len()).unwrap_or_default();
                self.latest.first().copied().unwrap_or(pts).saturating_sub(missing)
            }
        };
        let least = self.last.map_or(i64::MIN, |last| last.saturating_add(1));
        let ticks = wanted.max(least);
        self.last = Some(ticks);
        unit.dts = Timestamp { ticks, timescale: unit.pts.timescale };
        unit.pts.ticks = pts.max(ticks);
    }

    fn learn_params(&mut self, params: &Arc<VideoParams>) {
        if self.params.as_ref().is_some_and(|known| Arc::ptr_eq(known, params)) {
            return;
        }
        let sps = |params: &VideoParams| params.codec.h264_sets().and_then(|(sps, _)| sps.first().cloned());
        let is_same = self.params.as_deref().and_then(sps) == sps(params);
        self.params = Some(params.clone());
        if is_same {
            return;
        }
        let read = sps(params).and_then(|sps| read_strictly(&sps).or_else(|| read_leniently(&sps)));
        self.order = read.as_ref().and_then(OrderSyntax::of);
        let told = read.as_ref().and_then(|sps| sps.vui_parameters.as_ref()?.bitstream_restrictions.as_ref());
        let told = told.and_then(|told| usize::try_from(told.max_num_reorder_frames).ok());
        // A new SPS comes with an IDR picture, behind which nothing of the old one is shown.
        self.depth = told.unwrap_or_default().min(REORDER_DEPTH_MAX);
        if told.is_some() {
            self.order = None;
        }
    }

    /// Places skipped in the order of pictures are filled by later ones: a pyramid of them is as deep as their number
    /// has binary digits, a plain row of them one.
    fn learn_order(&mut self, unit: &AccessUnit) {
        let Some(syntax) = self.order else { return };
        let Some(slice) = first_slice(&unit.data) else { return };
        if NalHeader::of(slice).is_some_and(NalHeader::is_idr) {
            (self.since_idr, self.highest_order) = (Some(1), 0);
            return;
        }
        let Some(before) = self.since_idr else { return };
        self.since_idr = Some(before.saturating_add(1));
        let Some(lsb) = syntax.read_lsb(slice) else { return };
        let modulus = 1_i64 << syntax.lsb_bits;
        // The count nearest to the highest one that ends in these bits (8.2.1.1).
        let step = (lsb - self.highest_order).rem_euclid(modulus);
        let step = if step > modulus / 2 { step - modulus } else { step };
        let order = self.highest_order + step;
        // A frame takes two places, and the units before this one have taken theirs.
        let skipped = (order / 2).saturating_sub(before);
        if skipped > 0 {
            let digits = usize::try_from(i64::BITS - skipped.leading_zeros()).unwrap_or(REORDER_DEPTH_MAX);
            self.depth = self.depth.max(digits).min(REORDER_DEPTH_MAX);
        }
        self.highest_order = self.highest_order.max(order);
    }
}

impl OrderSyntax {
    fn of(sps: &SeqParameterSet) -> Option<Self> {
        let PicOrderCntType::TypeZero { log2_max_pic_order_cnt_lsb_minus4 } = sps.pic_order_cnt else {
            // Type 2 reorders nothing, and nobody writes type 1.
            return None;
        };
        Some(Self {
            frame_num_bits: u32::from(sps.log2_max_frame_num()),
            lsb_bits: u32::from(log2_max_pic_order_cnt_lsb_minus4) + 4,
            has_fields: sps.frame_mbs_flags != FrameMbsFlags::Frames,
            has_colour_plane: sps.chroma_info.separate_colour_plane_flag,
        })
    }

    /// `pic_order_cnt_lsb` of a slice that is not of an IDR picture.
    fn read_lsb(self, nal: &[u8]) -> Option<i64> {
        let head = nal.get(..SLICE_HEAD_BYTES).unwrap_or(nal);
        let mut bits = BitReader::new(ByteReader::skipping_h264_header(head));
        for name in ["first_mb_in_slice", "slice_type", "pic_parameter_set_id"] {
            bits.read_ue(name).ok()?;
        }
        if self.has_colour_plane {
            bits.skip(2, "colour_plane_id").ok()?;
        }
        bits.skip(self.frame_num_bits, "frame_num").ok()?;
        if self.has_fields && bits.read_bit("field_pic_flag").ok()? {
            bits.skip(1, "bottom_field_flag").ok()?;
        }
        bits.read_var::<u32>(self.lsb_bits, "pic_order_cnt_lsb").ok().map(i64::from)
    }
}

fn first_slice(avcc: &[u8]) -> Option<&[u8]> {
    avcc_units(avcc).map_while(Result::ok).find(|nal| {
        let nal_type = NalHeader::of(nal).map(NalHeader::nal_type);
        matches!(nal_type, Some(NalType::Slice | NalType::IdrSlice))
    })
}

#[cfg(test)]
#[path = "decode_time_tests.rs"]
mod tests;
