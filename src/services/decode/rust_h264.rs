//! H.264 through `rust_h264`, a decoder in Rust: for what OpenH264 cannot do, or does not do exactly. It takes two to
//! three times as long, and is the one door to that crate.
//!
//! | | |
//! |---|---|
//! | B slices | exact, where OpenH264 is not |
//! | joining at a recovery point | where OpenH264 wants an IDR |
//! | 4:2:2, 10 bits a sample | the latter are rounded to 8 |
//! | interlaced | decoded, then the top field is kept and the rows between are drawn anew |
//! | 4:4:4, other depths, lossless coding, fields in units of their own | refused with the reason |

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rust_h264::decoder::{ChromaFormat, Decoder, Frame};
use rust_h264::error::DecodeError as LibraryError;
use rust_h264::nal::{NalUnit, parse_avcc};

use super::deinterlace::keep_top_field;
use super::{DecodeError, pack};
use crate::media::h264::coding::{Chroma, Coding, Interlaced, Scan};
use crate::media::h264::framing::avcc_units;
use crate::media::h264::slice::{SliceStart, frame_num, is_field};
use crate::media::h264::{NalHeader, NalType};
use crate::media::picture::{ChromaSampling, YuvPicture};
use crate::media::track::VideoParams;
use crate::media::unit::AccessUnit;

/// `MaxDpbFrames` is never more (H.264 A.3.1), and the library keeps as many as it is told.
const REFERENCE_FRAMES_MAX: u32 = 16;
/// Room for reference frames in pixels: `MaxDpbMbs` of level 6.2, the largest (H.264 table A-1: 696 320 macroblocks). A
/// sequence parameter set may ask for three times as much.
const REFERENCE_PIXELS_MAX: u64 = 696_320 * 256;
/// The library copies its picture before each slice but the first. Real encoders make some ten slices, those that
/// write for packets some hundred.
const SLICES_MAX: usize = 256;

/// The decoder at work on one stream.
pub(super) struct RustH264 {
    decoder: Decoder,
    /// The sequence parameter sets of the keyframe.
    sps: Vec<Bytes>,
    coding: Coding,
    /// `frame_num` of the newest reference picture; `None` before the first one whose number says anything.
    counted: Option<u32>,
}

impl RustH264 {
    /// A decoder that has been told the parameter sets of a keyframe.
    ///
    /// # Errors
    /// When there are none, when they ask for something that it cannot do, and when a coded picture has more than
    /// `pixels_max` pixels.
    pub(super) fn start(sps: &[Bytes], pps: &[Bytes], pixels_max: u64) -> Result<Self, DecodeError> {
        // A unit's parameters name the one sequence parameter set that its slices use.
        let [active] = sps else { return Err(DecodeError::Parameters) };
        let coding = Coding::of(active).ok_or(DecodeError::Parameters)?;
        let pixels = coding.coded_pixels;
        if pixels > pixels_max {
            return Err(DecodeError::TooLarge { pixels, pixels_max });
        }
        check(&coding)?;
        let mut decoder = Self { decoder: Decoder::new(), sps: sps.to_vec(), coding, counted: None };
        decoder.tell(sps)?;
        decoder.tell(pps)?;
        Ok(decoder)
    }

    /// Hands on parameter sets.
    fn tell(&mut self, sets: &[Bytes]) -> Result<(), DecodeError> {
        for set in sets {
            let length = u32::try_from(set.len()).map_err(|_| DecodeError::Parameters)?;
            let unit = [&length.to_be_bytes(), &set[..]].concat();
            for nal in parse_avcc(&unit, 4) {
                self.take(&nal, 0).map_err(|_| DecodeError::Parameters)?;
            }
        }
        Ok(())
    }

