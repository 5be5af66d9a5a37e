//! RGB pictures to PNG, with what is known of them: the one door to the PNG library.

use std::time::{Duration, SystemTime};

use png::chunk::ChunkType;
use png::{BitDepth, ColorType, DeflateCompression, Filter, PixelDimensions, Unit};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::media::picture::RgbPicture;

/// What a PNG tells of its picture beside the pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PngText<'a> {
    /// The stream that it shows (`Title`).
    pub stream_name: &'a str,
    /// Where it comes from.
    pub origin: Origin,
    /// Width : height of one pixel; other than 1:1 it is told as `pHYs`.
    pub sample_aspect_ratio: (u16, u16),
}

/// Where a picture comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A stream.
    Stream {
        /// When the picture's first byte reached the server (`Creation Time`, and `tIME` in whole seconds, both in UTC).
        captured: SystemTime,
        /// The publication that it belongs to (`Stream Epoch`).
        epoch: u64,
    },
    /// A file, which does not tell when its pictures were taken.
    File {
        /// From which moment on it is shown, from the beginning of the file (`File Time`, in seconds).
        at: Duration,
    },
}

/// Why a picture did not become a PNG.
#[derive(Debug, thiserror::Error)]
#[error("PNG cannot be written")]
pub struct PngError(#[from] png::EncodingError);

/// `Software` in every picture.
const SOFTWARE: &str = concat!("Stillcast ", env!("CARGO_PKG_VERSION"));

/// Writes a PNG (ISO/IEC 15948): 8-bit RGB, not interlaced.
///
/// Compression and filter were chosen by measuring (`docs/BENCHMARKS.md`). With this compression, Paeth gives camera pictures
/// the smallest files; the one quicker filter (Up) saves a sixth of the time and costs a fifth of the size. Drawn pictures
/// take a quarter of a millisecond more than with Up, and a quarter of the size. Level 1 takes three times as long for
/// files of about the same size, level 6 some forty times for a tenth less; no compression makes them four times as large.
///
/// # Errors
/// When the picture has no pixels, or not as many bytes as its size needs.
pub fn encode(picture: &RgbPicture, text: &PngText<'_>) -> Result<Vec<u8>, PngError> {
    // Camera pictures take about a byte a pixel; a buffer that has to grow is copied.
    let mut png = Vec::with_capacity(picture.rgb.len() / 2);
    let mut encoder = png::Encoder::new(&mut png, picture.width, picture.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(Filter::Paeth);
    if text.sample_aspect_ratio.0 != text.sample_aspect_ratio.1 {
        // A pixel of w : h has h pixels across where it has w down.
        let (across, down) = text.sample_aspect_ratio;
        let unit = Unit::Unspecified;
        let dims = PixelDimensions { xppu: u32::from(down), yppu: u32::from(across), unit };
        encoder.set_pixel_dims(Some(dims));
    }
    let mut add = |keyword: &str, value: &str| {
        // tEXt holds Latin-1 only (ISO/IEC 15948 11.3.4.3), which does not include control characters.
        if value.chars().all(|c| matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}')) {
            encoder.add_text_chunk(keyword.to_owned(), value.to_owned())
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), value.to_owned())
        }
    };
    add("Title", text.stream_name)?;
    let taken = match text.origin {
        Origin::Stream { captured, epoch } => {
            add("Creation Time", &rfc3339_ms(captured))?;
            add("Stream Epoch", &epoch.to_string())?;
            modification_time(captured)
        }
        Origin::File { at } => {
            add("File Time", &seconds(at))?;
            None
        }
    };
    add("Software", SOFTWARE)?;
    let mut writer = encoder.write_header()?;
    if let Some(time) = taken {
        writer.write_chunk(ChunkType(*b"tIME"), &time)?;
    }
    writer.write_image_data(&picture.rgb)?;
    writer.finish()?;
    Ok(png)
}

