//! How the pictures of a sequence are coded, as far as a decoder must know before it begins: what it needs room for,
//! and what it cannot do.

use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, SeqParameterSet};

use super::sps::{PARAMETER_SET_BYTES_MAX, read_leniently, read_strictly};

/// What a sequence parameter set says of the coding (H.264 7.4.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Width × height of the coded picture, before cropping.
    pub coded_pixels: u64,
    /// `max_num_ref_frames`: how many pictures are kept to refer to; at most 16 in a stream that keeps to the standard.
    pub reference_frames: u32,
    /// How often chroma is sampled.
    pub chroma: Chroma,
    /// Bits of a luma sample.
    pub luma_bits: u8,
    /// Bits of a chroma sample.
    pub chroma_bits: u8,
    /// `qpprime_y_zero_transform_bypass_flag`: macroblocks may be coded without any loss.
    pub lossless: bool,
    /// What the rows of a picture may be.
    pub scan: Scan,
    /// How slice headers count pictures.
    pub frame_num: FrameNum,
    /// `max_num_reorder_frames` is there and not 0 (E.2.1): B slices will come.
    pub reorders: bool,
}

/// How `frame_num` stands in slice headers (7.3.3), and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameNum {
    /// Bits of it.
    pub bits: u32,
    /// `separate_colour_plane_flag`: `colour_plane_id` stands before it.
    pub separate_planes: bool,
    /// `gaps_in_frame_num_value_allowed_flag`: pictures may be left out on purpose; otherwise a gap is a loss (7.4.3).
    pub gaps_allowed: bool,
}

/// `chroma_format_idc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// 0: no colour.
    None,
    /// 1: halved both ways.
    Yuv420,
    /// 2: halved across.
    Yuv422,
    /// 3: as many samples as luma.
    Yuv444,
}

/// Whether rows of a picture may belong to two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// `frame_mbs_only_flag` is 1: whole pictures only.
    Progressive,
    /// Fields may be coded.
    Interlaced(Interlaced),
}

/// What the slice headers of a stream that may hold fields are read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interlaced {
    /// `mb_adaptive_frame_field_flag`: a whole picture may hold field macroblocks (MBAFF).
    pub adaptive: bool,
    /// Bits of `frame_num` in slice headers.
    pub frame_num_bits: u32,
    /// `separate_colour_plane_flag`: slice headers have `colour_plane_id`.
    pub separate_planes: bool,
}

fn reorders(sps: &SeqParameterSet) -> bool {
    let restrictions = sps.vui_parameters.as_ref().and_then(|vui| vui.bitstream_restrictions.as_ref());
    restrictions.is_some_and(|restrictions| restrictions.max_num_reorder_frames > 0)
}

impl Coding {
    /// Reads a NAL unit of type 7, header byte included; `None` when it cannot be read.
    #[must_use]
    pub fn of(sps: &[u8]) -> Option<Self> {
        if sps.len() > PARAMETER_SET_BYTES_MAX {
            return None;
        }
        let read = read_leniently(sps)?;
        let scan = match read.frame_mbs_flags {
            FrameMbsFlags::Frames => Scan::Progressive,
            FrameMbsFlags::Fields { mb_adaptive_frame_field_flag } => Scan::Interlaced(Interlaced {
                adaptive: mb_adaptive_frame_field_flag,
                frame_num_bits: u32::from(read.log2_max_frame_num_minus4) + 4,
                separate_planes: read.chroma_info.separate_colour_plane_flag,
            }),
        };
        // A map unit is a macroblock of each field then (7.4.2.1.1).
        let fields = if scan == Scan::Progressive { 1 } else { 2 };
        let macroblocks =
            u64::from(read.pic_width_in_mbs()) * u64::from(read.pic_height_in_map_units()) * fields;
        let chroma = match read.chroma_info.chroma_format {
            ChromaFormat::Monochrome => Chroma::None,
            ChromaFormat::YUV420 => Chroma::Yuv420,
            ChromaFormat::YUV422 => Chroma::Yuv422,
            _ => Chroma::Yuv444,
        };
        Some(Self {
            coded_pixels: macroblocks * 256,
            reference_frames: read.max_num_ref_frames,
            chroma,
            luma_bits: 8 + read.chroma_info.bit_depth_luma_minus8,
            chroma_bits: 8 + read.chroma_info.bit_depth_chroma_minus8,
            lossless: read.chroma_info.qpprime_y_zero_transform_bypass_flag,
            scan,
            frame_num: FrameNum {
                bits: u32::from(read.log2_max_frame_num_minus4) + 4,
                separate_planes: read.chroma_info.separate_colour_plane_flag,
                gaps_allowed: read.gaps_in_frame_num_value_allowed_flag,
            },
            reorders: read_strictly(sps).is_some_and(|read| reorders(&read)),
        })
    }
}
