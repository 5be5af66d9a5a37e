//! Decoded pictures to upright RGB: the stream's own matrix and range, then its rotation.

use yuv::{YuvPlanarImage, YuvRange, YuvStandardMatrix, yuv420_to_rgb, yuv422_to_rgb};

use crate::media::picture::{ChromaSampling, RgbPicture, YuvPicture};
use crate::media::track::{Colour, Matrix, Rotation};

/// Converts a decoded picture: matrix and range as its parameters say, then rotated to stand upright.
///
/// Each chroma sample serves its four pixels (two in 4:2:2). The transfer characteristics are left as they are: like players and
/// browsers do for video, the numbers are taken for the display's own.
///
/// # Panics
/// When the planes do not have the sizes that [`YuvPicture`] promises.
#[must_use]
pub fn to_rgb(picture: &YuvPicture) -> RgbPicture {
    let (width, height) = (picture.params.width, picture.params.height);
    let chroma_stride = width.div_ceil(2);
    let image = YuvPlanarImage {
        y_plane: &picture.y,
        y_stride: width,
        u_plane: &picture.u,
        u_stride: chroma_stride,
        v_plane: &picture.v,
        v_stride: chroma_stride,
        width,
        height,
    };
    let (range, matrix) = standard(picture.params.colour);
    let mut rgb = vec![0; 3 * width as usize * height as usize];
    let convert = match picture.sampling {
        ChromaSampling::Yuv420 => yuv420_to_rgb,
        ChromaSampling::Yuv422 => yuv422_to_rgb,
    };
    convert(&image, &mut rgb, 3 * width, range, matrix).expect("planes are as large as promised");
    rotate(RgbPicture { width, height, rgb }, picture.params.rotation)
}

fn standard(colour: Colour) -> (YuvRange, YuvStandardMatrix) {
    let matrix = match colour.matrix {
        Matrix::Bt601 => YuvStandardMatrix::Bt601,
        Matrix::Bt709 => YuvStandardMatrix::Bt709,
        Matrix::Bt2020 => YuvStandardMatrix::Bt2020,
        // Red and blue weights of SMPTE 240M; the library's own entry for it gives a green cast.
        Matrix::Smpte240 => YuvStandardMatrix::Custom(0.212, 0.087),
        Matrix::Fcc => YuvStandardMatrix::Fcc,
    };
    (if colour.full_range { YuvRange::Full } else { YuvRange::Limited }, matrix)
}

/// Turns a picture clockwise.
#[must_use]
pub fn rotate(mut picture: RgbPicture, rotation: Rotation) -> RgbPicture {
    let (width, height) = (picture.width as usize, picture.height as usize);
    match rotation {
        Rotation::None => picture,
        Rotation::Cw180 => {
            let (pixels, _) = picture.rgb.as_chunks_mut::<3>();
            pixels.reverse();
            picture
        }
        Rotation::Cw90 => quarter_turn(&picture, |x, y| (height - 1 - x) * width + y),
        Rotation::Cw270 => quarter_turn(&picture, |x, y| x * width + (width - 1 - y)),
    }
}

/// A picture of swapped sides whose pixel (x, y) is the source's pixel `source(x, y)`. In squares, so that the rows of
/// one and the columns of the other stay in the cache.
fn quarter_turn(picture: &RgbPicture, source: impl Fn(usize, usize) -> usize) -> RgbPicture {
    let (width, height) = (picture.height as usize, picture.width as usize);
    let mut rgb = vec![0; picture.rgb.len()];
    let (from, _) = picture.rgb.as_chunks::<3>();
    let (to, _) = rgb.as_chunks_mut::<3>();
    for top in (0..height).step_by(SQUARE) {
        for left in (0..width).step_by(SQUARE) {
            for y in top..height.min(top + SQUARE) {
                for x in left..width.min(left + SQUARE) {
                    to[y * width + x] = from[source(x, y)];
                }
            }
        }
    }
    RgbPicture { width: picture.height, height: picture.width, rgb }
}

