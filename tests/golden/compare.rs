//! A snapshot beside ffmpeg's picture of the same frame.

use stillcast::services::snapshot::Snapshot;
use stillcast::services::test_card::read_number;

use crate::make::{Frame, Stream};

/// Least likeness, in dB.
const PSNR_MIN: f64 = 40.0;
/// Largest mean difference, of 255.
const MEAN_MAX: f64 = 1.5;

/// Whether a snapshot shows exactly this frame; otherwise what is wrong.
pub(crate) fn with_frame(snapshot: &Snapshot, stream: &Stream, frame: Frame) -> Result<(), String> {
    png_with_frame(&snapshot.png, stream, frame)
}

/// As [`with_frame`], of a PNG file.
pub(crate) fn png_with_frame(png: &[u8], stream: &Stream, frame: Frame) -> Result<(), String> {
    let (width, height, rgb) = decode(png);
    let ((expected_width, expected_height), expected) = stream.expected(frame);
    if (width, height) != (expected_width, expected_height) {
        return Err(format!("{width}x{height} instead of {expected_width}x{expected_height}"));
    }
    let shown = read_number(&rgb, width, height);
    let wanted = read_number(&expected, width, height);
    if shown != wanted || wanted.is_none() {
        return Err(format!("frame {shown:?} instead of {wanted:?} ({frame:?})"));
    }
    let (psnr, mean) = difference(&rgb, &expected);
    if psnr < PSNR_MIN || mean > MEAN_MAX {
        return Err(format!("frame {shown:?}: PSNR {psnr:.1} dB, mean difference {mean:.2}"));
    }
    Ok(())
}

/// PSNR in dB and mean difference of 255.
fn difference(ours: &[u8], theirs: &[u8]) -> (f64, f64) {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| u64::from(a.abs_diff(*b)));
    let (sum, squares) = differences.fold((0, 0), |(sum, squares), d| (sum + d, squares + d * d));
    let samples = ours.len() as f64;
    (10.0 * (255.0 * 255.0 / (squares as f64 / samples)).log10(), sum as f64 / samples)
}

fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    rgb.truncate(info.buffer_size());
    (info.width, info.height, rgb)
}