    /// Hands on a NAL unit. Like any library that reads what strangers wrote it may be wrong: a panic costs the unit.
    fn take(&mut self, nal: &NalUnit<'_>, seq: u64) -> Result<Option<Frame>, DecodeError> {
        let decoder = &mut self.decoder;
        catch_unwind(AssertUnwindSafe(|| decoder.decode_nal(nal)))
            .map_err(|_| DecodeError::Damaged { seq, code: code::PANIC })?
            .map_err(|error| match error {
                LibraryError::Unsupported(what) => DecodeError::Unsupported(what),
                LibraryError::UnexpectedEof => DecodeError::Damaged { seq, code: code::CUT_SHORT },
                LibraryError::InvalidSyntax(_) => DecodeError::Damaged { seq, code: code::SYNTAX },
            })
    }

    /// Refuses a picture before which others are missing that the way in knows nothing of: left out by an encoder or a relay
    /// before us. The library would put copies in their place (H.264 8.2.5.2), and the picture would be a wrong one.
    fn check_order(&mut self, unit: &AccessUnit) -> Result<(), DecodeError> {
        let syntax = self.coding.frame_num;
        let slice = avcc_units(&unit.data).map_while(Result::ok).find_map(|nal| {
            let header = NalHeader::of(nal)?;
            matches!(header.nal_type(), NalType::Slice | NalType::IdrSlice).then_some((header, nal))
        });
        let Some((header, nal)) = slice else { return Ok(()) };
        let damaged = |code| DecodeError::Damaged { seq: unit.seq, code };
        let number = frame_num(nal, &syntax).ok_or(damaged(code::SYNTAX))?;
        if let Some(before) = self.counted.filter(|_| !header.is_idr() && !syntax.gaps_allowed) {
            let next = (before + 1) & ((1 << syntax.bits) - 1);
            // The same number is that of the picture before, or of its other field.
            if number != before && number != next {
                return Err(damaged(code::MISSING));
            }
        }
        if !unit.disposable {
            self.counted = Some(number);
        }
        Ok(())
    }

    /// The picture of all NAL units of one access unit.
    fn frame(&mut self, unit: &AccessUnit) -> Result<Frame, DecodeError> {
        let mut last = None;
        for nal in parse_avcc(&unit.data, 4) {
            last = self.take(&nal, unit.seq)?.or(last);
        }
        let decoder = &mut self.decoder;
        // The library would wait for the next unit before it ends this picture.
        let ended = catch_unwind(AssertUnwindSafe(|| decoder.flush()))
            .map_err(|_| DecodeError::Damaged { seq: unit.seq, code: code::PANIC })?;
        ended.or(last).ok_or(DecodeError::NoPicture { seq: unit.seq })
    }
}

/// What [`DecodeError::Damaged`] tells of this library.
mod code {
    pub(super) const CUT_SHORT: i64 = 1;
    pub(super) const SYNTAX: i64 = 2;
    pub(super) const PANIC: i64 = 3;
    pub(super) const MISSING: i64 = 4;
}

/// Refuses what cannot be decoded, with the reason.
fn check(coding: &Coding) -> Result<(), DecodeError> {
    let colour = coding.chroma != Chroma::None;
    let reason = if coding.chroma == Chroma::Yuv444 {
        "chroma format 4:4:4"
    } else if coding.lossless {
        "lossless coding"
    } else if !matches!(coding.luma_bits, 8 | 10) {
        "samples of neither 8 nor 10 bits"
    } else if colour && coding.chroma_bits != coding.luma_bits {
        "chroma of other depth than luma"
    } else if coding.reference_frames > REFERENCE_FRAMES_MAX {
        "more than 16 reference frames"
    } else if u64::from(coding.reference_frames).saturating_mul(coding.coded_pixels) > REFERENCE_PIXELS_MAX {
        "more reference frames than fit into any level"
    } else {
        return Ok(());
    };
    Err(DecodeError::Unsupported(reason))
}

