//! What the card looks like, and how its number is read back from a decoded picture.
//!
//! From the top: eight colour bars, a grey ramp, a panel with number and clock, a ball on a track, and two rows of
//! blocks that spell the number for machines. All places are fractions of the picture, so that a scaled card reads
//! as well as the original.

use std::time::SystemTime;

use time::OffsetDateTime;

use super::font::{GLYPH_ADVANCE, GLYPH_HEIGHT, GLYPH_WIDTH, glyph};
use super::{CardError, SIZE_MIN};
use crate::media::track::{Colour, Matrix};

/// The colour bars from the left, as R, G, B: 75 % bars as in EBU and SMPTE test pictures, white first, black last.
pub const BARS: [[u8; 3]; 8] = [
    [191, 191, 191],
    [191, 191, 0],
    [0, 191, 191],
    [0, 191, 0],
    [191, 0, 191],
    [191, 0, 0],
    [0, 0, 191],
    [0, 0, 0],
];

/// A picture before encoding: luma, and chroma halved both ways (rounded up), rows without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I420 {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Luma: height rows of width samples.
    pub y: Vec<u8>,
    /// Blue difference: (height + 1) / 2 rows of (width + 1) / 2 samples.
    pub u: Vec<u8>,
    /// Red difference, likewise.
    pub v: Vec<u8>,
}

/// Draws the card at one size. The part that stands still is drawn once.
#[derive(Clone, Debug)]
pub struct TestCard {
    still: I420,
    picture: I420,
    colour: Colour,
}

/// Lower edges of the parts, in 720ths of the height. Multiples of 60 and of 2 keep common sizes on even rows.
const BARS_BOTTOM: u32 = 216;
const RAMP_BOTTOM: u32 = 256;
const PANEL_BOTTOM: u32 = 560;
const TRACK_BOTTOM: u32 = 600;
const PARTS: u32 = 720;

/// Steps of the grey ramp.
const RAMP_STEPS: u32 = 16;
/// Blocks: 48 bits, 32 of number and 16 of check.
const BLOCK_ROWS: u32 = 2;
const BLOCK_COLUMNS: u32 = 24;
/// Frames in which the ball goes there and back.
const BALL_PERIOD: u32 = 240;

const PANEL_RGB: [u8; 3] = [26, 30, 38];
const TRACK_RGB: [u8; 3] = [44, 50, 62];
const BALL_RGB: [u8; 3] = [255, 176, 64];
const TEXT_GREY: u8 = 240;
const CAPTION_GREY: u8 = 150;
const BLOCK_OFF_GREY: u8 = 24;
const BLOCK_ON_GREY: u8 = 232;
/// A block whose mean grey lies between these is unreadable.
const BLOCK_DOUBT: std::ops::RangeInclusive<u32> = 96..=160;

impl TestCard {
    /// A card of this size in pixels, its samples in this matrix and range.
    ///
    /// # Errors
    /// When it is smaller than [`SIZE_MIN`] (either way up) or larger than 16384 pixels a side.
    pub fn new(width: u32, height: u32, colour: Colour) -> Result<Self, CardError> {
        let (long, short) = (width.max(height), width.min(height));
        if long < SIZE_MIN.0 || short < SIZE_MIN.1 || long > 16384 {
            return Err(CardError::Size { width, height });
        }
        let samples = width as usize * height as usize;
        let chroma = width.div_ceil(2) as usize * height.div_ceil(2) as usize;
        let blank = I420 { width, height, y: vec![0; samples], u: vec![128; chroma], v: vec![128; chroma] };
        let mut card = Self { still: blank.clone(), picture: blank, colour };
        card.draw_still();
        Ok(card)
    }

    /// The card with this number and this time (shown in UTC with milliseconds).
    pub fn draw(&mut self, number: u32, wall: SystemTime) -> &I420 {
        self.picture.clone_from(&self.still);
        self.draw_texts(number, wall);
        self.draw_ball(number);
        self.draw_blocks(number);
        &self.picture
    }

    /// The matrix and range of its samples.
    #[must_use]
    pub fn colour(&self) -> Colour {
        self.colour
    }

    fn draw_still(&mut self) {
        let (width, height) = (self.still.width, self.still.height);
        let row = |part: u32| row(part, height);
        let still = &mut self.still;
        for (index, rgb) in (0_u32..).zip(BARS) {
            let columns = (column(index, 8, width), column(index + 1, 8, width));
            fill(still, columns, (0, row(BARS_BOTTOM)), sample(rgb, self.colour));
        }
        for step in 0..RAMP_STEPS {
            let columns = (column(step, RAMP_STEPS, width), column(step + 1, RAMP_STEPS, width));
            let grey = (step * 255 / (RAMP_STEPS - 1)) as u8;
            fill(still, columns, (row(BARS_BOTTOM), row(RAMP_BOTTOM)), sample([grey; 3], self.colour));
        }
        let all = (0, width);
        fill(still, all, (row(RAMP_BOTTOM), row(PANEL_BOTTOM)), sample(PANEL_RGB, self.colour));
        fill(still, all, (row(PANEL_BOTTOM), row(TRACK_BOTTOM)), sample(TRACK_RGB, self.colour));
        fill(still, all, (row(TRACK_BOTTOM), height), sample([BLOCK_OFF_GREY; 3], self.colour));
    }

