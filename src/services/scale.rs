//! Pictures made smaller on request.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::media::picture::RgbPicture;

/// How a picture is brought into a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// All of the picture is kept, and its proportions: one side may be shorter than the box.
    #[default]
    Contain,
    /// The box is filled, proportions are kept: what stands over is cut off evenly at both sides.
    Cover,
}

/// A box for a picture, in pixels. A side that is not given follows from the other by the picture's proportions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scale {
    /// Width of the box.
    pub width: Option<u32>,
    /// Height of the box.
    pub height: Option<u32>,
    /// What to do where the proportions differ.
    pub fit: Fit,
}

/// Why a picture cannot be scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// A side of the box is zero or more than [`SIDE_MAX`].
    #[error("width and height must be from 1 to {SIDE_MAX}")]
    Box,
    /// The library refused.
    #[error("picture cannot be scaled")]
    Resize,
}

/// Longest side of a box, in pixels.
pub const SIDE_MAX: u32 = 8192;

impl Scale {
    /// Checks the box, before any work is done for it.
    ///
    /// # Errors
    /// When a side is zero or too long.
    pub fn check(&self) -> Result<(), ScaleError> {
        let fine = |side: Option<u32>| side.is_none_or(|side| (1..=SIDE_MAX).contains(&side));
        if fine(self.width) && fine(self.height) { Ok(()) } else { Err(ScaleError::Box) }
    }

    /// The size of the outcome for a picture of this size. Pictures are never made larger: where the box is larger
    /// than the picture, the picture's own size is the bound (with [`Fit::Cover`]: of the box's proportions).
    #[must_use]
    pub fn size_for(&self, width: u32, height: u32) -> (u32, u32) {
        let (w, h) = (f64::from(width), f64::from(height));
        let rounded = |side: f64, most: u32| (side.round() as u32).clamp(1, most);
        match (self.width, self.height, self.fit) {
            (None, None, _) => (width, height),
            (Some(box_w), Some(box_h), Fit::Cover) => {
                let (box_w, box_h) = (f64::from(box_w), f64::from(box_h));
                let shrink = (w / box_w).min(h / box_h).min(1.0);
                (rounded(box_w * shrink, width), rounded(box_h * shrink, height))
            }
            (box_w, box_h, _) => {
                let by_width = box_w.map_or(1.0, |box_w| f64::from(box_w) / w);
                let by_height = box_h.map_or(1.0, |box_h| f64::from(box_h) / h);
                let factor = by_width.min(by_height).min(1.0);
                (rounded(w * factor, width), rounded(h * factor, height))
            }
        }
    }

    /// The picture in the box: averaged over all pixels that fall together, so that fine detail does not flicker.
    ///
    /// # Errors
    /// When the box is not usable.
    pub fn apply(&self, picture: RgbPicture) -> Result<RgbPicture, ScaleError> {
        self.check()?;
        let (width, height) = self.size_for(picture.width, picture.height);
        if (width, height) == (picture.width, picture.height) {
            return Ok(picture);
        }
        let source = ImageRef::new(picture.width, picture.height, &picture.rgb, PixelType::U8x3)
            .map_err(|_| ScaleError::Resize)?;
        let mut scaled = Image::new(width, height, PixelType::U8x3);
        let mut options =
            ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        if self.fit == Fit::Cover {
            options = options.fit_into_destination(None);
        }
        Resizer::new().resize(&source, &mut scaled, &options).map_err(|_| ScaleError::Resize)?;
        Ok(RgbPicture { width, height, rgb: scaled.into_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(width: u32, height: u32, fit: Fit) -> Scale {
        Scale { width: Some(width), height: Some(height), fit }
    }

    #[test]
    fn the_box_bounds_the_size_and_nothing_is_enlarged() {
        assert_eq!(boxed(640, 640, Fit::Contain).size_for(1280, 720), (640, 360));
        assert_eq!(boxed(640, 640, Fit::Cover).size_for(1280, 720), (640, 640));
        assert_eq!(boxed(4000, 4000, Fit::Contain).size_for(1280, 720), (1280, 720));
        assert_eq!(boxed(4000, 4000, Fit::Cover).size_for(1280, 720), (720, 720));
        assert_eq!(Scale { width: Some(320), ..Scale::default() }.size_for(1280, 720), (320, 180));
        assert_eq!(Scale { height: Some(1), ..Scale::default() }.size_for(16, 720), (1, 1));
        assert_eq!(boxed(0, 10, Fit::Contain).check(), Err(ScaleError::Box));
        assert_eq!(boxed(10, SIDE_MAX + 1, Fit::Cover).check(), Err(ScaleError::Box));
    }

    /// Left half red, middle third of the height brighter: enough to see what was cut and what was squeezed.
    fn halves(width: u32, height: u32) -> RgbPicture {
        let pixel = |x: u32| if x < width / 2 { [200, 0, 0] } else { [0, 0, 200] };
        let rgb = (0..height).flat_map(|_| (0..width).flat_map(pixel)).collect();
        RgbPicture { width, height, rgb }
    }

    #[test]
    fn cover_cuts_both_sides_evenly_and_contain_keeps_all() {
        for fit in [Fit::Contain, Fit::Cover] {
            let scaled = boxed(60, 60, fit).apply(halves(240, 120)).unwrap();
            let row = &scaled.rgb[..3 * scaled.width as usize];
            let red = row.chunks(3).filter(|pixel| pixel[0] > pixel[2]).count();
            assert_eq!(red, scaled.width as usize / 2, "{fit:?}");
            assert_eq!(scaled.height, if fit == Fit::Cover { 60 } else { 30 });
            assert_eq!(scaled.rgb.len(), 3 * (scaled.width * scaled.height) as usize);
        }
    }
}