/// A time in seconds with milliseconds: `12.480`. Rounded up, so that it lies within what begins then.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let ms = time.as_nanos().div_ceil(1_000_000);
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A moment in UTC as RFC 3339 writes it, with milliseconds: `2026-03-01T12:00:00.250Z`.
#[must_use]
pub fn rfc3339_ms(moment: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(moment).format(&format).unwrap_or_default()
}

/// Seven bytes of `tIME` (ISO/IEC 15948 11.3.6.1), in UTC; `None` outside the years that it can hold.
fn modification_time(moment: SystemTime) -> Option<[u8; 7]> {
    let moment = OffsetDateTime::from(moment);
    let [high, low] = u16::try_from(moment.year()).ok()?.to_be_bytes();
    let (month, day) = (u8::from(moment.month()), moment.day());
    Some([high, low, month, day, moment.hour(), moment.minute(), moment.second()])
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;
    use std::time::UNIX_EPOCH;

    use super::*;

    /// Width, height and pixels of a PNG of 8-bit RGB.
    pub(crate) fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut rgb).unwrap();
        assert_eq!(frame.color_type, ColorType::Rgb);
        (frame.width, frame.height, rgb)
    }

    fn picture() -> RgbPicture {
        RgbPicture { width: 5, height: 3, rgb: (0..45).map(|n| n * 5).collect() }
    }

    fn text(stream_name: &str) -> PngText<'_> {
        let captured = UNIX_EPOCH + Duration::from_millis(1_772_366_400_250);
        let origin = Origin::Stream { captured, epoch: 1_772_366_000_001 };
        PngText { stream_name, origin, sample_aspect_ratio: (64, 45) }
    }

    #[test]
    fn pixels_and_facts_come_back() {
        let png = encode(&picture(), &text("Kamera Süd")).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(&png)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, picture().rgb);
        let info = reader.info();
        let texts: Vec<_> =
            info.uncompressed_latin1_text.iter().map(|t| (t.keyword.as_str(), t.text.as_str())).collect();
        assert!(texts.contains(&("Title", "Kamera Süd")), "{texts:?}");
        assert!(texts.contains(&("Creation Time", "2026-03-01T12:00:00.250Z")));
        assert!(texts.contains(&("Stream Epoch", "1772366000001")));
        assert!(texts.iter().any(|(keyword, text)| *keyword == "Software" && text.starts_with("Stillcast ")));
        let dims = info.pixel_dims.unwrap();
        assert_eq!((dims.xppu, dims.yppu), (45, 64), "wide pixels: fewer of them across");
        let at = png.windows(4).position(|bytes| bytes == b"tIME").unwrap();
        assert_eq!(png[at + 4..at + 11], [0x07, 0xea, 3, 1, 12, 0, 0]);
    }

    #[test]
    fn a_picture_of_a_file_tells_its_moment_and_no_time_of_taking() {
        let origin = Origin::File { at: Duration::from_micros(12_480_001) };
        let png = encode(&picture(), &PngText { origin, ..text("a/film.mp4") }).unwrap();
        let reader = png::Decoder::new(Cursor::new(&png)).read_info().unwrap();
        let texts: Vec<_> = reader
            .info()
            .uncompressed_latin1_text
            .iter()
            .map(|t| (t.keyword.as_str(), t.text.as_str()))
            .collect();
        assert!(texts.contains(&("File Time", "12.481")), "{texts:?}");
        assert!(texts.iter().all(|(keyword, _)| *keyword != "Creation Time"));
        assert!(!png.windows(4).any(|bytes| bytes == b"tIME"));
    }

    #[test]
    fn a_name_that_latin_1_cannot_hold_is_utf_8() {
        let png = encode(&picture(), &text("Камера 1")).unwrap();
        let reader = png::Decoder::new(Cursor::new(&png)).read_info().unwrap();
        let title = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == "Title").unwrap();
        assert_eq!(title.get_text().unwrap(), "Камера 1");
    }

    #[test]
    fn milliseconds_have_three_digits_always() {
        assert_eq!(rfc3339_ms(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_ms(UNIX_EPOCH + Duration::from_micros(40_999)), "1970-01-01T00:00:00.040Z");
    }
}
