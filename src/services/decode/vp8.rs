//! VP8: the one door to crate `oxideav-vp8`, which is Rust without unsafe code.
//!
//! The library keeps the three reference frames and the state of the entropy decoder. It gives each frame its own picture,
//! hidden ones included; that those are not shown is for others to see to ([`super::newest_shown`]).

use std::panic::{AssertUnwindSafe, catch_unwind};

use oxideav_vp8::Vp8DecoderState;

use super::DecodeError;
use crate::media::picture::YuvPicture;
use crate::media::track::VideoParams;
use crate::media::unit::AccessUnit;

/// The decoder at work on one stream.
pub(super) struct Vp8 {
    state: Vp8DecoderState,
}

impl Vp8 {
    /// A decoder for keyframes of this size.
    ///
    /// # Errors
    /// When a coded picture, of whole macroblocks, has more than `pixels_max` pixels.
    pub(super) fn start(params: &VideoParams, pixels_max: u64) -> Result<Self, DecodeError> {
        let coded = |size: u32| u64::from(size.next_multiple_of(16));
        let pixels = coded(params.width) * coded(params.height);
        if pixels > pixels_max {
            return Err(DecodeError::TooLarge { pixels, pixels_max });
        }
        // Units are of the size that their parameters say; a keyframe that is larger nevertheless is not decoded.
        let declared = u64::from(params.width) * u64::from(params.height);
        Ok(Self { state: Vp8DecoderState::new().with_max_pixels_per_frame(declared) })
    }
}

impl super::Decoder for Vp8 {
    fn adopt(&mut self, _: &VideoParams) -> Result<(), DecodeError> {
        // All that could change is the size, and that comes with a keyframe.
        Err(DecodeError::Gap)
    }

    fn decode(&mut self, unit: &AccessUnit, picture: Option<&mut YuvPicture>) -> Result<(), DecodeError> {
        let damaged = |why: String| DecodeError::Corrupt { seq: unit.seq, why };
        // A mistake in the library is a panic at worst. This one decoder is lost with it, as after any damage, and not
        // the thread that serves others.
        let decoded = catch_unwind(AssertUnwindSafe(|| self.state.decode_frame(&unit.data)))
            .map_err(|_| damaged("the decoder gave up".into()))?
            .map_err(|error| damaged(error.to_string()))?;
        let (width, height) = (decoded.width as usize, decoded.height as usize);
        if (decoded.width, decoded.height) != (unit.params.width, unit.params.height) {
            return Err(DecodeError::Size { width, height });
        }
        let chroma = width.div_ceil(2) * height.div_ceil(2);
        if (decoded.y.len(), decoded.u.len(), decoded.v.len()) != (width * height, chroma, chroma) {
            return Err(DecodeError::NoPicture { seq: unit.seq });
        }
        if let Some(picture) = picture {
            (picture.y, picture.u, picture.v) = (decoded.y, decoded.u, decoded.v);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "vp8_tests.rs"]
pub(crate) mod tests;