/// Side of the squares in which a picture is turned: 32 × 32 × 3 bytes twice fit into any first-level cache.
const SQUARE: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::Clock;
    use crate::media::track::{VideoCodec, VideoParams};

    fn flat(width: u32, height: u32, colour: Colour, yuv: [u8; 3]) -> YuvPicture {
        let params = VideoParams {
            codec: VideoCodec::H264 { sps: vec![], pps: vec![] },
            width,
            height,
            sample_aspect_ratio: (1, 1),
            colour,
            rotation: Rotation::None,
        };
        let chroma = (width.div_ceil(2) * height.div_ceil(2)) as usize;
        YuvPicture {
            seq: 0,
            arrived: Clock::manual().now(),
            params: Arc::new(params),
            sampling: ChromaSampling::Yuv420,
            y: vec![yuv[0]; (width * height) as usize],
            u: vec![yuv[1]; chroma],
            v: vec![yuv[2]; chroma],
        }
    }

    #[test]
    fn red_is_red_in_every_matrix_and_range() {
        // What each standard's own equations make of full red, (255, 0, 0).
        let cases = [
            (Matrix::Bt601, false, [81, 90, 240]),
            (Matrix::Bt601, true, [76, 85, 255]),
            (Matrix::Bt709, false, [63, 102, 240]),
            (Matrix::Bt709, true, [54, 99, 255]),
            (Matrix::Bt2020, false, [74, 97, 240]),
            (Matrix::Smpte240, false, [62, 102, 240]),
            (Matrix::Fcc, false, [82, 90, 240]),
        ];
        for (matrix, full_range, yuv) in cases {
            // 38 × 6: not a multiple of any vector width, and three rows of chroma.
            let rgb = to_rgb(&flat(38, 6, Colour { matrix, full_range }, yuv));
            for pixel in rgb.rgb.chunks(3) {
                let off = pixel.iter().zip([255_i32, 0, 0]).map(|(got, want)| (i32::from(*got) - want).abs());
                assert!(off.max().unwrap() <= 3, "{matrix:?} full range {full_range}: {pixel:?}");
            }
        }
    }

    #[test]
    fn odd_sizes_are_converted_to_the_last_pixel() {
        let rgb = to_rgb(&flat(7, 5, Colour::unsaid(7, 5), [235, 128, 128]));
        assert_eq!((rgb.width, rgb.height, rgb.rgb.len()), (7, 5, 105));
        assert!(rgb.rgb.iter().all(|sample| *sample >= 254));
    }

    #[test]
    fn quarter_turns_move_each_pixel_to_its_place() {
        // Larger than a square and not a multiple of it; each pixel says where it came from.
        let (width, height) = (70_u32, 45_u32);
        let rgb: Vec<u8> =
            (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 9])).collect();
        let picture = RgbPicture { width, height, rgb };
        let at = |picture: &RgbPicture, x: u32, y: u32| {
            let at = 3 * (y * picture.width + x) as usize;
            (u32::from(picture.rgb[at]), u32::from(picture.rgb[at + 1]))
        };
        let right = rotate(picture.clone(), Rotation::Cw90);
        let down = rotate(picture.clone(), Rotation::Cw180);
        let left = rotate(picture.clone(), Rotation::Cw270);
        assert_eq!((right.width, right.height, left.width, left.height), (45, 70, 45, 70));
        for (x, y) in [(0, 0), (69, 0), (0, 44), (69, 44), (33, 31)] {
            assert_eq!(
                at(&right, height - 1 - y, x),
                (x, y),
                "clockwise: the top row becomes the right column"
            );
            assert_eq!(at(&down, width - 1 - x, height - 1 - y), (x, y));
            assert_eq!(at(&left, y, width - 1 - x), (x, y));
        }
    }
}