    fn draw_texts(&mut self, number: u32, wall: SystemTime) {
        let (width, height) = (self.picture.width, self.picture.height);
        let (top, bottom) = (row(RAMP_BOTTOM, height), row(PANEL_BOTTOM, height));
        let time = OffsetDateTime::from(wall);
        let clock = format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond()
        );
        let caption = format!("STILLCAST {width}x{height}");
        // The sizes of letters depend on the longest text that may come, so that nothing jumps.
        let dots = |text_signs: u32, share_of_panel: u32| {
            let across = width * 15 / 16 / (text_signs * GLYPH_ADVANCE);
            let down = (bottom - top) * share_of_panel / 100 / GLYPH_HEIGHT;
            across.min(down).max(1)
        };
        let sizes = [dots(36, 14), dots(10, 46), dots(25, 20)];
        let texts = [caption, format!("{number:06}"), clock];
        let greys = [CAPTION_GREY, TEXT_GREY, TEXT_GREY];
        let used: u32 = sizes.iter().map(|dots| dots * GLYPH_HEIGHT).sum();
        let gap = (bottom - top).saturating_sub(used) / 4;
        let mut y = top + gap;
        for ((text, dots), grey) in texts.iter().zip(sizes).zip(greys) {
            let luma = sample([grey; 3], self.colour)[0];
            write_text(&mut self.picture, text, y, dots, luma);
            y += dots * GLYPH_HEIGHT + gap;
        }
    }

    fn draw_ball(&mut self, number: u32) {
        let (width, height) = (self.picture.width, self.picture.height);
        let (top, bottom) = (row(PANEL_BOTTOM, height), row(TRACK_BOTTOM, height));
        let radius = (bottom - top) / 2;
        let phase = number % BALL_PERIOD;
        let way = phase.min(BALL_PERIOD - phase);
        let centre = radius + (width - 2 * radius) * way / (BALL_PERIOD / 2);
        let ball = sample(BALL_RGB, self.colour);
        for line in 0..bottom - top {
            let down = f64::from(line) + 0.5 - f64::from(bottom - top) / 2.0;
            let half = (f64::from(radius).powi(2) - down.powi(2)).max(0.0).sqrt().round() as u32;
            let columns = (centre.saturating_sub(half), (centre + half).min(width));
            fill(&mut self.picture, columns, (top + line, top + line + 1), ball);
        }
    }

    fn draw_blocks(&mut self, number: u32) {
        let (width, height) = (self.picture.width, self.picture.height);
        let on = sample([BLOCK_ON_GREY; 3], self.colour)[0];
        let word = with_check(number);
        for index in 0..BLOCK_ROWS * BLOCK_COLUMNS {
            if word >> (BLOCK_ROWS * BLOCK_COLUMNS - 1 - index) & 1 == 1 {
                let (columns, rows) = block(index, width, height);
                for y in rows.0..rows.1 {
                    let start = (y * width + columns.0) as usize;
                    self.picture.y[start..start + (columns.1 - columns.0) as usize].fill(on);
                }
            }
        }
    }
}

/// The number that a card shows, from a decoded picture: 3 bytes a pixel (R, G, B), rows without padding, upright,
/// at any scale. `None` when there is no card, or it cannot be read with certainty: a wrong number is never given, save one
/// time in 65 536 pictures of noise.
#[must_use]
pub fn read_number(rgb: &[u8], width: u32, height: u32) -> Option<u32> {
    if width < 2 * BLOCK_COLUMNS || height < 24 || rgb.len() != width as usize * height as usize * 3 {
        return None;
    }
    let mut word = 0_u64;
    for index in 0..BLOCK_ROWS * BLOCK_COLUMNS {
        let (columns, rows) = block(index, width, height);
        // The middle half each way: the edges blur when coded and scaled.
        let middle = |(from, to): (u32, u32)| {
            let margin = (to - from) / 4;
            from + margin..to - margin
        };
        let (mut sum, mut pixels) = (0_u32, 0_u32);
        for y in middle(rows) {
            for x in middle(columns) {
                let at = (y as usize * width as usize + x as usize) * 3;
                let [r, g, b] = [rgb[at], rgb[at + 1], rgb[at + 2]].map(u32::from);
                sum += (2 * r + 5 * g + b) / 8;
                pixels += 1;
            }
        }
        let grey = sum / pixels.max(1);
        if BLOCK_DOUBT.contains(&grey) {
            return None;
        }
        word = word << 1 | u64::from(grey > *BLOCK_DOUBT.end());
    }
    let number = (word >> 16) as u32;
    (with_check(number) == word).then_some(number)
}

