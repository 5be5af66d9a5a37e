//! Planes of a decoded picture in the size that is encoded.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::media::picture::{ChromaSampling, YuvPicture};
use crate::services::encode::I420Planes;

/// Scales pictures, and keeps the room for the outcome.
#[derive(Default)]
pub(super) struct Scaler {
    resizer: Resizer,
    /// Luma, blue and red difference.
    planes: [Vec<u8>; 3],
}

/// The library refused a size: the planes are not those of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("picture cannot be scaled")]
pub(super) struct ScaleError;

impl Scaler {
    /// The picture in planes of 4:2:0 for `width` × `height`. A picture of that very form is not copied; one that is one row or
    /// column larger loses it; of any other, pixels that fall together are averaged.
    ///
    /// # Errors
    /// When the picture's planes are not as large as it says.
    pub(super) fn scale<'a>(
        &'a mut self,
        picture: &'a YuvPicture,
        width: u32,
        height: u32,
    ) -> Result<I420Planes<'a>, ScaleError> {
        let from = (picture.params.width, picture.params.height);
        if from == (width, height) && picture.sampling == ChromaSampling::Yuv420 {
            return Ok(I420Planes { width, height, y: &picture.y, u: &picture.u, v: &picture.v });
        }
        let chroma_rows = picture.sampling.rows(from.1 as usize) as u32;
        let (luma, chroma) = (from, (from.0.div_ceil(2), chroma_rows));
        let half = (width.div_ceil(2), height.div_ceil(2));
        let Self { resizer, planes: [y, u, v] } = self;
        resize(resizer, &picture.y, luma, y, (width, height))?;
        resize(resizer, &picture.u, chroma, u, half)?;
        resize(resizer, &picture.v, chroma, v, half)?;
        Ok(I420Planes { width, height, y, u, v })
    }
}

fn resize(
    resizer: &mut Resizer,
    from: &[u8],
    (from_width, from_height): (u32, u32),
    to: &mut Vec<u8>,
    (width, height): (u32, u32),
) -> Result<(), ScaleError> {
    let source = ImageRef::new(from_width, from_height, from, PixelType::U8).map_err(|_| ScaleError)?;
    to.resize(width as usize * height as usize, 0);
    let mut scaled = Image::from_slice_u8(width, height, to, PixelType::U8).map_err(|_| ScaleError)?;
    let side = |from: u32, to: u32| if from == to + 1 { f64::from(to) } else { f64::from(from) };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
        .crop(0.0, 0.0, side(from_width, width), side(from_height, height));
    resizer.resize(&source, &mut scaled, &options).map_err(|_| ScaleError)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::media::track::VideoParams;
    use crate::services::transcode::tests::small_unit;

    /// A picture whose left half is dark and whose right half is bright, blue above and red below.
    fn halves(width: u32, height: u32, sampling: ChromaSampling) -> YuvPicture {
        let unit = small_unit();
        let params = VideoParams { width, height, ..(*unit.params).clone() };
        let rows = sampling.rows(height as usize) as u32;
        let luma = |x: u32| if x < width / 2 { 40 } else { 200 };
        let upper = |y: u32, above: u8, below: u8| if y < rows / 2 { above } else { below };
        let chroma = |above: u8, below: u8| {
            let row = move |y: u32| std::iter::repeat_n(upper(y, above, below), width.div_ceil(2) as usize);
            (0..rows).flat_map(row).collect::<Vec<u8>>()
        };
        YuvPicture {
            seq: 0,
            arrived: unit.arrived,
            params: Arc::new(params),
            sampling,
            y: (0..height).flat_map(|_| (0..width).map(luma)).collect(),
            u: chroma(220, 90),
            v: chroma(90, 220),
        }
    }

    #[test]
    fn every_plane_is_scaled_and_both_samplings_become_one() {
        for sampling in [ChromaSampling::Yuv420, ChromaSampling::Yuv422] {
            let picture = halves(128, 64, sampling);
            let mut scaler = Scaler::default();
            let scaled = scaler.scale(&picture, 64, 32).unwrap();
            assert_eq!((scaled.y.len(), scaled.u.len(), scaled.v.len()), (64 * 32, 32 * 16, 32 * 16));
            assert_eq!((scaled.y[20], scaled.y[44]), (40, 200), "{sampling:?}");
            assert_eq!((scaled.u[32 * 3], scaled.u[32 * 12]), (220, 90), "{sampling:?}");
            assert_eq!((scaled.v[32 * 3], scaled.v[32 * 12]), (90, 220), "{sampling:?}");
        }
    }

    #[test]
    fn a_picture_of_the_same_size_stays_as_it_is_and_an_odd_one_loses_its_last_row_and_column() {
        let picture = halves(64, 32, ChromaSampling::Yuv420);
        let mut scaler = Scaler::default();
        assert_eq!(scaler.scale(&picture, 64, 32).unwrap().y.as_ptr(), picture.y.as_ptr());
        let mut odd = halves(65, 33, ChromaSampling::Yuv420);
        odd.y.iter_mut().enumerate().for_each(|(at, sample)| *sample = (at % 65) as u8);
        let cropped = scaler.scale(&odd, 64, 32).unwrap();
        assert!(cropped.y.chunks(64).all(|row| row.iter().enumerate().all(|(x, y)| *y == x as u8)));
    }

    #[test]
    fn planes_that_are_too_short_are_an_error() {
        let mut picture = halves(64, 32, ChromaSampling::Yuv420);
        picture.u.pop();
        assert!(Scaler::default().scale(&picture, 32, 16).is_err());
    }
}