/// What the slices of a unit say of its rows.
fn holds_fields(unit: &AccessUnit, interlaced: &Interlaced) -> Result<bool, DecodeError> {
    let mut pictures = 0;
    let mut fields = false;
    for nal in avcc_units(&unit.data) {
        let nal = nal.map_err(|_| DecodeError::Framing)?;
        let slice = |header: NalHeader| matches!(header.nal_type(), NalType::Slice | NalType::IdrSlice);
        if !NalHeader::of(nal).is_some_and(slice) {
            continue;
        }
        let damaged = || DecodeError::Damaged { seq: unit.seq, code: code::SYNTAX };
        let start = SliceStart::parse(nal).ok_or_else(damaged)?;
        pictures += usize::from(start.first_mb == 0);
        fields |= is_field(nal, interlaced).ok_or_else(damaged)?;
    }
    if fields && pictures < 2 {
        // Half of the rows; the other half is another unit's.
        return Err(DecodeError::Unsupported("interlaced video whose fields come one by one"));
    }
    Ok(fields || interlaced.adaptive)
}

impl super::Decoder for RustH264 {
    fn adopt(&mut self, params: &VideoParams) -> Result<(), DecodeError> {
        // Picture parameter sets may come and change at any unit (H.264 7.4.1.2.1); all else only at an IDR.
        let (sps, pps) = params.codec.h264_sets().ok_or(DecodeError::Gap)?;
        if sps != self.sps {
            return Err(DecodeError::Gap);
        }
        self.tell(pps)
    }

    fn decode(&mut self, unit: &AccessUnit, picture: Option<&mut YuvPicture>) -> Result<(), DecodeError> {
        let mut nal_units = 0;
        for nal in avcc_units(&unit.data) {
            nal.map_err(|_| DecodeError::Framing)?;
            nal_units += 1;
        }
        if nal_units > SLICES_MAX {
            return Err(DecodeError::Unsupported("a picture of more than 256 slices"));
        }
        let fields = match &self.coding.scan {
            Scan::Progressive => false,
            Scan::Interlaced(interlaced) => holds_fields(unit, interlaced)?,
        };
        self.check_order(unit)?;
        let frame = self.frame(unit)?;
        let (width, height) = (frame.width as usize, frame.height as usize);
        if (frame.width, frame.height) != (unit.params.width, unit.params.height) {
            return Err(DecodeError::Size { width, height });
        }
        let Some(picture) = picture else { return Ok(()) };
        picture.sampling = match frame.chroma_format {
            ChromaFormat::Yuv420 => ChromaSampling::Yuv420,
            ChromaFormat::Yuv422 => ChromaSampling::Yuv422,
        };
        let (chroma_width, chroma_height) = (width.div_ceil(2), picture.sampling.rows(height));
        copy(&frame, &frame.y, (width, height), &mut picture.y);
        copy(&frame, &frame.u, (chroma_width, chroma_height), &mut picture.u);
        copy(&frame, &frame.v, (chroma_width, chroma_height), &mut picture.v);
        if fields {
            keep_top_field(picture);
        }
        Ok(())
    }
}

/// Copies a plane; samples of 10 bits are rounded to 8.
fn copy(frame: &Frame, plane: &[u8], (width, height): (usize, usize), packed: &mut Vec<u8>) {
    if frame.bit_depth <= 8 {
        return pack(plane, width, width, height, packed);
    }
    packed.clear();
    let (samples, _) = plane.as_chunks::<2>();
    let rounded = samples.iter().map(|sample| ((u16::from_le_bytes(*sample) + 2) >> 2).min(255) as u8);
    packed.extend(rounded.take(width * height));
    // A plane that is too short would be the library's mistake; it must not become ours.
    packed.resize(width * height, 128);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::h264::tests::SPS_640X360;

    #[test]
    fn room_is_made_for_as_many_reference_frames_as_some_level_allows() {
        let usual = Coding::of(SPS_640X360).unwrap();
        let fits = |width: u64, height: u64, reference_frames: u32| {
            check(&Coding { coded_pixels: width * height, reference_frames, ..usual }).is_ok()
        };
        assert!(fits(1920, 1088, 16) && fits(3840, 2160, 16) && fits(8192, 4352, 5));
        assert!(!fits(1920, 1088, 17) && !fits(8192, 4352, 6) && !fits(8192, 4352, 16));
    }
}