/// The middle of a colour bar (0–7, from the left) in a card of this size, as x and y in pixels.
#[must_use]
pub fn bar_centre(index: u32, width: u32, height: u32) -> (u32, u32) {
    let x = u64::from(width) * (2 * u64::from(index.min(7)) + 1) / 16;
    (x as u32, row(BARS_BOTTOM, height) / 2)
}

fn row(part: u32, height: u32) -> u32 {
    (u64::from(part) * u64::from(height) / u64::from(PARTS)) as u32
}

fn column(index: u32, columns: u32, width: u32) -> u32 {
    (u64::from(index) * u64::from(width) / u64::from(columns)) as u32
}

/// Columns and rows of one block.
fn block(index: u32, width: u32, height: u32) -> ((u32, u32), (u32, u32)) {
    let (line, place) = (index / BLOCK_COLUMNS, index % BLOCK_COLUMNS);
    let half = (PARTS - TRACK_BOTTOM) / BLOCK_ROWS;
    let top = TRACK_BOTTOM + line * half;
    (
        (column(place, BLOCK_COLUMNS, width), column(place + 1, BLOCK_COLUMNS, width)),
        (row(top, height), row(top + half, height)),
    )
}

/// 32 bits of number, then 16 bits of check: CRC-16 with the polynomial of ITU-T V.41, begun with ones, so that
/// neither an empty nor a full row reads as a number.
fn with_check(number: u32) -> u64 {
    let mut crc = 0xffff_u16;
    for byte in number.to_be_bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    u64::from(number) << 16 | u64::from(crc)
}

/// Fills a rectangle (from inclusive, to exclusive). A chroma sample belongs to the rectangle that holds its upper
/// left pixel.
fn fill(picture: &mut I420, columns: (u32, u32), rows: (u32, u32), [y, u, v]: [u8; 3]) {
    let width = picture.width as usize;
    let (left, right) = (columns.0 as usize, columns.1 as usize);
    for line in rows.0 as usize..rows.1 as usize {
        picture.y[line * width + left..line * width + right].fill(y);
        if line % 2 == 0 {
            let start = line / 2 * width.div_ceil(2);
            let chroma = start + left.div_ceil(2)..start + right.div_ceil(2);
            picture.u[chroma.clone()].fill(u);
            picture.v[chroma].fill(v);
        }
    }
}

/// Writes one centred line in luma alone: letters are grey on a nearly grey ground.
fn write_text(picture: &mut I420, text: &str, top: u32, dots: u32, luma: u8) {
    let signs = text.chars().count() as u32;
    let across = (signs * GLYPH_ADVANCE - 1) * dots;
    let left = picture.width.saturating_sub(across) / 2;
    for (place, sign) in (0_u32..).zip(text.chars()) {
        let x = left + place * GLYPH_ADVANCE * dots;
        for (line, bits) in (0_u32..).zip(glyph(sign)) {
            for dot in (0..GLYPH_WIDTH).filter(|dot| bits >> (GLYPH_WIDTH - 1 - dot) & 1 == 1) {
                let (from, to) = (x + dot * dots, (x + (dot + 1) * dots).min(picture.width));
                for y in top + line * dots..(top + (line + 1) * dots).min(picture.height) {
                    let start = (y * picture.width) as usize;
                    picture.y[start + from.min(to) as usize..start + to as usize].fill(luma);
                }
            }
        }
    }
}

/// An RGB colour as Y, Cb, Cr (H.264 annex E, equations E-3 to E-15).
fn sample(rgb: [u8; 3], colour: Colour) -> [u8; 3] {
    let (kr, kb) = match colour.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
        Matrix::Smpte240 => (0.212, 0.087),
        Matrix::Fcc => (0.30, 0.11),
    };
    let [r, g, b] = rgb.map(|value| f64::from(value) / 255.0);
    let luma = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (blue, red) = ((b - luma) / (2.0 * (1.0 - kb)), (r - luma) / (2.0 * (1.0 - kr)));
    let (luma_span, foot, chroma_span) =
        if colour.full_range { (255.0, 0.0, 255.0) } else { (219.0, 16.0, 224.0) };
    [foot + luma_span * luma, 128.0 + chroma_span * blue, 128.0 + chroma_span * red]
        .map(|value| value.round().clamp(0.0, 255.0) as u8)
}
